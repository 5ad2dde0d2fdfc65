"""Callbacks (contract B29): a call when a task is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.callback_receiver import is_signed, new_secret
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import (
    UNKNOWN_ID,
    assert_problem,
    complete_on_call,
    ended,
    new_path,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

GATEWAY_KEY: Final = "the-key-of-the-gateway-0123456789"
SECRET, FORMER, OF_ALICE = new_secret(), new_secret(), new_secret()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """With destinations that are paths of the scripted backend."""

    def destination(path: str, **more: Any) -> dict[str, Any]:
        return {"url": f"{backend.url}{path}", "secret_setting": "HOOK_SECRET", **more}

    callbacks = {
        "ends": destination("/hooks/ends?of=tests"),
        "failures": destination("/hooks/failures", events=["failed"]),
        "progress": destination("/hooks/progress", events=["completed", "progress"]),
        "alices": destination("/hooks/alices", owner="alice", secret_setting="ALICES_SECRET"),
        "default": destination("/hooks/default"),
        "gone": destination("/hooks/gone"),
        "failing": destination("/hooks/failing"),
        "redirecting": destination("/hooks/redirecting"),
        "inside": destination("/hooks/inside") | {"url": "http://localtest.invalid/hooks"},
    }
    with Stack(
        tmp_path_factory.mktemp("callbacks"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url, "/v1/told": {"url": backend.url, "callback": "default"}},
        with_model=False,
        settings=IN_A_HURRY
        | {
            "GATEWAY_KEY": GATEWAY_KEY,
            "CALLBACKS": json.dumps(callbacks),
            "HOOK_SECRET": SECRET,
            "HOOK_SECRET_PREVIOUS": FORMER,
            "ALICES_SECRET": OF_ALICE,
        },
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def call_about(backend: ScriptedBackend, path: str, task_id: str) -> tuple[Call, dict[str, Any]]:
    """The next call of a destination that is about this task: calls about other tests' come too."""
    while True:
        call = backend.next_call(path)
        document = json.loads(call.body)
        if document["TaskId"] == task_id:
            return call, document


def delivery(app: httpx.Client, task_id: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The last delivery in the task's history, once it fits."""

    def look() -> dict[str, Any] | None:
        history = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()
        deliveries: list[dict[str, Any]] = history["Callback"]["Deliveries"]
        return deliveries[-1] if deliveries and fits(deliveries[-1]) else None

    found = eventually(look)
    assert found is not None
    return found


@pytest.mark.contract("B29.1", "B29.7", "B29.15")
def test_the_task_is_told_when_it_has_ended(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    submitted = submit(app, path, Callback="ends")
    assert submitted.status_code == 202
    task_id = submitted.json()["TaskId"]
    assert submitted.json()["Callback"] == "ends"
    call, document = call_about(backend, "/hooks/ends", task_id)
    assert document == {key: value for key, value in task_of(app, task_id).items() if key != "QueuePosition"}
    assert document["BackendStatus"] == "completed"
    assert call.path == "/hooks/ends?of=tests"
    assert call.headers["content-type"] == "application/json"
    assert len(call.headers["webhook-signature"].split()) == 2
    for secret in (SECRET, FORMER):
        assert Webhook(secret).verify(call.body, call.headers) == document
    assert not is_signed(call.headers, call.body, [Webhook(OF_ALICE)])
    assert not is_signed(call.headers, call.body.replace(b"completed", b"failed"), [Webhook(SECRET)])
    told = delivery(app, task_id, lambda each: each["State"] == "delivered")
    assert (told["Event"], told["Tries"], told["LastAnswer"]) == ("completed", 1, "200")


@pytest.mark.contract("B29.2")
def test_only_a_destination_that_one_may_name_is_taken(app: httpx.Client) -> None:
    path = new_path()
    refused = [
        submit(app, path, Callback="nobody"),
        submit(app, path, Callback="https://evil.example.org/"),
        submit(app, path, Callback="alices"),
        submit(app, path, Callback="alices", **as_owner("bob")),
        app.post("/api/v1/batches", json={}, headers={"Callback": "alices"}),
    ]
    problems = [assert_problem(each, 400, "invalid-request", field="Callback") for each in refused]
    assert len({problem["detail"] for problem in problems}) == 1
    assert submit(app, path, Callback="alices", **as_owner("alice")).status_code == 202


@pytest.mark.contract("B29.3")
def test_owners_and_backends_have_defaults(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = f"/v1/told/{uuid4().hex}"
    for headers, destination in (({}, "default"), (as_owner("alice"), "alices"), (as_owner("bob"), "default")):
        task = submit(app, path, **headers).json()
        assert task["Callback"] == destination
        app.delete(f"/api/v1/tasks/{task['TaskId']}", headers=headers).raise_for_status()
        _, document = call_about(backend, f"/hooks/{destination}", task["TaskId"])
        assert document["BackendStatus"] == "cancelled"
    assert submit(app, path, Callback="ends").json()["Callback"] == "ends"
    assert "Callback" not in submit(app, new_path()).json()


@pytest.mark.contract("B29.4", "B29.11")
def test_a_message_comes_again_until_it_is_taken(app: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script("/hooks/failing", Answer(500), Answer(404), Answer(200))
    task_id = submit(app, new_path(), Callback="failing").json()["TaskId"]
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    calls = [call_about(backend, "/hooks/failing", task_id)[0] for _ in range(2)]
    state = app.get("/api/v1/callbacks/failing").raise_for_status().json()
    assert (state["Waiting"], state["GivenUp"]) == (1, 0)
    calls.append(call_about(backend, "/hooks/failing", task_id)[0])
    assert len({call.headers["webhook-id"] for call in calls}) == 1
    assert all(is_signed(call.headers, call.body, [Webhook(SECRET)]) for call in calls)
    told = delivery(app, task_id, lambda each: each["State"] == "delivered")
    assert told["Tries"] == 3

    def recovered() -> bool:
        state = app.get("/api/v1/callbacks/failing").raise_for_status().json()
        return (state["Waiting"], state["FailingSince"], state["LastAnswer"]) == (0, None, "200")

    assert eventually(recovered)


@pytest.mark.contract("B29.5", "B29.12", "B29.13")
def test_a_destination_that_is_gone_is_not_told_until_somebody_asks(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    backend.script("/hooks/gone", Answer(410), Answer(200))
    task_id = submit(app, new_path(), Callback="gone").json()["TaskId"]
    assert app.post("/api/v1/callbacks/gone/resend", json={"TaskId": task_id}).json() == {"Resent": 0}
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    first, _ = call_about(backend, "/hooks/gone", task_id)
    told = delivery(app, task_id, lambda each: each["State"] == "gone")
    assert told["LastAnswer"] == "410"
    assert app.get("/api/v1/callbacks/gone").json()["GivenUp"] == 1
    assert app.post("/api/v1/callbacks/gone/resend", json={"Since": "2999-01-01T00:00:00Z"}).json() == {"Resent": 0}
    assert app.post("/api/v1/callbacks/gone/resend").json() == {"Resent": 1}
    second, _ = call_about(backend, "/hooks/gone", task_id)
    assert app.post("/api/v1/callbacks/gone/resend", json={"TaskId": task_id}).json() == {"Resent": 1}
    third, _ = call_about(backend, "/hooks/gone", task_id)
    assert len({call.headers["webhook-id"] for call in (first, second, third)}) == 1
    for name, body in (("ends", {"TaskId": task_id}), ("gone", {"TaskId": UNKNOWN_ID})):
        assert_problem(app.post(f"/api/v1/callbacks/{name}/resend", json=body), 404, "no-such-task")


@pytest.mark.contract("B29.6")
def test_no_redirect_is_followed(app: httpx.Client, backend: ScriptedBackend) -> None:
    backend.script("/hooks/redirecting", Answer(307, {"Location": f"{backend.url}/hooks/elsewhere"}), Answer(200))
    task_id = submit(app, new_path(), Callback="redirecting").json()["TaskId"]
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    call_about(backend, "/hooks/redirecting", task_id)
    call_about(backend, "/hooks/redirecting", task_id)
    assert backend.untaken("/hooks/elsewhere") == 0


@pytest.mark.contract("B29.6")
def test_a_name_that_leads_nowhere_is_unreachable(app: httpx.Client) -> None:
    task_id = submit(app, new_path(), Callback="inside").json()["TaskId"]
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    told = delivery(app, task_id, lambda each: each["Tries"] > 0)
    assert (told["State"], told["LastAnswer"]) == ("waiting", "unreachable")


@pytest.mark.contract("B29.8")
def test_a_pipeline_tells_its_last_end_and_a_batch_its_own(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    first, second = new_path(), new_path()
    complete_on_call(stack, backend, first)
    complete_on_call(stack, backend, second)
    task_id = submit(app, first, Callback="ends", Pipeline=second).json()["TaskId"]
    _, document = call_about(backend, "/hooks/ends", task_id)
    assert (document["Step"], document["Steps"], document["BackendStatus"]) == (2, 2, "completed")

    batch = app.post("/api/v1/batches", json={}, headers={"Callback": "ends"}).raise_for_status().json()
    assert batch["Callback"] == "ends"
    child = submit(app, first, Batch=batch["TaskId"]).json()
    ended(app, child["TaskId"])
    app.post(f"/api/v1/batches/{batch['TaskId']}/seal").raise_for_status()
    _, document = call_about(backend, "/hooks/ends", batch["TaskId"])
    assert (document["Total"], document["Completed"], document["BackendStatus"]) == (1, 1, "completed")


@pytest.mark.contract("B29.9")
def test_progress_is_told_before_the_end(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = submit(app, path, Callback="progress").json()["TaskId"]
    backend.next_call(path)
    report(app, TaskId=task_id, BackendStatus="running", Progress=0.25)
    _, document = call_about(backend, "/hooks/progress", task_id)
    assert (document["BackendStatus"], document["Progress"]) == ("running", 0.25)
    report(app, TaskId=task_id, BackendStatus="running", Progress=0.5)
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    while document["BackendStatus"] != "completed":
        _, document = call_about(backend, "/hooks/progress", task_id)
    report_again = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "completed"})
    assert report_again.status_code == 200
    delivery(app, task_id, lambda each: each["State"] == "delivered")
    assert backend.untaken("/hooks/progress") == 0


@pytest.mark.contract("B29.10")
def test_a_long_text_is_cut(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = submit(app, path, Callback="ends").json()["TaskId"]
    backend.next_call(path)
    report(app, TaskId=task_id, BackendStatus="failed", Status='"ö' * 30_000)
    call, document = call_about(backend, "/hooks/ends", task_id)
    assert 19_000 < len(call.body) <= 20 * 1024
    assert document["Cut"] == ["Status"]
    assert ('"ö' * 30_000).startswith(document["Status"])


@pytest.mark.contract("B29.1")
def test_what_a_destination_does_not_want_is_not_told(app: httpx.Client, backend: ScriptedBackend) -> None:
    cancelled, failed = (submit(app, new_path(), Callback="failures").json() for _ in range(2))
    app.delete(f"/api/v1/tasks/{cancelled['TaskId']}").raise_for_status()
    report(app, TaskId=failed["TaskId"], BackendStatus="failed", Status="no")
    first = json.loads(backend.next_call("/hooks/failures").body)
    assert first["TaskId"] == failed["TaskId"]
    history = app.get(f"/api/v1/tasks/{cancelled['TaskId']}/history").json()
    assert history["Callback"] == {"Destination": "failures", "Deliveries": []}


@pytest.mark.contract("B29.11", "B29.14")
def test_owners_see_their_own_destinations(app: httpx.Client, backend: ScriptedBackend) -> None:
    alice, bob = as_owner("alice"), as_owner("bob")
    for headers in (alice, {}):
        seen = app.get("/api/v1/callbacks/alices", headers=headers)
        assert seen.status_code == 200
        assert (seen.json()["Name"], seen.json()["Owner"]) == ("alices", "alice")
        assert backend.url not in seen.text
    for name in ("alices", "nobody"):
        assert_problem(app.get(f"/api/v1/callbacks/{name}", headers=bob), 404, "unknown-destination")
        assert_problem(app.post(f"/api/v1/callbacks/{name}/resend", headers=bob), 404, "unknown-destination")
    assert_problem(app.get("/api/v1/callbacks/ends", headers=bob), 403, "not-for-owners")
    assert_problem(app.post("/api/v1/callbacks/ends/resend", headers=bob), 403, "not-for-owners")
    task_id = submit(app, new_path(), Callback="ends", **bob).json()["TaskId"]
    app.delete(f"/api/v1/tasks/{task_id}", headers=bob).raise_for_status()
    again = {"TaskId": task_id}
    assert app.post("/api/v1/callbacks/ends/resend", json=again, headers=bob).json() == {"Resent": 1}
    assert_problem(app.post("/api/v1/callbacks/ends/resend", json=again, headers=alice), 404, "no-such-task")


@pytest.mark.contract("B29.12", "B29.13")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"TaskId": "no id"}, "/TaskId"),
        ({"Since": "yesterday"}, "/Since"),
        ({"Since": "2026-11-29T00:00:00Z", "TaskId": UNKNOWN_ID}, "/Since"),
        ({"All": True}, "/All"),
    ],
)
def test_bad_input_is_named(app: httpx.Client, body: dict[str, Any], field: str) -> None:
    assert_problem(app.post("/api/v1/callbacks/ends/resend", json=body), 400, "invalid-request", field=field)


@pytest.mark.contract("B29.17")
def test_the_callback_is_part_of_what_an_idempotency_key_stands_for(app: httpx.Client) -> None:
    path, key = new_path(), uuid4().hex
    first = submit(app, path, Callback="ends", Idempotency_Key=key).json()
    assert submit(app, path, Callback="ends", Idempotency_Key=key).json()["TaskId"] == first["TaskId"]
    assert_problem(submit(app, path, Idempotency_Key=key), 422, "idempotency-key-reused")
    assert_problem(submit(app, path, Callback="default", Idempotency_Key=key), 422, "idempotency-key-reused")


@pytest.mark.contract("B29.1", "B29.2", "B29.3")
def test_many_tasks_of_one_request_name_one_destination(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, lines = f"/v1/told/{uuid4().hex}", b'{"Body": 1}\n{"Body": 2}\n'
    kind = {"Content-Type": "application/x-ndjson"}
    for headers, destination in (({"Callback": "ends"}, "ends"), ({}, "default")):
        answer = app.post(f"/api/v1/submit-many{path}", content=lines, headers=kind | headers)
        assert answer.status_code == 202
        for line in answer.text.splitlines():
            task_id = json.loads(line)["TaskId"]
            assert task_of(app, task_id)["Callback"] == destination
            app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
            call_about(backend, f"/hooks/{destination}", task_id)
    refused = app.post(f"/api/v1/submit-many{path}", content=lines, headers=kind | {"Callback": "nobody"})
    assert_problem(refused, 400, "invalid-request", field="Callback")
