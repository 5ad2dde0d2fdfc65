"""Cancel, replay, heartbeat and list (contract B3, B4, B5, B8)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.contract.v1_support import keep, new_path, next_step, report, task_of
from tests.scripted_backend import Answer, ScriptedBackend


def submit(app: httpx.Client, path: str, **headers: str) -> str:
    response = app.post(f"/api/v1/submit{path}", content=b"work", headers=headers)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


def states(app: httpx.Client, task_id: str) -> list[str]:
    events = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
    return [event["State"] for event in events]


@pytest.mark.contract("B3.1")
def test_cancelled_waiting_task_is_never_dispatched(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(503, {"Retry-After": "1"}))
    task_id = submit(app, path)
    backend.next_call(path)
    while task_of(app, task_id)["Status"] != "Awaiting service availability":
        app.get(f"/api/v1/tasks/{task_id}", params={"wait": 5})
    response = app.delete(f"/api/v1/tasks/{task_id}")
    assert response.status_code == 200
    assert (response.json()["BackendStatus"], response.json()["Status"]) == ("cancelled", "Cancelled")
    calls = backend.untaken(path)
    # Longer than its pause: meanwhile a task that still waited would have been dispatched.
    other = submit(app, marker := new_path())
    assert backend.next_call(marker).task_id == other
    assert app.get(f"/api/v1/tasks/{task_id}", params={"wait": 3}).json()["BackendStatus"] == "cancelled"
    assert backend.untaken(path) == calls
    assert states(app, task_id)[-1] == "cancelled"


@pytest.mark.contract("B3.2")
def test_model_service_of_a_cancelled_task_gets_409(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    for update in ({"BackendStatus": "running"}, {"BackendStatus": "completed"}, {"Status": "still here"}):
        response = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, **update})
        assert response.status_code == 409
        assert response.json()["Task"]["BackendStatus"] == "cancelled"
    assert app.put(f"/api/v1/tasks/{task_id}/result", content=b"late").status_code == 409
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 409


@pytest.mark.contract("B3.3")
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_cancelling_a_finished_task_is_a_conflict(app: httpx.Client, backend: ScriptedBackend, end: str) -> None:
    task_id = keep(app, backend, BackendStatus=end)
    before = task_of(app, task_id)
    response = app.delete(f"/api/v1/tasks/{task_id}")
    assert response.status_code == 409
    assert response.json()["Task"] == before
    assert task_of(app, task_id) == before


@pytest.mark.contract("B3.4")
def test_repeated_cancel_succeeds_and_changes_nothing(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend)
    first = app.delete(f"/api/v1/tasks/{task_id}")
    second = app.delete(f"/api/v1/tasks/{task_id}")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["ETag"] == second.headers["ETag"]


@pytest.mark.contract("B4.1")
def test_replay_dispatches_the_failed_task_with_its_body_as_a_new_attempt(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    backend.script(path, Answer(400), Answer(200))
    task_id = submit(app, path, **{"Content-Type": "text/plain"})
    first = backend.next_call(path)
    while task_of(app, task_id)["BackendStatus"] != "failed":
        app.get(f"/api/v1/tasks/{task_id}", params={"wait": 5})
    response = app.post(f"/api/v1/tasks/{task_id}/replay")
    assert response.status_code == 202
    assert (response.json()["BackendStatus"], response.json()["Attempt"]) == ("created", 2)
    again = backend.next_call(path)
    assert (again.task_id, again.body, again.headers["content-type"]) == (task_id, b"work", "text/plain")
    assert again.attempt > first.attempt
    assert (
        report(app, TaskId=task_id, BackendStatus="completed", Attempt=again.attempt)["BackendStatus"] == "completed"
    )


@pytest.mark.contract("B4.2")
def test_replay_removes_the_result_of_the_failed_attempt(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, Body="work")
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"half").raise_for_status()
    report(app, TaskId=task_id, BackendStatus="failed")
    app.post(f"/api/v1/tasks/{task_id}/replay").raise_for_status()
    assert app.get(f"/api/v1/tasks/{task_id}/result").status_code == 404


@pytest.mark.contract("B4.3")
@pytest.mark.parametrize("state", ["created", "running", "completed"])
def test_only_a_failed_task_can_be_replayed(app: httpx.Client, backend: ScriptedBackend, state: str) -> None:
    task_id = keep(app, backend, Body="work", BackendStatus=state)
    before = task_of(app, task_id)
    assert app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 409
    assert task_of(app, task_id) == before


@pytest.mark.contract("B4.4")
def test_failed_task_without_a_body_cannot_be_replayed(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="failed")
    response = app.post(f"/api/v1/tasks/{task_id}/replay")
    assert response.status_code == 400
    assert task_of(app, task_id)["BackendStatus"] == "failed"


@pytest.mark.contract("B5.1")
def test_heartbeat_counts_for_the_current_attempt_only(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "1"}).status_code == 200
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 200
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "7"}).status_code == 409
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "x"}).status_code == 400
    assert states(app, task_id) == ["running"]


@pytest.mark.contract("B5.2")
def test_heartbeat_of_a_waiting_task_is_refused(app: httpx.Client, backend: ScriptedBackend) -> None:
    assert app.post(f"/api/v1/tasks/{keep(app, backend)}/heartbeat").status_code == 409


@pytest.mark.contract("B3.5", "B4.5", "B5.3")
@pytest.mark.parametrize(("method", "action"), [("DELETE", ""), ("POST", "/replay"), ("POST", "/heartbeat")])
@pytest.mark.parametrize("task_id", ["no-such-task", "a%20b", "x" * 129], ids=str)
def test_cancel_replay_and_heartbeat_of_an_unknown_task_are_404(
    app: httpx.Client, method: str, action: str, task_id: str
) -> None:
    response = app.request(method, f"/api/v1/tasks/{task_id}{action}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


def pages(app: httpx.Client, **query: str | int) -> Iterator[list[str]]:
    cursor: dict[str, str] = {}
    while True:
        page = app.get("/api/v1/tasks", params={**query, **cursor}).raise_for_status().json()
        yield [task["TaskId"] for task in page["Tasks"]]
        if page["NextCursor"] is None:
            return
        cursor = {"cursor": page["NextCursor"]}


def listed(app: httpx.Client, **query: str | int) -> list[str]:
    return [task_id for page in pages(app, **query) for task_id in page]


@pytest.mark.contract("B8.1")
def test_list_pages_through_all_tasks_of_a_path_newest_first(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_ids = [keep(app, backend, path) for _ in range(23)]
    born = {task_id: task_of(app, task_id)["CreatedAt"] for task_id in task_ids}
    got = list(pages(app, path=path, limit=5))
    assert sorted(task_id for page in got for task_id in page) == sorted(task_ids)
    assert all(len(page) <= 5 for page in got)
    times = [born[task_id] for page in got for task_id in page]
    assert times == sorted(times, reverse=True)


@pytest.mark.contract("B8.2")
def test_list_by_status_holds_only_tasks_of_that_status(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    by_state = {
        state: [keep(app, backend, path, BackendStatus=state) for _ in range(3)]
        for state in ("created", "running", "completed", "failed")
    }
    app.delete(f"/api/v1/tasks/{by_state['created'][0]}").raise_for_status()
    by_state["cancelled"] = [by_state["created"].pop(0)]
    for state, task_ids in by_state.items():
        assert sorted(listed(app, path=path, status=state, limit=2)) == sorted(task_ids)


@pytest.mark.contract("B8.3")
def test_paging_returns_each_task_once_while_others_change(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_ids = [keep(app, backend, path, Body="work") for _ in range(20)]
    got: list[str] = []
    for number, page in enumerate(pages(app, path=path, limit=3)):
        got += page
        keep(app, backend, path)
        report(app, TaskId=task_ids[number], BackendStatus="running")
        next_step(app, task_ids[-1 - number])
    assert sorted(got) == sorted(task_ids)


@pytest.mark.contract("B8.4")
def test_list_without_a_path_covers_all_paths(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_ids = [keep(app, backend, new_path()) for _ in range(3)]
    newest = app.get("/api/v1/tasks", params={"limit": 200}).raise_for_status().json()["Tasks"]
    assert set(task_ids) <= {task["TaskId"] for task in newest}


@pytest.mark.contract("B8.4")
def test_task_that_moves_to_another_path_is_listed_there(app: httpx.Client, backend: ScriptedBackend) -> None:
    here, there = new_path(), new_path()
    task_id = keep(app, backend, here)
    report(app, TaskId=task_id, Endpoint=backend.url + there, BackendStatus="running")
    assert (listed(app, path=here), listed(app, path=there)) == ([], [task_id])


@pytest.mark.contract("B8.5")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "201", "-1", "x", "1e3", "٣")),
        *(("status", value) for value in ("unknown", "Running", "created,failed")),
        *(("cursor", value) for value in ("x", "1-", "zz-1", "1-a b", "-1-a")),
        *(("path", value) for value in ("/v1/../x", "/v1//x", "/v1/a;b", "x" * 300)),
    ],
)
def test_bad_list_parameter_is_refused_and_named(app: httpx.Client, name: str, value: str) -> None:
    response = app.get("/api/v1/tasks", params={name: value})
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == [name]
