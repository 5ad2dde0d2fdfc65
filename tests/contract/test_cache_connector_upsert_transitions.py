"""A1: the table of cases, row by row."""

import uuid
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_support import (
    UPSERT,
    Place,
    assert_problem,
    depth,
    finished,
    kept_task,
    new_place,
    stored,
    upsert,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend


@pytest.fixture
def place(backend: ScriptedBackend) -> Place:
    return new_place(backend)


def running_task(app: httpx.Client, backend: ScriptedBackend, place: Place, body: str = '{"n":1}') -> str:
    """A task that its backend has taken and reported on."""
    task = upsert(app, Endpoint=place.url, Body=body, Status="created", BackendStatus="created", PublishToGrid=True)
    backend.next_call(place.path)
    upsert(app, TaskId=task["TaskId"], Status="running", BackendStatus="running", PublishToGrid=False)
    return task["TaskId"]


# PublishToGrid true with an empty Body


@pytest.mark.parametrize("empty", [{}, {"Body": None}, {"Body": ""}], ids=str)
def test_publishing_with_an_empty_body_sends_the_kept_one_again(
    app: httpx.Client, backend: ScriptedBackend, place: Place, empty: dict[str, Any]
) -> None:
    task_id = running_task(app, backend, place, '{"original":true}')
    upsert(app, TaskId=task_id, Endpoint=place.url, BackendStatus="created", PublishToGrid=True, **empty)
    again = backend.next_call(place.path)
    assert (again.task_id, again.body) == (task_id, b'{"original":true}')


def test_the_body_that_is_sent_again_may_be_of_any_size(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    body = "0123456789" * 20_000
    task_id = running_task(app, backend, place, body)
    next_step = new_place(backend)
    upsert(app, TaskId=task_id, Endpoint=next_step.url, BackendStatus="created", PublishToGrid=True)
    assert backend.next_call(next_step.path).body == body.encode()


def test_the_original_body_survives_several_hops(app: httpx.Client, backend: ScriptedBackend, place: Place) -> None:
    task_id = running_task(app, backend, place, "the original")
    for _ in range(3):
        step = new_place(backend)
        upsert(app, TaskId=task_id, Endpoint=step.url, BackendStatus="created", PublishToGrid=True)
        assert backend.next_call(step.path).body == b"the original"


@pytest.mark.parametrize("empty", [{}, {"Body": None}, {"Body": ""}], ids=str)
def test_publishing_is_refused_when_no_body_was_ever_kept(
    app: httpx.Client, place: Place, empty: dict[str, Any]
) -> None:
    bodiless = upsert(app, Endpoint=place.url)
    for task_id in (bodiless["TaskId"], str(uuid.uuid4()), None):
        request = {"TaskId": task_id, "Endpoint": place.url, "PublishToGrid": True, **empty}
        assert_problem(app.post(UPSERT, json=request), 400, "/Body")
    assert stored(app, bodiless["TaskId"]) == bodiless
    assert depth(app, place) == {"waiting": 1}


# The pipeline hop


def test_a_hop_replaces_the_body_goes_to_the_new_endpoint_and_takes_the_counts_along(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task_id = running_task(app, backend, place)
    assert depth(app, place) == {"running": 1}
    next_step = new_place(backend)
    task = upsert(
        app,
        TaskId=task_id,
        Endpoint=next_step.url,
        Status="created",
        BackendStatus="created",
        Body='{"n":2}',
        PublishToGrid=True,
    )
    assert (task["TaskId"], task["BackendStatus"]) == (task_id, "created")
    assert (task["Endpoint"], task["EndpointPath"]) == (next_step.url, next_step.path)
    call = backend.next_call(next_step.path)
    assert (call.task_id, call.body) == (task_id, b'{"n":2}')
    assert depth(app, place) == {}
    assert sum(depth(app, next_step).values()) == 1
    upsert(app, TaskId=task_id, Endpoint=next_step.url, Status="running", BackendStatus="running")
    assert (depth(app, place), depth(app, next_step)) == ({}, {"running": 1})
    upsert(app, TaskId=task_id, Endpoint=next_step.url, Status="completed", BackendStatus="completed")
    assert (depth(app, place), depth(app, next_step)) == ({}, {"completed": 1})
    assert backend.untaken(place.path) == backend.untaken(next_step.path) == 0


def test_a_hop_may_come_before_the_first_step_has_reported_anything(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    next_step = new_place(backend)

    def hand_on_at_once(call: Call) -> Answer | None:
        hop = {"TaskId": call.task_id, "Endpoint": next_step.url, "BackendStatus": "created"}
        upsert(app, **hop, Body="next", PublishToGrid=True)
        return None

    backend.react(place.path, hand_on_at_once)
    task = upsert(app, Endpoint=place.url, Body="first", PublishToGrid=True)
    call = backend.next_call(next_step.path)
    assert (call.task_id, call.body) == (task["TaskId"], b"next")
    assert depth(app, place) == {}


def test_a_hop_to_the_same_endpoint_is_another_dispatch_there(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task_id = running_task(app, backend, place)
    upsert(app, TaskId=task_id, Endpoint=place.url, BackendStatus="created", Body="again", PublishToGrid=True)
    assert backend.next_call(place.path).body == b"again"
    assert sum(depth(app, place).values()) == 1


def test_an_update_that_names_another_endpoint_takes_the_counts_along_too(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task_id = running_task(app, backend, place)
    other = new_place(backend)
    upsert(app, TaskId=task_id, Endpoint=other.url, BackendStatus="running", PublishToGrid=False)
    assert (depth(app, place), depth(app, other)) == ({}, {"running": 1})


# An update that leaves a finished task


@pytest.mark.parametrize("final", ["completed", "failed"])
@pytest.mark.parametrize(
    "change",
    [
        {"BackendStatus": "running", "Status": "running again"},
        {"BackendStatus": "created", "Status": "created"},
        {"BackendStatus": "created", "Status": "created", "Body": "{}", "PublishToGrid": True},
        {"Status": "only another text"},
        {"Body": "only another body"},
        {"BackendStatus": "other end", "Status": "the other end"},
    ],
    ids=["running", "created", "published", "status", "body", "the other end"],
)
def test_a_finished_task_takes_no_change_and_is_told_in_the_refusal(
    app: httpx.Client, place: Place, final: str, change: dict[str, Any]
) -> None:
    task = kept_task(app, place, BackendStatus=final, Status=f"{final} - it is over")
    if change.get("BackendStatus") == "other end":
        change = {**change, "BackendStatus": "failed" if final == "completed" else "completed"}
    for request in (
        {"TaskId": task["TaskId"], **change},
        [{"TaskId": task["TaskId"], "Endpoint": place.url, **change}],
    ):
        document = assert_problem(app.post(UPSERT, json=request), 409)
        assert {key: document[key] for key in task} == task
    assert stored(app, task["TaskId"]) == task
    assert depth(app, place) == {final: 1}


def test_a_finished_task_does_not_move_to_another_endpoint(
    app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task = kept_task(app, place, BackendStatus="completed")
    other = new_place(backend)
    hop = {"TaskId": task["TaskId"], "Endpoint": other.url, "BackendStatus": "created", "PublishToGrid": True}
    assert_problem(app.post(UPSERT, json=hop), 409)
    assert (depth(app, place), depth(app, other)) == ({"completed": 1}, {})
    assert backend.untaken(other.path) == 0


@pytest.mark.parametrize("final", ["completed", "failed"])
@pytest.mark.parametrize("status", [{"Status": "the end"}, {}], ids=["with a status", "without one"])
@pytest.mark.parametrize("as_array", [False, True], ids=["object", "array"])
def test_the_same_terminal_update_again_is_fine_and_changes_nothing(
    app: httpx.Client, place: Place, final: str, status: dict[str, str], as_array: bool
) -> None:
    task_id = kept_task(app, place)["TaskId"]
    update = {"TaskId": task_id, "Endpoint": place.url, "BackendStatus": final, "PublishToGrid": False, **status}
    etag = ""
    answers: list[Any] = []
    for _ in range(3):
        response = app.post(UPSERT, json=[update] if as_array else update)
        assert response.status_code == 200, response.text
        answers.append(response.json())
        before, etag = etag, app.get(f"/api/v1/tasks/{task_id}").headers["ETag"]
        assert etag == (before or etag)
    assert answers[0]["BackendStatus"] == final
    assert answers[1:] == answers[:1] * 2
    assert depth(app, place) == {final: 1}


# Publishing to Event Grid fails


def test_when_event_grid_refuses_the_created_task_is_answered_and_published_later(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, place: Place
) -> None:
    # 501 is none of the answers that the publisher itself tries again.
    stack.set_faults({"refusePublish": {"status": 501, "next": 1}})
    try:
        task = upsert(
            app, Endpoint=place.url, Body="{}", Status="created", BackendStatus="created", PublishToGrid=True
        )
        assert (task["BackendStatus"], task["Status"]) == ("created", "created")
        found = stored(app, task["TaskId"])
        assert found is not None
        assert (found["BackendStatus"], found["Status"]) == ("created", "created")
        assert backend.next_call(place.path).task_id == task["TaskId"]
        upsert(app, TaskId=task["TaskId"], BackendStatus="completed", Status="completed")
        assert finished(app, task["TaskId"])["BackendStatus"] == "completed"
    finally:
        stack.set_faults({})
