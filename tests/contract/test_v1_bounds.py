"""Not after, not longer: tasks that expire, and attempts that run for too long (contract B24)."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import BOUNDED
from tests.contract.v1_support import ISO_TIME, TASK_KEYS, assert_problem, ended, new_path, report, submit, task_of
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually


@pytest.fixture
def path() -> str:
    return new_path()


@pytest.fixture
def bounded() -> str:
    """An endpoint of the backend that says how long tasks may wait and run."""
    return new_path().replace("/v1/test", BOUNDED)


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    return response.json()


def events_of(app: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    return app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]


def pause(app: httpx.Client, path: str) -> None:
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.contract("B24.1")
@pytest.mark.parametrize("seconds", ["300", "0.5", "86400", "999999999"])
def test_the_view_says_when_a_task_expires(app: httpx.Client, path: str, seconds: str) -> None:
    pause(app, path)
    task = accepted(submit(app, path, Start_Before=seconds))
    assert ISO_TIME.fullmatch(task["ExpiresAt"])
    assert time_of(task["ExpiresAt"]) == time_of(task["CreatedAt"]) + timedelta(seconds=float(seconds))
    app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.1")
@pytest.mark.parametrize(
    "text", ["2999-01-01T00:00:00Z", "2999-01-01T02:00:00.250+02:00", "9999-12-31T23:59:59-12:00"]
)
def test_a_task_may_expire_at_a_time(app: httpx.Client, path: str, text: str) -> None:
    pause(app, path)
    task = accepted(submit(app, path, Start_Before=text))
    assert task["ExpiresAt"][:4] == text[:4]
    if text.startswith("2999"):
        assert time_of(task["ExpiresAt"]) == time_of(text)
    app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.2", "B24.13")
def test_a_task_that_waits_for_too_long_ends_and_is_never_sent(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    pause(app, path)
    task_id = accepted(submit(app, path, Start_Before="0.4"))["TaskId"]
    task = ended(app, task_id)
    assert (task["BackendStatus"], task["Status"]) == ("failed", "Failed - it expired after 0.4 s in the queue.")
    assert "ExpiresAt" not in task
    last = events_of(app, task_id)[-1]
    assert (last["Reason"], last["EndReason"]) == ("give-up", "expired")
    app.patch(f"/api/v1/queues{path}", json={"Paused": False}).raise_for_status()
    other = accepted(submit(app, path))["TaskId"]
    assert backend.next_call(path).task_id == other
    assert backend.untaken(path) == 0
    assert app.get(f"/api/v1/queues{path}").json()["Waiting"] == 0


@pytest.mark.contract("B24.2")
@pytest.mark.parametrize("answer", [Answer(429), Answer(502)], ids=["busy", "away"])
def test_a_service_that_turns_a_task_away_has_not_had_it(
    app: httpx.Client, backend: ScriptedBackend, path: str, answer: Answer
) -> None:
    backend.script(path, answer)
    task_id = accepted(submit(app, path, Start_Before="2"))["TaskId"]
    backend.next_call(path)
    task = ended(app, task_id)
    assert task["Status"] == "Failed - it expired after 2 s in the queue."
    backend.script(path)


@pytest.mark.contract("B24.3")
def test_a_time_that_is_over_is_no_error(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    task_id = accepted(submit(app, path, Start_Before="2020-01-01T00:00:00Z"))["TaskId"]
    assert ended(app, task_id)["Status"] == "Failed - it expired after 0 s in the queue."
    assert backend.untaken(path) == 0


@pytest.mark.contract("B24.4")
def test_a_task_that_a_service_has_had_does_not_expire(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    backend.script(path, Answer(500), Answer(200))
    task_id = accepted(submit(app, path, Start_Before="600"))["TaskId"]
    backend.next_call(path)
    backend.next_call(path)
    assert eventually(lambda: "ExpiresAt" not in task_of(app, task_id))
    report(app, TaskId=task_id, BackendStatus="completed")
    assert ended(app, task_id)["BackendStatus"] == "completed"


@pytest.mark.contract("B24.5")
def test_the_backend_says_how_long_a_task_may_wait_if_the_submit_does_not(app: httpx.Client, bounded: str) -> None:
    pause(app, bounded)
    own = accepted(submit(app, bounded, Start_Before="600"))
    default = accepted(submit(app, bounded))
    assert time_of(own["ExpiresAt"]) - time_of(own["CreatedAt"]) == timedelta(seconds=600)
    assert time_of(default["ExpiresAt"]) - time_of(default["CreatedAt"]) == timedelta(seconds=2)
    assert ended(app, default["TaskId"])["Status"] == "Failed - it expired after 2 s in the queue."
    app.delete(f"/api/v1/tasks/{own['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.5")
def test_a_task_of_a_legacy_client_expires_as_the_backend_says(
    app: httpx.Client, backend: ScriptedBackend, bounded: str
) -> None:
    pause(app, bounded)
    task_id = report(app, Endpoint=backend.url + bounded, Body="{}", PublishToGrid=True)["TaskId"]
    assert ended(app, task_id)["Status"] == "Failed - it expired after 2 s in the queue."


@pytest.mark.contract("B24.6")
@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "soon", "1e3", "2026-11-28", "2026-11-28T06:00:00", "1.2345"])
def test_a_malformed_time_is_refused(app: httpx.Client, path: str, text: str) -> None:
    assert_problem(submit(app, path, Start_Before=text), 400, "invalid-request", field="Start-Before")


@pytest.mark.contract("B24.6")
@pytest.mark.parametrize(
    ("start", "expiry"), [("60", "60"), ("60", "59.5"), ("2999-01-02T00:00:00Z", "2999-01-01T00:00:00Z")]
)
def test_a_task_does_not_expire_before_it_starts(app: httpx.Client, path: str, start: str, expiry: str) -> None:
    response = submit(app, path, Start_After=start, Start_Before=expiry)
    assert response.status_code == 400
    assert "Start-" in response.json()["errors"][0]["pointer"]


@pytest.mark.contract("B24.7")
@pytest.mark.parametrize("name", ["Start-Before", "Max-Run"])
def test_the_times_are_part_of_what_an_idempotency_key_stands_for(app: httpx.Client, path: str, name: str) -> None:
    pause(app, path)
    first = submit(app, path, **{"Idempotency-Key": path, name: "600"})
    again = submit(app, path, **{"Idempotency-Key": path, name: "600"})
    assert accepted(first)["TaskId"] == accepted(again)["TaskId"]
    for headers in ({name: "601"}, {}):
        other = submit(app, path, **{"Idempotency-Key": path, **headers})
        assert_problem(other, 422, "idempotency-key-reused")
    app.delete(f"/api/v1/tasks/{first.json()['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.8")
def test_a_task_that_expired_can_be_replayed(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    pause(app, path)
    task_id = accepted(submit(app, path, Start_Before="0.2"))["TaskId"]
    ended(app, task_id)
    app.patch(f"/api/v1/queues{path}", json={"Paused": False}).raise_for_status()
    assert "ExpiresAt" not in app.post(f"/api/v1/tasks/{task_id}/replay").raise_for_status().json()
    assert backend.next_call(path).task_id == task_id


@pytest.mark.contract("B24.9")
@pytest.mark.parametrize(("asked", "most_s"), [("2", 2), ("2.5", 2.5), ("600", 5), (None, 5)])
def test_the_smaller_time_holds(app: httpx.Client, bounded: str, asked: str | None, most_s: float) -> None:
    pause(app, bounded)
    headers = {} if asked is None else {"Max-Run": asked}
    task = accepted(submit(app, bounded, **headers))
    assert task["MaxRunSeconds"] == most_s
    app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.10")
@pytest.mark.parametrize("is_asked", [True, False], ids=["of the submit", "of the backend"])
def test_an_attempt_that_runs_for_too_long_is_fenced_off(
    app: httpx.Client, backend: ScriptedBackend, path: str, bounded: str, is_asked: bool
) -> None:
    used = path if is_asked else bounded
    headers = {"Max-Run": "5"} if is_asked else {"Start-Before": "600"}
    task_id = accepted(submit(app, used, **headers))["TaskId"]
    first = backend.next_call(used)

    def beat() -> httpx.Response:
        return app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": str(first.attempt)})

    assert beat().status_code == 200
    assert eventually(lambda: beat().status_code == 409)
    second = backend.next_call(used)
    assert (second.task_id, second.attempt) == (task_id, first.attempt + 1)
    reasons = [event["Reason"] for event in events_of(app, task_id)]
    assert "overrun" in reasons
    assert "silence" not in reasons
    late = app.put(f"/api/v1/tasks/{task_id}/result", content=b"late", headers={"X-Task-Attempt": str(first.attempt)})
    assert late.status_code == 409
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()


@pytest.mark.contract("B24.11")
def test_the_last_attempt_that_runs_for_too_long_ends_the_task(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    task_id = accepted(submit(app, path, **{"Max-Run": "1"}))["TaskId"]
    task = eventually(lambda: _ended_or_beat(app, task_id))
    assert task is not None
    assert task["Status"] == "Failed - it ran for longer than 1 s (attempt 7 of 7)."
    last = events_of(app, task_id)[-1]
    assert (last["Reason"], last["EndReason"]) == ("give-up", "timeout")


def _ended_or_beat(app: httpx.Client, task_id: str) -> dict[str, Any] | None:
    task = task_of(app, task_id)
    if task["BackendStatus"] == "failed":
        return task
    app.post(f"/api/v1/tasks/{task_id}/heartbeat")
    return None


@pytest.mark.contract("B24.12")
@pytest.mark.parametrize("text", ["", "0", "0.9", "-1", "1e3", "long", "31536001", "2026-11-28T06:00:00Z", "1.2345"])
def test_a_malformed_run_is_refused(app: httpx.Client, path: str, text: str) -> None:
    assert_problem(submit(app, path, **{"Max-Run": text}), 400, "invalid-request", field="Max-Run")


@pytest.mark.contract("B24.13")
def test_a_view_without_bounds_has_none(app: httpx.Client, path: str) -> None:
    pause(app, path)
    task = accepted(submit(app, path))
    assert {"ExpiresAt", "MaxRunSeconds"}.isdisjoint(task)
    assert task.keys() >= TASK_KEYS
    app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()


@pytest.mark.contract("B24.14")
def test_the_headers_hold_for_all_of_many_tasks(app: httpx.Client, path: str) -> None:
    pause(app, path)
    headers = {"Start-Before": "600", "Max-Run": "60"}
    answer = app.post(f"/api/v1/submit-many{path}", content=b'{"Body": 1}\n{"Body": 2}\n', headers=headers)
    assert answer.status_code == 202, answer.text
    ids = [json.loads(line)["TaskId"] for line in answer.text.splitlines()]
    tasks = [task_of(app, task_id) for task_id in ids]
    assert [task["MaxRunSeconds"] for task in tasks] == [60, 60]
    for task in tasks:
        assert time_of(task["ExpiresAt"]) - time_of(task["CreatedAt"]) == timedelta(seconds=600)
        app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()
    refused = app.post(f"/api/v1/submit-many{path}", content=b'{"Body": 1}\n', headers={"Max-Run": "long"})
    assert_problem(refused, 400, "invalid-request", field="Max-Run")
