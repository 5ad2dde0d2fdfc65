"""What whoever is on call is told of: gauges of the queues, and events that say why tasks end (contract B22)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local.redis_server import RedisServer
from shared import gauges
from shared.settings import Settings, SettingsError
from shared.store import QueueStatus
from shared.tasks.end_reason import EndReason
from task_logger import timers
from tests.contract.test_metric_timers import BACKEND, PROCESS_LOGGER, QUEUE_LOGGER, MetricsRunner
from tests.telemetry.functions_worker import FunctionsWorker, settings_for
from tests.telemetry.ingestion_double import IngestionDouble, Item
from tests.telemetry.test_without_application_insights import SETTINGS

PATH = "/v1/test/told"
TEXT = "a text of the model service"
QUEUE_GAUGES = {
    "queue.oldest_wait_s": "OldestWaitingSeconds",
    "queue.in_flight": "InFlight",
    "queue.slots": "Slots",
    "queue.limit": "Limit",
    "queue.paused": "Paused",
}
"""Each with the number of the API that it is."""
RATE_WAIT = "queue.rate_wait_s"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def runner(redis: RedisServer) -> Iterator[MetricsRunner]:
    runner = MetricsRunner(redis.url)
    yield runner
    runner.close()


@pytest.fixture
def insights() -> Iterator[IngestionDouble]:
    with IngestionDouble() as double:
        yield double


def reported(runner: MetricsRunner, timer: str, path: str, names: Iterable[str] = QUEUE_GAUGES) -> dict[str, float]:
    """What a timer reports of one queue, by the gauge's name."""
    told = runner.run(timer)
    return {name: point["value"] for name in names for point in told.get(name, []) if point["path"] == path}


def asked(runner: MetricsRunner, path: str) -> Mapping[str, Any]:
    return runner.depth(path)


def submit(runner: MetricsRunner, path: str) -> str:
    """A task that waits in its queue, or holds a slot of it: its event cannot be published."""
    body = {"Endpoint": BACKEND + path, "BackendStatus": "created", "Body": "x", "PublishToGrid": True}
    answer = runner.run("CacheConnectorUpsert", body=body)
    assert answer["status"] == 200, answer
    return json.loads(answer["body"])["TaskId"]


@pytest.mark.contract("B22.1")
def test_the_gauges_of_a_queue_are_the_numbers_of_the_queue_api(runner: MetricsRunner) -> None:
    path = "/v1/test/gauges"
    runner.run("ConfigureQueue", route={"path": path}, body={"Limit": 3, "Paused": True})
    for _ in range(2):
        submit(runner, path)
    before = asked(runner, path)
    told, after = reported(runner, QUEUE_LOGGER, path), asked(runner, path)
    assert set(told) == QUEUE_GAUGES.keys()
    assert before["OldestWaitingSeconds"] <= told.pop("queue.oldest_wait_s") <= after["OldestWaitingSeconds"]
    assert told == {name: after[QUEUE_GAUGES[name]] for name in told}
    assert (told["queue.limit"], told["queue.paused"], after["Waiting"]) == (3, 1, 2)


@pytest.mark.contract("B22.1")
def test_a_queue_without_a_limit_has_no_gauge_of_one(runner: MetricsRunner) -> None:
    path = "/v1/test/unlimited"
    submit(runner, path)
    assert asked(runner, path)["Limit"] is None
    told = reported(runner, QUEUE_LOGGER, path)
    assert "queue.limit" not in told
    assert told["queue.paused"] == 0


@pytest.mark.contract("B22.1")
def test_a_queue_with_a_rate_tells_how_long_that_holds_it_back(runner: MetricsRunner) -> None:
    path = "/v1/test/rated"
    runner.run("ConfigureQueue", route={"path": path}, body={"Rate": "1/3600s"})
    submit(runner, path)
    submit(runner, path)
    [wait_s] = reported(runner, QUEUE_LOGGER, path, [RATE_WAIT]).values()
    assert 3500 < wait_s <= 3600
    runner.run("ConfigureQueue", route={"path": path}, body={"Rate": None, "Paused": True})
    assert reported(runner, QUEUE_LOGGER, path, [RATE_WAIT]) == {}


@pytest.mark.contract("B22.2")
def test_a_queue_whose_tasks_have_ended_is_reported_once_more_and_then_with_the_finished_tasks(
    runner: MetricsRunner,
) -> None:
    path = "/v1/test/ended"
    runner.run("ConfigureQueue", route={"path": path}, body={"Limit": 2, "Paused": True})
    task_id = submit(runner, path)
    assert reported(runner, QUEUE_LOGGER, path)["queue.limit"] == 2
    assert reported(runner, PROCESS_LOGGER, path) == {}, "the other timer has it"
    assert runner.run("CancelTask", route={"id": task_id})["status"] == 200
    once = reported(runner, QUEUE_LOGGER, path)
    # What was 0 in the last report is not reported again at once.
    assert {once.get(name, 0) for name in ("queue.oldest_wait_s", "queue.in_flight")} == {0}
    assert once["queue.limit"] == 2
    assert reported(runner, QUEUE_LOGGER, path) == {}
    assert reported(runner, PROCESS_LOGGER, path)["queue.limit"] == 2


@pytest.mark.contract("B22.3")
async def test_no_more_queues_are_read_than_a_gauge_has_series_but_one_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    class Queues:
        async def status(self, path: str) -> QueueStatus:
            read.append(path)
            return QueueStatus(0, 1, 1, None, paused=False, draining=False)

    store = SimpleNamespace(queues=Queues())
    services: Any = SimpleNamespace(current=lambda: SimpleNamespace(store=store))
    monkeypatch.setattr(timers, "_report", lambda timer, path, status: None)
    paths = [f"/v1/{number:05}" for number in range(gauges.SERIES_LIMIT + 100)]
    await timers._Queues(services).report(timers._Depths(services), reversed(paths))
    assert read == paths[: gauges.SERIES_LIMIT + 1]


def told(
    redis: RedisServer, directory: Path, insights: IngestionDouble, setting: dict[str, str], ends_as: str = "failed"
) -> list[Item]:
    """The events of a task that a legacy service creates, runs and ends."""
    reports = [("created", "created"), ("running", TEXT), (ends_as, TEXT)]
    with FunctionsWorker(settings_for(insights, redis.url) | setting, directory / "worker.log") as worker:
        for state, status in reports:
            report = {"TaskId": f"t-{directory.name}", "BackendStatus": state, "Status": status}
            body = json.dumps({**report, "Endpoint": f"http://127.0.0.1:9{PATH}"})
            assert worker.post("CacheConnectorUpsert", body=body) == 200
        worker.flush()
    return insights.items("Event")


@pytest.mark.contract("B22.4", "B22.6")
@pytest.mark.parametrize(
    ("ends_as", "reason"),
    [("completed", EndReason.COMPLETED), ("failed", EndReason.REPORTED)],
)
def test_an_end_says_why_and_how_long_and_no_event_has_a_text(
    redis: RedisServer, tmp_path: Path, insights: IngestionDouble, ends_as: str, reason: EndReason
) -> None:
    *before, end = told(redis, tmp_path, insights, {}, ends_as)
    always = {"task.id", "task.path", "task.attempt", "task.state", "logger_name"}
    assert all(always >= set(event.properties) for event in before)
    assert always | {"task.failures", "task.reason", "task.run_s"} >= set(end.properties)
    assert (end.properties["task.reason"], end.properties["task.failures"]) == (reason, "0")
    assert float(end.properties["task.run_s"]) >= 0
    assert TEXT not in insights.raw


@pytest.mark.contract("B22.5")
@pytest.mark.parametrize(
    ("setting", "states"),
    [
        ({}, ["created", "running", "failed"]),
        ({"TELEMETRY_EVENTS": "all"}, ["created", "running", "failed"]),
        ({"TELEMETRY_EVENTS": "ends"}, ["failed"]),
        ({"TELEMETRY_EVENTS": "none"}, []),
    ],
)
def test_the_setting_says_which_transitions_are_sent(
    redis: RedisServer, tmp_path: Path, insights: IngestionDouble, setting: dict[str, str], states: list[str]
) -> None:
    events = told(redis, tmp_path, insights, setting)
    assert [event.properties["task.state"] for event in events] == states
    assert {event.name for event in events} <= {"TaskStateChanged"}
    requests = insights.items("Request")
    assert {request.properties["task.id"] for request in requests} == {f"t-{tmp_path.name}"}, "spans are sent as ever"


@pytest.mark.contract("B22.5")
@pytest.mark.parametrize("value", ["some", "ALL", "ends,none"])
def test_an_unknown_value_is_named_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="setting TELEMETRY_EVENTS: Input should be 'all', 'ends' or 'none'"):
        Settings.from_env({**SETTINGS, "TELEMETRY_EVENTS": value})


@pytest.mark.contract("B22.7", "B22.8")
def test_a_request_is_told_by_its_route_and_its_task_and_without_its_query(
    redis: RedisServer, tmp_path: Path, insights: IngestionDouble
) -> None:
    with FunctionsWorker(settings_for(insights, redis.url), tmp_path / "worker.log") as worker:
        worker.post("TaskHeartbeat", route={"id": "one"}, body="{}")
        worker.post("TaskHeartbeat", route={"id": "not an id"}, body="{}")
        worker.flush()
    requests = insights.items("Request")
    assert {request.name for request in requests} == {"POST /api/v1/tasks/{id}/heartbeat"}
    assert [request.properties.get("task.id") for request in requests] == ["one", None]
    assert {request.data["url"] for request in requests} == {"http://127.0.0.1/api/TaskHeartbeat"}
