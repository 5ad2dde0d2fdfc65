"""Cancel, replay, heartbeat and list (part B)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.contract.v1_support import hop, keep, new_path, report, task_of
from tests.scripted_backend import Answer, ScriptedBackend


def submit(app: httpx.Client, path: str, **headers: str) -> str:
    response = app.post(f"/api/v1/submit{path}", content=b"work", headers=headers)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


def states(app: httpx.Client, task_id: str) -> list[str]:
    events = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
    return [event["State"] for event in events]


def test_a_waiting_task_that_is_cancelled_is_never_dispatched(app: httpx.Client, backend: ScriptedBackend) -> None:
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
    # Longer than its pause: a task that was still to be dispatched would be, meanwhile.
    other = submit(app, marker := new_path())
    assert backend.next_call(marker).task_id == other
    assert app.get(f"/api/v1/tasks/{task_id}", params={"wait": 3}).json()["BackendStatus"] == "cancelled"
    assert backend.untaken(path) == calls
    assert states(app, task_id)[-1] == "cancelled"


def test_who_works_on_a_cancelled_task_is_told_by_a_409(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    for update in ({"BackendStatus": "running"}, {"BackendStatus": "completed"}, {"Status": "still here"}):
        response = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, **update})
        assert response.status_code == 409
        assert response.json()["BackendStatus"] == "cancelled"
    assert app.put(f"/api/v1/tasks/{task_id}/result", content=b"late").status_code == 409
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 409


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_a_finished_task_is_not_cancelled(app: httpx.Client, backend: ScriptedBackend, end: str) -> None:
    task_id = keep(app, backend, BackendStatus=end)
    before = task_of(app, task_id)
    response = app.delete(f"/api/v1/tasks/{task_id}")
    assert response.status_code == 409
    assert response.json()["BackendStatus"] == end
    assert task_of(app, task_id) == before


def test_a_repeated_cancel_finds_the_task_cancelled_and_changes_nothing(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    task_id = keep(app, backend)
    first = app.delete(f"/api/v1/tasks/{task_id}")
    second = app.delete(f"/api/v1/tasks/{task_id}")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["ETag"] == second.headers["ETag"]


def test_a_failed_task_is_replayed_with_its_body_as_a_new_attempt(
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


def test_a_replay_forgets_the_result_of_the_failed_run(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, Body="work")
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"half").raise_for_status()
    report(app, TaskId=task_id, BackendStatus="failed")
    app.post(f"/api/v1/tasks/{task_id}/replay").raise_for_status()
    assert app.get(f"/api/v1/tasks/{task_id}/result").status_code == 404


@pytest.mark.parametrize("state", ["created", "running", "completed"])
def test_only_a_failed_task_can_be_replayed(app: httpx.Client, backend: ScriptedBackend, state: str) -> None:
    task_id = keep(app, backend, Body="work", BackendStatus=state)
    before = task_of(app, task_id)
    assert app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 409
    assert task_of(app, task_id) == before


def test_a_failed_task_without_a_body_cannot_be_replayed(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="failed")
    response = app.post(f"/api/v1/tasks/{task_id}/replay")
    assert response.status_code == 400
    assert task_of(app, task_id)["BackendStatus"] == "failed"


def test_a_heartbeat_of_the_current_attempt_is_taken_and_of_an_older_one_refused(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "1"}).status_code == 200
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 200
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "7"}).status_code == 409
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers={"X-Task-Attempt": "x"}).status_code == 400
    assert states(app, task_id) == ["running"]


def test_a_waiting_task_has_no_heart(app: httpx.Client, backend: ScriptedBackend) -> None:
    assert app.post(f"/api/v1/tasks/{keep(app, backend)}/heartbeat").status_code == 409


@pytest.mark.parametrize(("method", "action"), [("DELETE", ""), ("POST", "/replay"), ("POST", "/heartbeat")])
@pytest.mark.parametrize("task_id", ["no-such-task", "%00", "a%20b", "x" * 129], ids=str)
def test_an_unknown_task_is_a_404(app: httpx.Client, method: str, action: str, task_id: str) -> None:
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


def test_a_list_has_all_tasks_of_a_path_newest_first_in_pages(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_ids = [keep(app, backend, path) for _ in range(23)]
    born = {task_id: task_of(app, task_id)["CreatedAt"] for task_id in task_ids}
    got = list(pages(app, path=path, limit=5))
    assert sorted(task_id for page in got for task_id in page) == sorted(task_ids)
    assert all(len(page) <= 5 for page in got)
    times = [born[task_id] for page in got for task_id in page]
    assert times == sorted(times, reverse=True)


def test_a_list_by_status_has_those_alone(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    by_state = {
        state: [keep(app, backend, path, BackendStatus=state) for _ in range(3)]
        for state in ("created", "running", "completed", "failed")
    }
    app.delete(f"/api/v1/tasks/{by_state['created'][0]}").raise_for_status()
    by_state["cancelled"] = [by_state["created"].pop(0)]
    for state, task_ids in by_state.items():
        assert sorted(listed(app, path=path, status=state, limit=2)) == sorted(task_ids)


def test_paging_meets_each_task_once_while_others_come_go_and_change(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    task_ids = [keep(app, backend, path, Body="work") for _ in range(20)]
    got: list[str] = []
    for number, page in enumerate(pages(app, path=path, limit=3)):
        got += page
        keep(app, backend, path)
        report(app, TaskId=task_ids[number], BackendStatus="running")
        hop(app, task_ids[-1 - number])
    assert sorted(got) == sorted(task_ids)


def test_a_list_without_a_path_is_of_all_paths(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_ids = [keep(app, backend, new_path()) for _ in range(3)]
    newest = app.get("/api/v1/tasks", params={"limit": 200}).raise_for_status().json()["Tasks"]
    assert set(task_ids) <= {task["TaskId"] for task in newest}


def test_a_task_that_goes_to_another_path_is_listed_there(app: httpx.Client, backend: ScriptedBackend) -> None:
    here, there = new_path(), new_path()
    task_id = keep(app, backend, here)
    report(app, TaskId=task_id, Endpoint=backend.url + there, BackendStatus="running")
    assert (listed(app, path=here), listed(app, path=there)) == ([], [task_id])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "201", "-1", "x", "1e3", "٣")),
        *(("status", value) for value in ("unknown", "Running", "created,failed")),
        *(("cursor", value) for value in ("x", "1-", "zz-1", "1-a b", "-1-a")),
    ],
)
def test_a_bad_list_parameter_is_named(app: httpx.Client, name: str, value: str) -> None:
    response = app.get("/api/v1/tasks", params={name: value})
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == [name]
