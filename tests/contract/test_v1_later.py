"""Tasks that start later (contract B23)."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_support import DELIVERY, WEBHOOK
from tests.contract.test_backend_webhook import dispatch
from tests.contract.v1_support import assert_problem, complete_on_call, ended, new_path, report, submit, task_of
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

FAR = "86400"
MONTH_S = 30 * 86_400


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def depth(app: httpx.Client, path: str) -> dict[str, Any]:
    return app.get(f"/api/v1/queues{path}").raise_for_status().json()


def listed(app: httpx.Client, path: str, **filters: str) -> list[str]:
    page = app.get("/api/v1/tasks", params={"path": path, **filters}).raise_for_status().json()
    return [task["TaskId"] for task in page["Tasks"]]


def far(app: httpx.Client, path: str, **headers: str) -> str:
    """A task that starts tomorrow."""
    response = submit(app, path, Start_After=FAR, **headers)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


@pytest.mark.contract("B23.1")
@pytest.mark.parametrize("form", ["seconds", "fraction", "time", "another zone"])
def test_a_task_starts_when_it_is_told_to_and_not_before(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, form: str
) -> None:
    path = new_path()
    called_at: list[datetime] = []

    def reaction(call: Call) -> Answer | None:
        called_at.append(datetime.now(UTC))
        with stack.client() as client:
            report(client, TaskId=call.task_id, BackendStatus="completed", Status="done")
        return None

    backend.react(path, reaction)
    soon = datetime.now(UTC) + timedelta(seconds=2)
    text = {
        "seconds": "2",
        "fraction": "1.250",
        "time": iso(soon),
        "another zone": soon.astimezone(tz=None).isoformat(),
    }[form]
    begun = datetime.now(UTC)
    response = submit(app, path, Start_After=text)
    assert response.status_code == 202
    task = response.json()
    assert (task["BackendStatus"], task["Status"], task["Attempt"]) == ("created", "created", 1)
    assert "QueuePosition" not in task
    assert "EstimatedStart" not in task
    start = moment(task["StartAt"])
    if form in ("seconds", "fraction"):
        assert start >= begun + timedelta(seconds=float(text)) - timedelta(milliseconds=2)
    else:
        assert abs(start - soon) < timedelta(milliseconds=2)
    task = ended(app, task["TaskId"])
    assert task["BackendStatus"] == "completed"
    assert moment(task["StartAt"]) == start
    assert len(called_at) == 1
    assert called_at[0] >= start


@pytest.mark.contract("B23.2")
@pytest.mark.parametrize("text", ["0", "2020-01-01T00:00:00Z", "0.001"])
def test_a_start_that_is_over_is_now(app: httpx.Client, stack: Stack, backend: ScriptedBackend, text: str) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    task = submit(app, path, Start_After=text).json()
    assert moment(task["StartAt"]) >= moment(task["CreatedAt"])
    assert ended(app, task["TaskId"])["BackendStatus"] == "completed"


@pytest.mark.contract("B23.3")
@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "-1", "1e3", "5 minutes", "1.2345", "+5", "٣", "0x10", "nan", "inf", "1,5", "9" * 10),
        *("2026-11-28", "2026-11-28T06:00:00", "06:00:00Z", "2026-13-28T06:00:00Z", "2026-11-28T06:00:00+99:99"),
        *(str(MONTH_S + 1), "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+00:01 or so"),
    ],
)
def test_what_is_no_start_or_too_far_ahead_is_refused(app: httpx.Client, text: str) -> None:
    path = new_path()
    response = app.post(f"/api/v1/submit{path}", content=b"{}", headers={"Start-After": text.encode()})
    assert_problem(response, 400, "invalid-request", field="Start-After")
    assert listed(app, path) == []


@pytest.mark.contract("B23.3")
def test_the_furthest_start_is_taken(app: httpx.Client) -> None:
    task = submit(app, new_path(), Start_After=str(MONTH_S)).json()
    assert moment(task["StartAt"]) - moment(task["CreatedAt"]) == timedelta(seconds=MONTH_S)
    app.delete(f"/api/v1/tasks/{task['TaskId']}").raise_for_status()


@pytest.mark.contract("B23.4", "B23.7")
def test_the_status_of_a_delayed_task_says_when_it_starts_and_a_cancel_ends_it(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    task_id = far(app, path)
    response = app.get(f"/api/v1/tasks/{task_id}")
    task = response.json()
    assert (task["BackendStatus"], "QueuePosition" in task) == ("created", False)
    assert response.headers["retry-after"] == "30"
    assert response.headers["etag"].startswith('"')
    soon = submit(app, path, Start_After="20").json()["TaskId"]
    assert 1 <= int(app.get(f"/api/v1/tasks/{soon}").headers["retry-after"]) <= 20
    for each in (task_id, soon):
        cancelled = app.delete(f"/api/v1/tasks/{each}").raise_for_status().json()
        assert cancelled["BackendStatus"] == "cancelled"
    assert moment(cancelled["StartAt"]) > moment(cancelled["Timestamp"])
    assert (depth(app, path)["Delayed"], depth(app, path)["Cancelled"]) == (0, 2)
    assert backend.untaken(path) == 0


@pytest.mark.contract("B23.5", "B23.6")
def test_delayed_tasks_are_counted_and_listed_apart(app: httpx.Client) -> None:
    path = new_path()
    assert app.patch(f"/api/v1/queues{path}", json={"Paused": True}).status_code == 200
    delayed, waiting = far(app, path), submit(app, path).json()["TaskId"]
    counted = depth(app, path)
    assert (counted["Waiting"], counted["Delayed"], counted["Demand"]) == (1, 1, 1)
    assert moment(counted["OldestWaitingSince"]) >= moment(task_of(app, delayed)["CreatedAt"])
    assert moment(counted["OldestWaitingSince"]) == moment(task_of(app, waiting)["CreatedAt"])
    assert listed(app, path) == [waiting, delayed]
    assert listed(app, path, status="created") == [waiting, delayed]
    assert listed(app, path, status="delayed") == [delayed]
    assert listed(app, path, status="running") == []
    app.delete(f"/api/v1/tasks/{delayed}").raise_for_status()
    assert listed(app, path, status="delayed") == []


@pytest.mark.contract("B23.5")
def test_a_path_with_nothing_but_delayed_tasks_is_among_the_queues(app: httpx.Client) -> None:
    path = new_path()
    task_id = far(app, path)
    counted = depth(app, path)
    assert (counted["Delayed"], counted["Demand"], counted["OldestWaitingSince"]) == (1, 0, None)
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()


@pytest.mark.contract("B23.8")
def test_the_start_is_part_of_what_a_key_stands_for(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    path, key = new_path(), uuid.uuid4().hex
    complete_on_call(stack, backend, path)
    first = submit(app, path, Idempotency_Key=key, Start_After="1")
    again = submit(app, path, Idempotency_Key=key, Start_After="1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["TaskId"] == first.json()["TaskId"]
    assert again.json()["StartAt"] == first.json()["StartAt"]
    for headers in ({"Start_After": "1.0"}, {}):
        assert_problem(submit(app, path, Idempotency_Key=key, **headers), 422, "idempotency-key-reused")
    ended(app, first.json()["TaskId"])
    late = submit(app, path, Idempotency_Key=key, Start_After="1").json()
    assert (late["TaskId"], late["BackendStatus"]) == (first.json()["TaskId"], "completed")
    assert backend.untaken(path) == 1


@pytest.mark.contract("B23.9")
def test_the_delay_is_for_the_first_step_alone(app: httpx.Client, stack: Stack, backend: ScriptedBackend) -> None:
    first, second = new_path(), new_path()
    for path in (first, second):
        complete_on_call(stack, backend, path)
    task = submit(app, first, Start_After="1", Pipeline=second).json()
    assert (task["Step"], "StartAt" in task) == (1, True)
    done = ended(app, task["TaskId"])
    assert (done["BackendStatus"], done["Step"]) == ("completed", 2)


@pytest.mark.contract("B23.9")
def test_a_replay_starts_at_once(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = far(app, path)
    report(app, TaskId=task_id, BackendStatus="failed", Status="failed")
    assert app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 202
    call = backend.next_call(path)
    assert (call.task_id, call.attempt) == (task_id, 2)


@pytest.mark.contract("B23.10")
def test_a_delayed_child_keeps_its_batch_open(app: httpx.Client, stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    batch_id = app.post("/api/v1/batches", json={}).raise_for_status().json()["TaskId"]
    child = submit(app, path, Start_After="2", Batch=batch_id).json()
    sealed = app.post(f"/api/v1/batches/{batch_id}/seal").raise_for_status().json()
    assert (sealed["Total"], sealed["Unfinished"]) == (1, 1)
    done = ended(app, batch_id)
    assert (done["BackendStatus"], done["Completed"]) == ("completed", 1)
    assert moment(done["Timestamp"]) >= moment(child["StartAt"])


@pytest.mark.contract("B23.11")
def test_a_draining_queue_refuses_a_delayed_task(app: httpx.Client) -> None:
    path = new_path()
    assert app.patch(f"/api/v1/queues{path}", json={"Draining": True}).status_code == 200
    assert_problem(submit(app, path, Start_After=FAR), 503, "queue-draining")
    assert listed(app, path) == []
    app.patch(f"/api/v1/queues{path}", json={"Draining": False}).raise_for_status()


@pytest.mark.contract("B23.12")
def test_an_event_starts_no_delayed_task(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = far(app, path)
    response = app.post(WEBHOOK, json=[dispatch(task_id)], headers=DELIVERY)
    assert response.status_code == 200, response.text
    assert (depth(app, path)["Delayed"], depth(app, path)["InFlight"], backend.untaken(path)) == (1, 0, 0)
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()


@pytest.mark.contract("B23.13")
def test_a_report_of_a_delayed_task_is_believed(app: httpx.Client) -> None:
    path = new_path()
    task_id = far(app, path)
    report(app, TaskId=task_id, BackendStatus="running", Status="on it")
    counted = depth(app, path)
    assert (counted["Delayed"], counted["Running"]) == (0, 1)
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    assert task_of(app, task_id)["BackendStatus"] == "completed"


@pytest.mark.contract("B23.14")
def test_metrics_tell_delayed_tasks_apart(app: httpx.Client) -> None:
    path = new_path()
    task_id = far(app, path)

    def shown() -> bool:
        lines = app.get("/api/v1/metrics").raise_for_status().text.splitlines()
        return f'backbone_tasks{{path="{path}",state="delayed"}} 1' in lines

    eventually(shown)
    text = app.get("/api/v1/metrics").raise_for_status().text
    assert f'backbone_tasks{{path="{path}",state="created"}} 0' in text.splitlines()
    assert f'backbone_queue_waiting{{path="{path}"}} 0' in text.splitlines() or "backbone_queue_waiting" not in text
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()


@pytest.mark.contract("B23.15")
def test_many_tasks_start_later_together(app: httpx.Client, stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    lines = b'{"Body": "one"}\n{"Body": "two"}\n'
    response = app.post(f"/api/v1/submit-many{path}", content=lines, headers={"Start-After": "1"})
    assert response.status_code == 202, response.text
    ids = [json.loads(line)["TaskId"] for line in response.text.splitlines()]
    tasks = [ended(app, task_id) for task_id in ids]
    assert all(moment(task["Timestamp"]) >= moment(task["StartAt"]) for task in tasks)
    refused = app.post(f"/api/v1/submit-many{path}", content=lines, headers={"Start-After": "soon"})
    assert_problem(refused, 400, "invalid-request", field="Start-After")
