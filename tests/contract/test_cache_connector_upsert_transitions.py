"""CacheConnectorUpsert (contract A1): a known task is published again, moves on, or has ended."""

import uuid
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_support import (
    UPSERT,
    Endpoint,
    assert_problem,
    depth,
    finished,
    kept_task,
    new_endpoint,
    stored,
    upsert,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


def running_task(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, body: str = '{"n":1}') -> str:
    """A task that its backend has accepted and reported as running."""
    task = upsert(
        app, Endpoint=endpoint.url, Body=body, Status="created", BackendStatus="created", PublishToGrid=True
    )
    backend.next_call(endpoint.path)
    upsert(app, TaskId=task["TaskId"], Status="running", BackendStatus="running", PublishToGrid=False)
    return task["TaskId"]


# PublishToGrid true without a Body


@pytest.mark.contract("A1.19")
@pytest.mark.parametrize("empty", [{}, {"Body": None}, {"Body": ""}], ids=str)
def test_publishing_without_a_body_sends_the_kept_body_again(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, empty: dict[str, Any]
) -> None:
    task_id = running_task(app, backend, endpoint, '{"original":true}')
    upsert(app, TaskId=task_id, Endpoint=endpoint.url, BackendStatus="created", PublishToGrid=True, **empty)
    again = backend.next_call(endpoint.path)
    assert (again.task_id, again.body) == (task_id, b'{"original":true}')


@pytest.mark.contract("A1.19")
def test_kept_body_of_any_size_is_sent_again(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint) -> None:
    body = "0123456789" * 20_000
    task_id = running_task(app, backend, endpoint, body)
    next_step = new_endpoint(backend)
    upsert(app, TaskId=task_id, Endpoint=next_step.url, BackendStatus="created", PublishToGrid=True)
    assert backend.next_call(next_step.path).body == body.encode()


@pytest.mark.contract("A1.19")
def test_original_body_survives_several_pipeline_steps(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = running_task(app, backend, endpoint, "the original")
    for _ in range(3):
        step = new_endpoint(backend)
        upsert(app, TaskId=task_id, Endpoint=step.url, BackendStatus="created", PublishToGrid=True)
        assert backend.next_call(step.path).body == b"the original"


@pytest.mark.contract("A1.20")
@pytest.mark.parametrize("empty", [{}, {"Body": None}, {"Body": ""}], ids=str)
def test_publishing_without_any_kept_body_is_refused(
    app: httpx.Client, endpoint: Endpoint, empty: dict[str, Any]
) -> None:
    bodiless = upsert(app, Endpoint=endpoint.url)
    for task_id in (bodiless["TaskId"], str(uuid.uuid4()), None):
        request = {"TaskId": task_id, "Endpoint": endpoint.url, "PublishToGrid": True, **empty}
        assert_problem(app.post(UPSERT, json=request), 400, "/Body")
    assert stored(app, bodiless["TaskId"]) == bodiless
    assert depth(app, endpoint) == {"waiting": 1}


# Pipeline steps


@pytest.mark.contract("A1.21")
def test_pipeline_step_replaces_the_body_and_moves_the_task_and_its_counts(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = running_task(app, backend, endpoint)
    assert depth(app, endpoint) == {"running": 1}
    next_step = new_endpoint(backend)
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
    assert depth(app, endpoint) == {}
    assert sum(depth(app, next_step).values()) == 1
    upsert(app, TaskId=task_id, Endpoint=next_step.url, Status="running", BackendStatus="running")
    assert (depth(app, endpoint), depth(app, next_step)) == ({}, {"running": 1})
    upsert(app, TaskId=task_id, Endpoint=next_step.url, Status="completed", BackendStatus="completed")
    assert (depth(app, endpoint), depth(app, next_step)) == ({}, {"completed": 1})
    assert backend.untaken(endpoint.path) == backend.untaken(next_step.path) == 0


@pytest.mark.contract("A1.22")
def test_pipeline_step_is_taken_before_the_first_step_has_reported(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    next_step = new_endpoint(backend)

    def hand_on_at_once(call: Call) -> Answer | None:
        step = {"TaskId": call.task_id, "Endpoint": next_step.url, "BackendStatus": "created"}
        upsert(app, **step, Body="next", PublishToGrid=True)
        return None

    backend.react(endpoint.path, hand_on_at_once)
    task = upsert(app, Endpoint=endpoint.url, Body="first", PublishToGrid=True)
    call = backend.next_call(next_step.path)
    assert (call.task_id, call.body) == (task["TaskId"], b"next")
    assert depth(app, endpoint) == {}


@pytest.mark.contract("A1.22")
def test_pipeline_step_to_the_same_endpoint_dispatches_again(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = running_task(app, backend, endpoint)
    upsert(app, TaskId=task_id, Endpoint=endpoint.url, BackendStatus="created", Body="again", PublishToGrid=True)
    assert backend.next_call(endpoint.path).body == b"again"
    assert sum(depth(app, endpoint).values()) == 1


@pytest.mark.contract("A1.12")
def test_update_to_another_endpoint_moves_the_counts(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = running_task(app, backend, endpoint)
    other = new_endpoint(backend)
    upsert(app, TaskId=task_id, Endpoint=other.url, BackendStatus="running", PublishToGrid=False)
    assert (depth(app, endpoint), depth(app, other)) == ({}, {"running": 1})


@pytest.mark.contract("A1.18")
@pytest.mark.parametrize("as_text", [False, True], ids=["number", "text"])
def test_update_counts_for_the_current_attempt_only(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, as_text: bool
) -> None:
    task_id = running_task(app, backend, endpoint)
    upsert(app, TaskId=task_id, BackendStatus="created", PublishToGrid=True)
    attempt = backend.next_call(endpoint.path).attempt
    for other in (attempt - 1, attempt + 1):
        update = {"TaskId": task_id, "BackendStatus": "completed", "Attempt": str(other) if as_text else other}
        document = assert_problem(app.post(UPSERT, json=update), 409)
        assert (document["Task"]["TaskId"], document["Task"]["BackendStatus"]) == (task_id, "created")
    current = str(attempt) if as_text else attempt
    assert upsert(app, TaskId=task_id, BackendStatus="running", Attempt=current)["BackendStatus"] == "running"
    assert upsert(app, TaskId=task_id, BackendStatus="completed")["BackendStatus"] == "completed", (
        "without an attempt"
    )


# Updates of a finished task


@pytest.mark.contract("A1.23")
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
def test_update_of_finished_task_is_a_conflict_that_shows_the_task(
    app: httpx.Client, endpoint: Endpoint, final: str, change: dict[str, Any]
) -> None:
    task = kept_task(app, endpoint, BackendStatus=final, Status=f"{final} - it is over")
    if change.get("BackendStatus") == "other end":
        change = {**change, "BackendStatus": "failed" if final == "completed" else "completed"}
    for request in (
        {"TaskId": task["TaskId"], **change},
        [{"TaskId": task["TaskId"], "Endpoint": endpoint.url, **change}],
    ):
        document = assert_problem(app.post(UPSERT, json=request), 409)
        assert document["Task"] == task
        names = [name.lower() for name in document]
        assert len(set(names)) == len(names), "no name twice, in any case"
    assert stored(app, task["TaskId"]) == task
    assert depth(app, endpoint) == {final: 1}


@pytest.mark.contract("A1.23")
def test_finished_task_does_not_move_to_another_endpoint(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint, BackendStatus="completed")
    other = new_endpoint(backend)
    step = {"TaskId": task["TaskId"], "Endpoint": other.url, "BackendStatus": "created", "PublishToGrid": True}
    assert_problem(app.post(UPSERT, json=step), 409)
    assert (depth(app, endpoint), depth(app, other)) == ({"completed": 1}, {})
    assert backend.untaken(other.path) == 0


@pytest.mark.contract("A1.24")
@pytest.mark.parametrize("final", ["completed", "failed"])
@pytest.mark.parametrize("status", [{"Status": "the end"}, {}], ids=["with a status", "without one"])
@pytest.mark.parametrize("as_array", [False, True], ids=["object", "array"])
def test_repeated_terminal_update_succeeds_and_changes_nothing(
    app: httpx.Client, endpoint: Endpoint, final: str, status: dict[str, str], as_array: bool
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    update = {"TaskId": task_id, "Endpoint": endpoint.url, "BackendStatus": final, "PublishToGrid": False, **status}
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
    assert depth(app, endpoint) == {final: 1}


# Event Grid refuses


@pytest.mark.contract("A1.48")
def test_task_whose_event_is_refused_is_dispatched_at_once(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    # The publisher's own retries do not cover 501.
    stack.set_faults({"refusePublish": {"status": 501}})
    try:
        task = upsert(
            app, Endpoint=endpoint.url, Body="{}", Status="created", BackendStatus="created", PublishToGrid=True
        )
        assert (task["BackendStatus"], task["Status"]) == ("created", "created")
        assert backend.next_call(endpoint.path).task_id == task["TaskId"]
        upsert(app, TaskId=task["TaskId"], BackendStatus="completed", Status="completed")
        assert finished(app, task["TaskId"])["BackendStatus"] == "completed"
    finally:
        stack.set_faults({})
