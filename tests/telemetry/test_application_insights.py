"""The telemetry of the app, as it arrives at the ingestion endpoint of Application Insights."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import cost
from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend
from tests.secrecy import planted
from tests.telemetry.ingestion_double import IngestionDouble, Item
from tests.waiting import PATIENCE_S, eventually

# No export happens on its own during a test: only the timer functions flush.
ONLY_WHEN_FLUSHED = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "600000",
}
ONLY_THE_APP = {
    f"APPLICATIONINSIGHTS_{name}": "true"
    for name in (
        "STATSBEAT_DISABLED_ALL",
        "SDKSTATS_DISABLED",
        "CONTROLPLANE_DISABLED",
        "OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
    )
}
SUBMIT, REPORT, DELIVERY = "POST /api/v1/submit/{*path}", "POST /api/CacheConnectorUpsert", "POST /api/BackendWebhook"
"""The requests of a task, as Application Insights names them: by method and route."""
FUNCTIONS_OF_A_TASK = (SUBMIT, DELIVERY, REPORT)
QUEUE_GAUGES = ("queue.oldest_wait_s", "queue.in_flight", "queue.slots", "queue.limit", "queue.paused")
REDIS_PASSWORD = planted("redis-password")


@dataclass(frozen=True)
class Observed:
    """A stack, the telemetry that it has sent, and a client of it."""

    stack: Stack
    insights: IngestionDouble
    redis: RedisServer
    backbone: Backbone
    spool: Path

    def flush(self) -> None:
        """Run the two timers, each of which flushes."""
        self.stack.run_function("TaskQueueLogger")
        self.stack.run_function("TaskProcessLogger")

    def flushed_until(self, condition: Callable[[], object]) -> None:
        """Flush until *condition* is true, since the app may still be at work during the first flush."""

        def flushed() -> object:
            if not (value := condition()):
                self.flush()
            return value

        eventually(flushed, every_s=0.5)

    def events(self, task_id: str) -> list[Item]:
        """The custom events of a task, in the order in which they were sent."""
        return [event for event in self.insights.items("Event") if event.properties.get("task.id") == task_id]


@pytest.fixture(scope="module")
def observed(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Observed]:
    spool = tmp_path_factory.mktemp("spool")
    with (
        IngestionDouble() as insights,
        RedisServer(tmp_path_factory.mktemp("redis"), password=REDIS_PASSWORD) as redis,
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url, "/v1/test/brief": {"url": backend.url, "lease_s": 1}},
            with_model=False,
            settings={
                **IN_A_HURRY,
                **ONLY_WHEN_FLUSHED,
                **ONLY_THE_APP,
                "OTEL_TRACES_SAMPLER": "always_on",
                "APPLICATIONINSIGHTS_CONNECTION_STRING": insights.connection_string,
                "TMPDIR": str(spool),
            },
        ) as stack,
        stack.client() as http,
    ):
        yield Observed(stack, insights, redis, Backbone(http), spool)


def test_a_task_is_one_operation_from_its_submit_to_its_last_report(
    observed: Observed, backend: ScriptedBackend
) -> None:
    path = "/v1/test/traced"
    operation_id, caller_id, task_id = _submit_in_a_trace(observed, path)
    call = backend.next_call(path)
    _update(observed, task_id, "running", {"traceparent": call.headers["traceparent"]})
    _update(observed, task_id, "completed", {})
    observed.flush()

    spans = _spans_once_arrived(
        observed,
        operation_id,
        {SUBMIT, "publish", "dispatch", f"POST {path}", REPORT, "update completed"},
    )
    [submit], [publish], [dispatch] = spans[SUBMIT], spans["publish"], spans["dispatch"]
    [post], [update], [legacy_update] = (
        spans[f"POST {path}"],
        spans[REPORT],
        spans["update completed"],
    )
    assert submit.parent_id == caller_id
    assert publish.parent_id == submit.id
    assert dispatch.parent_id == publish.id, "the event carried the context"
    assert post.parent_id == dispatch.id
    assert call.headers["traceparent"] == f"00-{operation_id}-{post.id}-01"
    assert update.parent_id == post.id, "the report of a model service that passes the context on"
    assert legacy_update.parent_id == submit.id, (
        "the report of one that does not: the context comes from the task's record"
    )
    for span in (submit, publish, dispatch, post, update, legacy_update):
        assert span.properties["task.id"] == task_id

    requests = {request.id: request for request in observed.insights.items("Request")}
    [delivery] = json.loads(dispatch.properties["_MS.links"])
    assert requests[delivery["id"]].name == DELIVERY, "the delivery's own trace is linked"
    [client] = json.loads(legacy_update.properties["_MS.links"])
    assert requests[client["id"]].name == REPORT


def test_a_dispatch_by_the_reconciler_belongs_to_the_operation_of_the_submit(
    observed: Observed, backend: ScriptedBackend
) -> None:
    path = "/v1/test/traced-reconciled"
    observed.stack.set_faults({"loseDelivery": {"probability": 1}})
    operation_id, _, task_id = _submit_in_a_trace(observed, path)
    observed.stack.set_faults({})
    backend.next_call(path)
    _update(observed, task_id, "completed", {})
    observed.flush()

    spans = _spans_once_arrived(observed, operation_id, {SUBMIT, "publish", "dispatch"})
    [submit], [dispatch] = spans[SUBMIT], spans["dispatch"]
    assert len(spans["publish"]) >= 2
    assert {publish.parent_id for publish in spans["publish"]} == {submit.id}
    assert dispatch.parent_id == submit.id, "no event led to it"


def test_a_pipeline_of_two_endpoints_is_one_operation(observed: Observed, backend: ScriptedBackend) -> None:
    first, second = "/v1/test/traced-step/1", "/v1/test/traced-step/2"
    operation_id, _, task_id = _submit_in_a_trace(observed, first)
    backend.next_call(first)
    _update(observed, task_id, "created", {}, Endpoint=backend.url + second, PublishToGrid=True)
    call = backend.next_call(second)
    _update(observed, task_id, "completed", {})
    observed.flush()

    spans = _spans_once_arrived(observed, operation_id, {f"POST {first}", f"POST {second}"})
    assert call.headers["traceparent"].split("-")[1:3] == [operation_id, spans[f"POST {second}"][0].id]
    assert [dispatch.properties["task.attempt"] for dispatch in spans["dispatch"]] == ["1", "2"]


def test_each_transition_is_one_custom_event_in_the_tasks_operation(
    observed: Observed, backend: ScriptedBackend
) -> None:
    path, brief = "/v1/test/events", "/v1/test/brief/events"
    backend.script(path, Answer(503), Answer(500), Answer(200))
    operation_id, _, busy_id = _submit_in_a_trace(observed, path)
    while backend.next_call(path).attempt < 3:
        continue
    for _ in range(2):
        _update(observed, busy_id, "running", {})  # two reports, but only one transition
    _update(observed, busy_id, "completed", {})
    silent_id = observed.backbone.submit(brief)
    assert backend.next_call(brief).attempt == 1
    observed.backbone.heartbeat(silent_id, 1)  # without one, leases double
    observed.backbone.ended(silent_id)
    observed.flush()

    for task_id in (busy_id, silent_id):
        expected = observed.backbone.transitions(task_id)
        assert len(expected) > 6
        observed.flushed_until(lambda t=task_id, expected=expected: len(observed.events(t)) >= len(expected))
        events = observed.events(task_id)
        seen = [(event.properties["task.state"], int(event.properties["task.attempt"])) for event in events]
        assert seen == expected
        assert {event.name for event in events} == {"TaskStateChanged"}
        assert {event.properties["task.path"] for event in events} == {path if task_id == busy_id else brief}
    assert {event.operation_id for event in observed.events(busy_id)} == {operation_id}


def test_the_gauges_show_the_counts_in_redis(observed: Observed, backend: ScriptedBackend) -> None:
    path, cluster = "/v1/test/gauges", "aks-1"
    answers = {b"4": Answer(400), b"5": Answer(503, {"Retry-After": "3600"})}
    backend.react(path, lambda call: answers.get(call.body))
    task_ids: list[str] = []
    for number in range(6):
        task_ids.append(observed.backbone.submit(path, str(number).encode()))
        backend.next_call(path)
    for task_id, state in zip(task_ids, ("completed", "running", "running"), strict=False):
        _update(observed, task_id, state, {})
    observed.backbone.ended(task_ids[4])
    # A freed slot may have led to another attempt.
    observed.backbone.until(task_ids[5], lambda task: task["Attempt"] >= 2)
    for change in ({"IncrementBy": 5}, {"DecrementBy": 2}):
        report = {"ApiPath": path, "ServiceCluster": cluster, **change}
        observed.backbone.http.post("/api/CurrentProcessingUpsert", json=report).raise_for_status()

    observed.flush()

    depths = {"created": 1, "dispatched": 1, "running": 2, "completed": 1, "failed": 1, "cancelled": 0}
    observed.flushed_until(lambda: _gauge(observed.insights, "tasks.depth", path) == depths)
    observed.flushed_until(lambda: _gauge(observed.insights, "requests.current", path) == {cluster: 3})
    assert {metric.data["metrics"][0]["name"] for metric in observed.insights.items("Metric")} <= {
        "tasks.depth",
        "tasks.oldest_waiting_seconds",
        "requests.current",
        "queue.oldest_wait_s",
        "queue.in_flight",
        "queue.slots",
        "queue.limit",
        "queue.paused",
        "queue.waiting",
        "health.unavailable",
        "tasks.steps",
    }
    observed.backbone.complete(task_ids[3])


def test_the_gauges_of_a_queue_equal_what_the_api_answers(observed: Observed, backend: ScriptedBackend) -> None:
    path, never = "/v1/test/queue-gauges", "/v1/test/queue-gauges/never"
    task_ids = [observed.backbone.submit(path)]
    backend.next_call(path)
    settings = {"Limit": 1, "Paused": True}
    observed.backbone.http.patch(f"/api/v1/queues{path}", json=settings).raise_for_status()
    task_ids += [observed.backbone.submit(path) for _ in range(3)]

    def told() -> dict[str, float]:
        return {name: each for name in QUEUE_GAUGES for each in _gauge(observed.insights, name, path).values()}

    def shown() -> dict[str, Any]:
        return observed.backbone.http.get(f"/api/v1/queues{path}").raise_for_status().json()

    before = shown()
    observed.flush()
    observed.flushed_until(lambda: len(told()) == len(QUEUE_GAUGES))
    after, gauges = shown(), told()
    assert before["OldestWaitingSeconds"] <= gauges.pop("queue.oldest_wait_s") <= after["OldestWaitingSeconds"]
    assert gauges == {
        "queue.in_flight": after["InFlight"],
        "queue.slots": after["Slots"],
        "queue.limit": after["Limit"],
        "queue.paused": after["Paused"],
    }
    assert (after["InFlight"], after["Limit"], after["Paused"], after["Waiting"]) == (1, 1, True, 3)
    assert not any(_gauge(observed.insights, name, never) for name in QUEUE_GAUGES)

    observed.backbone.http.patch(f"/api/v1/queues{path}", json={"Limit": None, "Paused": False}).raise_for_status()
    for task_id in task_ids:
        observed.backbone.complete(task_id)
    observed.flush()
    observed.flushed_until(lambda: (told()["queue.in_flight"], told()["queue.paused"]) == (0, 0))
    assert shown()["InFlight"] == 0


def test_all_that_is_told_of_a_task_is_found_by_its_id(observed: Observed, backend: ScriptedBackend) -> None:
    path = "/v1/test/found"
    backend.script(path, Answer(503), Answer(500), Answer(400))
    operation_id, _, task_id = _submit_in_a_trace(observed, path)
    assert observed.backbone.ended(task_id)["BackendStatus"] == "failed"
    expected = observed.backbone.transitions(task_id)

    def found() -> list[Item]:
        """union * | where customDimensions["task.id"] == "…" """
        items = observed.insights.items()
        return [item for item in items if item.data.get("properties", {}).get("task.id") == task_id]

    def spans() -> list[Item]:
        return [item for item in found() if item.kind in ("Request", "RemoteDependency")]

    observed.flush()
    observed.flushed_until(lambda: len(observed.events(task_id)) >= len(expected))
    observed.flushed_until(lambda: {SUBMIT, "dispatch", f"POST {path}"} <= {span.name for span in spans()})

    assert {item.kind for item in found()} == {"Event", "Request", "RemoteDependency", "Message"}
    assert {span.operation_id for span in spans() if span.name in ("dispatch", SUBMIT)} == {operation_id}
    assert "GET /api/v1/tasks/{id}" in {span.name for span in spans()}, "also the requests that only ask for it"
    messages = [item.data["message"] for item in found() if item.kind == "Message"]
    for status in (503, 500, 400):
        assert any(text.endswith(f"the backend answered {status}") for text in messages), messages
    end = observed.events(task_id)[-1]
    assert (end.properties["task.state"], end.properties["task.reason"]) == ("failed", "rejected")
    assert end.properties["task.failures"] == "2", "503 is none"
    calls = [span for span in spans() if span.name == f"POST {path}"]
    assert {call.data["resultCode"] for call in calls} == {"503", "500", "400"}


def test_the_telemetry_of_a_task_is_what_the_cost_table_says(observed: Observed, backend: ScriptedBackend) -> None:
    path = "/v1/test/priced"
    operation_id, _, task_id = _submit_in_a_trace(observed, path)
    backend.next_call(path)
    reports = [secrets.token_hex(16) for _ in range(2)]
    for report_id, state in zip(reports, ("running", "completed"), strict=True):
        _update(observed, task_id, state, {"traceparent": f"00-{report_id}-{secrets.token_hex(8)}-01"})
    [dispatch] = _spans_once_arrived(observed, operation_id, {"dispatch", "update completed"})["dispatch"]
    [delivery] = json.loads(dispatch.properties["_MS.links"])
    operations = {operation_id, delivery["operation_Id"], *reports}

    def of_the_task() -> list[Item]:
        items = [item for item in observed.insights.items() if item.kind != "Metric"]
        return [item for item in items if item.operation_id in operations]

    observed.flushed_until(lambda: len(of_the_task()) >= cost.TASK_ITEMS)
    observed.flush()
    items = of_the_task()
    assert len(items) == cost.TASK_ITEMS, [(item.kind, item.name, item.size) for item in items]
    assert sum(item.size for item in items) == pytest.approx(cost.TASK_BYTES, rel=0.1)
    assert len([item for item in items if item.name in FUNCTIONS_OF_A_TASK]) == cost.TASK_REQUESTS
    events = [item for item in items if item.kind == "Event"]
    ends = [item for item in events if "task.reason" in item.properties]
    for setting, of_the_setting in (("all", events), ("ends", ends), ("none", [])):
        assert len(of_the_setting) == cost.TASK_EVENTS[setting]
        size = sum(item.size for item in of_the_setting)
        assert size == pytest.approx(cost.TASK_EVENT_BYTES[setting], rel=0.1)


def test_a_task_whose_dispatch_is_answered_with_the_result_costs_two_executions(
    observed: Observed, backend: ScriptedBackend
) -> None:
    path = "/v1/test/answered"
    backend.script(path, Answer(headers={"X-Task-Complete": ""}, body=b"a cat"))
    observed.flush()
    before = len(observed.insights.items("Request"))
    operation_id = secrets.token_hex(16)
    headers = {"Prefer": "wait=60", "traceparent": f"00-{operation_id}-{secrets.token_hex(8)}-01"}
    response = observed.backbone.http.post(f"/api/v1/submit{path}", content=b"x", headers=headers)
    task = response.json()
    assert (response.status_code, task["BackendStatus"], task["ResultSize"]) == (200, "completed", 5)
    _spans_once_arrived(observed, operation_id, {SUBMIT, "dispatch"})
    observed.flush()
    names = [request.name for request in observed.insights.items("Request")[before:]]
    of_the_task = sorted(name for name in names if name in (*FUNCTIONS_OF_A_TASK, "GET /api/v1/tasks/{id}"))
    assert of_the_task == [DELIVERY, SUBMIT]


def test_a_failed_request_is_recorded_as_failed_with_its_status(observed: Observed, backend: ScriptedBackend) -> None:
    path = "/v1/test/failing-request"
    backend.script(path, Answer(400))
    operation_id, _, task_id = _submit_in_a_trace(observed, path)
    observed.backbone.ended(task_id)
    caller = f"00-{operation_id}-{secrets.token_hex(8)}-01"
    assert _update(observed, task_id, "running", {"traceparent": caller}).status_code == 409
    observed.flush()

    spans = _spans_once_arrived(observed, operation_id, {SUBMIT, f"POST {path}", REPORT})
    [submit], [post], [update] = spans[SUBMIT], spans[f"POST {path}"], spans[REPORT]
    assert (submit.data["responseCode"], submit.data["success"]) == ("202", True)
    assert (post.data["resultCode"], post.data["success"]) == ("400", False)
    assert (update.data["responseCode"], update.data["success"]) == ("409", False)


def test_the_telemetry_contains_no_secret(observed: Observed, backend: ScriptedBackend, azurite: Azurite) -> None:
    path = "/v1/test/secretive"
    stack, http = observed.stack, observed.backbone.http
    body = b"the caller's body " * (INLINE_LIMIT_BYTES // 8)
    backend.script(path, Answer(500, body=b"the backend's stack trace"), Answer(200))
    task_id = observed.backbone.submit(f"{path}?token=the-callers-token", body)
    while backend.next_call(path).attempt < 2:
        continue
    update = {"TaskId": task_id, "BackendStatus": "running", "Status": "the caller's status text"}
    httpx.post(stack.function_url("CacheConnectorUpsert"), json=update, timeout=PATIENCE_S).raise_for_status()
    result = http.put(f"/api/v1/tasks/{task_id}/result", content=b"the model's result " * 9000)
    result.raise_for_status()
    observed.redis.stop()
    assert http.post(f"/api/v1/submit{path}", content=body).status_code == 503
    observed.redis.start()
    _until_redis_is_found(observed)
    observed.backbone.complete(task_id)
    expected = observed.backbone.transitions(task_id)
    observed.flush()

    observed.flushed_until(lambda: len(observed.events(task_id)) >= len(expected))
    assert len(observed.events(task_id)) == len(expected)

    account_key = re.search("AccountKey=([^;]+)", azurite.connection_string)
    assert account_key is not None
    for secret in (
        stack.key,
        REDIS_PASSWORD,
        account_key[1],
        "the caller's",
        "the-callers-token",
        "the backend's",
        "the model's",
        "code=",
    ):
        assert secret not in observed.insights.raw


def test_the_calls_of_the_azure_sdk_are_not_logged(observed: Observed, backend: ScriptedBackend) -> None:
    path = "/v1/test/blobs"
    task_id = observed.backbone.submit(path, b"x" * (INLINE_LIMIT_BYTES + 1))
    backend.next_call(path)
    observed.backbone.complete(task_id)
    log = (observed.stack.directory / "functions_host.log").read_text()
    assert task_id in log
    assert "http_logging_policy" not in log


def test_a_flush_sends_telemetry_even_while_redis_is_down(observed: Observed) -> None:
    operation_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{operation_id}-{secrets.token_hex(8)}-01"}
    observed.redis.stop()
    response = observed.backbone.http.post("/api/v1/submit/v1/test/away", content=b"{}", headers=headers)
    observed.flush()
    try:
        [submit] = _spans_once_arrived(observed, operation_id, {SUBMIT})[SUBMIT]
    finally:
        observed.redis.start()
    assert response.status_code == 503
    assert (submit.data["responseCode"], submit.data["success"]) == ("503", False)
    _until_redis_is_found(observed)


def test_a_dead_ingestion_endpoint_disturbs_neither_tasks_nor_requests(
    observed: Observed, backend: ScriptedBackend
) -> None:
    path = "/v1/test/ingestion-dead"
    with observed.insights.dead():
        task_id = observed.backbone.submit(path)
        backend.next_call(path)
        observed.backbone.complete(task_id)
        observed.flush()
        observed.flushed_until(lambda: observed.insights.refused >= 2)
        assert observed.backbone.task(task_id)["BackendStatus"] == "completed"
        assert observed.backbone.http.get("/api/v1/health").status_code == 200

    log = (observed.stack.directory / "functions_host.log").read_text()
    assert "(Failed, Id=" not in log
    spooled = [str(path) for path in observed.spool.rglob("*")]
    assert any(".blob" in path for path in spooled)
    # Any of these paths may appear in the log.
    assert observed.insights.instrumentation_key not in "\n".join([log, *spooled])


def _submit_in_a_trace(observed: Observed, path: str) -> tuple[str, str, str]:
    """The id of the trace, of the caller's span in it, and of the task."""
    operation_id, caller_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{operation_id}-{caller_id}-01"}
    response = observed.backbone.http.post(f"/api/v1/submit{path}", content=b"{}", headers=headers)
    assert response.status_code == 202
    return operation_id, caller_id, response.json()["TaskId"]


def _until_redis_is_found(observed: Observed) -> None:
    eventually(lambda: observed.backbone.http.get("/api/v1/health").json()["Dependencies"]["Redis"] == "ok")


def _update(
    observed: Observed, task_id: str, state: str, headers: dict[str, str], **members: object
) -> httpx.Response:
    document = {"TaskId": task_id, "BackendStatus": state, "Status": state, **members}
    return observed.backbone.http.post("/api/CacheConnectorUpsert", json=document, headers=headers)


def _spans_once_arrived(observed: Observed, operation_id: str, names: set[str]) -> dict[str, list[Item]]:
    """The spans of a trace by name, oldest first, once all *names* have arrived."""

    def by_name() -> dict[str, list[Item]]:
        spans: dict[str, list[Item]] = {}
        for span in observed.insights.spans(operation_id):
            spans.setdefault(span.name, []).append(span)
        return spans

    observed.flushed_until(lambda: names <= by_name().keys())
    return by_name()


def _gauge(insights: IngestionDouble, name: str, path: str) -> dict[str, int]:
    """The latest value of the gauge for each value of its other attribute."""
    latest: dict[str, int] = {}
    for metric in insights.items("Metric"):
        attributes = dict(metric.properties)
        if metric.data["metrics"][0]["name"] == name and attributes.pop("path") == path:
            label = next(iter(attributes.values()), "")
            latest[label] = metric.data["metrics"][0]["value"]
    return latest
