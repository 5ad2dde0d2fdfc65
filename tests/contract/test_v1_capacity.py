"""How a queue finds how many tasks its model service holds, and what it makes of being told (contract B10, B15)."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.contract.v1_support import assert_problem, new_path, pattern_bytes, report, submit
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

TELLING = {"X-Task-Slots": "3", "X-Task-Instance": "a"}


@pytest.fixture
def path() -> str:
    return new_path()


def slots(app: httpx.Client, path: str) -> int:
    return app.get(f"/api/v1/queues{path}").json()["Slots"]


def submitted(app: httpx.Client, path: str, count: int) -> list[str]:
    return [submit(app, path).json()["TaskId"] for _ in range(count)]


def calls(backend: ScriptedBackend, path: str, count: int) -> list[Call]:
    return [backend.next_call(path) for _ in range(count)]


@pytest.mark.contract("B10.11")
def test_unknown_slots_are_found_by_doubling(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    hold = threading.Event()
    backend.script(path, *[Answer()] * 16, Answer(hold=hold))
    submitted(app, path, 40)
    calls(backend, path, 32)  # sixteen are known, and as many probes are on the way
    hold.set()
    calls(backend, path, 8)
    eventually(lambda: slots(app, path) == 40)


@pytest.mark.contract("B15.8")
@pytest.mark.parametrize("status", [200, 202])
def test_what_an_answer_tells_is_filled_at_once(
    app: httpx.Client, backend: ScriptedBackend, path: str, status: int
) -> None:
    hold = threading.Event()
    backend.script(path, Answer(status, TELLING), Answer(hold=hold))
    submitted(app, path, 10)
    calls(backend, path, 3)
    assert slots(app, path) == 3
    hold.set()


@pytest.mark.contract("B15.8")
def test_a_refusal_may_tell_too(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    backend.script(path, Answer(503, {"X-Task-Slots": "0", "X-Task-Instance": "a"}), Answer(200, TELLING), Answer())
    submitted(app, path, 3)
    calls(backend, path, 4)
    assert slots(app, path) == 3


@pytest.mark.contract("B15.8")
@pytest.mark.parametrize(
    "headers",
    [{"X-Task-Slots": "many"}, {"X-Task-Slots": "-1"}, {"X-Task-Slots": "99999"}, {"X-Task-Slots": "\xb2"}],
    ids=["text", "negative", "too-many", "odd-digit"],
)
def test_an_answer_that_tells_nonsense_is_an_answer(
    app: httpx.Client, backend: ScriptedBackend, path: str, headers: dict[str, str]
) -> None:
    backend.script(path, Answer(headers=headers))
    (task_id,) = submitted(app, path, 1)
    calls(backend, path, 1)
    report(app, TaskId=task_id, BackendStatus="completed", Status="completed")
    assert slots(app, path) == 1


def put(app: httpx.Client, what: str, call: Call, headers: dict[str, str], **_: Any) -> httpx.Response:
    attempt = {"X-Task-Attempt": str(call.attempt)}
    return app.put(f"/api/v1/tasks/{call.task_id}/{what}", content=pattern_bytes(5), headers=headers | attempt)


def tell(app: httpx.Client, what: str, call: Call, headers: dict[str, str]) -> httpx.Response:
    task = f"/api/v1/tasks/{call.task_id}"
    match what:
        case "report":
            body = {"TaskId": call.task_id, "Attempt": call.attempt, "BackendStatus": "running", "Status": "running"}
            return app.post("/api/CacheConnectorUpsert", json=body, headers=headers)
        case "heartbeat":
            return app.post(f"{task}/heartbeat", headers=headers)
        case "heartbeats":
            return app.post("/api/v1/heartbeats", json={"Heartbeats": [{"TaskId": call.task_id}]}, headers=headers)
        case "release":
            attempt = {"X-Task-Attempt": str(call.attempt)}
            return app.post(f"{task}/release", json={"RetryAfterSeconds": 3600}, headers=headers | attempt)
        case _:
            return put(app, what, call, headers)


WAYS = ("report", "heartbeat", "heartbeats", "result", "checkpoint", "release")


@pytest.mark.contract("B15.9")
@pytest.mark.parametrize("what", WAYS)
def test_what_a_request_tells_is_filled_at_once(
    app: httpx.Client, backend: ScriptedBackend, path: str, what: str
) -> None:
    hold = threading.Event()
    backend.script(path, Answer(), Answer(hold=hold))
    submitted(app, path, 10)
    first, second = calls(backend, path, 2)
    assert first.task_id != second.task_id
    response = tell(app, what, first, {"X-Task-Slots": "6", "X-Task-Instance": "a"})
    assert response.status_code == 200
    calls(backend, path, 4 + (what == "release"))
    assert slots(app, path) == 6
    hold.set()


@pytest.mark.contract("B15.9")
def test_instances_are_added_up(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    hold = threading.Event()
    backend.script(path, Answer(), Answer(hold=hold))
    submitted(app, path, 10)
    first, _ = calls(backend, path, 2)
    for instance in ("a", "b", "a"):
        tell(app, "heartbeat", first, {"X-Task-Slots": "3", "X-Task-Instance": instance})
    calls(backend, path, 4)
    assert slots(app, path) == 6
    hold.set()


@pytest.mark.contract("B15.10")
def test_an_instance_that_gives_a_task_back_and_tells_0_gets_nothing_more(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    hold = threading.Event()
    backend.script(path, Answer(headers=TELLING), Answer(), Answer(), Answer(hold=hold))
    submitted(app, path, 6)
    held = calls(backend, path, 3)
    for call in held:
        tell(app, "release", call, {"X-Task-Slots": "0", "X-Task-Instance": "a"})
    assert slots(app, path) == 0
    calls(backend, path, 1)  # a probe: another instance may have come in its place
    hold.set()


@pytest.mark.contract("B15.11")
@pytest.mark.parametrize("what", WAYS)
@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"X-Task-Slots": "many"}, "X-Task-Slots"),
        ({"X-Task-Slots": "-1"}, "X-Task-Slots"),
        ({"X-Task-Slots": "10001"}, "X-Task-Slots"),
        ({"X-Task-Slots": "1", "X-Task-Instance": "x" * 129}, "X-Task-Instance"),
        ({"X-Task-Slots": "1", "X-Task-Instance": "a b"}, "X-Task-Instance"),
        ({"X-Task-Instance": ""}, "X-Task-Instance"),
    ],
    ids=["text", "negative", "too-many", "long-name", "blank", "name-alone"],
)
def test_a_request_that_tells_nonsense_is_refused_by_the_name_of_the_header(
    app: httpx.Client, backend: ScriptedBackend, path: str, what: str, headers: dict[str, str], field: str
) -> None:
    submitted(app, path, 1)
    (call,) = calls(backend, path, 1)
    assert_problem(tell(app, what, call, headers), 400, "invalid-request", field=field)
