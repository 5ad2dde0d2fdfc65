"""A model service that keeps a server of its own, and reports by a ``TaskManager`` to the real app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Backbone
from model import Dispatch, Model, Models
from scripted_server import ScriptedServer, answer

from taskbackbone import TaskClient, TaskManager, errors
from taskbackbone.client import Task

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def client(backbone: Backbone) -> Iterator[TaskClient]:
    with TaskClient(backbone.url, backbone.key) as client:
        yield client


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place()) as models:
        yield models


@pytest.fixture
def model(models: Models) -> Iterator[Model]:
    with models.model() as model:
        yield model


@pytest.fixture
def at_work(client: TaskClient, model: Model, backbone: Backbone) -> tuple[Task, TaskManager]:
    """A task that the model service has accepted, and what it reports by."""
    task = client.submit(model.path, b"the body")
    return task, manager_of(model.dispatches.get(timeout=PATIENCE_S), backbone)


def manager_of(dispatch: Dispatch, backbone: Backbone, **options: Any) -> TaskManager:
    return TaskManager.of(dispatch.headers, url=backbone.url, key=backbone.key, **options)


def test_updates_are_seen_by_the_caller(at_work: tuple[Task, TaskManager]) -> None:
    task, manager = at_work
    manager.update("features", 0.25)
    assert (task.refresh().state, task.status, task.progress) == ("running", "features", 0.25)
    manager.heartbeat(0.5, "nearly")
    assert (task.refresh().status, task.progress) == ("nearly", 0.5)
    manager.heartbeat()
    assert task.refresh().progress == 0.5


@pytest.mark.parametrize(
    ("text", "status"), [("", "completed"), ("6 words", "completed - 6 words"), ("Completed: 6", "Completed: 6")]
)
def test_a_task_is_completed_with_a_text(at_work: tuple[Task, TaskManager], text: str, status: str) -> None:
    task, manager = at_work
    manager.complete(text)
    assert (task.refresh().state, task.status) == ("completed", status)


def test_a_task_is_completed_with_its_result_in_one_step(at_work: tuple[Task, TaskManager]) -> None:
    task, manager = at_work
    manager.complete("grün", {"words": 6})
    assert task.result().json() == {"words": 6}
    assert task.status == "completed - grün"
    manager.complete("grün", {"words": 6})  # as if the answer had been lost


def test_a_result_may_be_stored_before_the_end(at_work: tuple[Task, TaskManager]) -> None:
    task, manager = at_work
    manager.result(b"\x89PNG", "image/png")
    manager.complete()
    result = task.result()
    assert (result.bytes(), result.content_type) == (b"\x89PNG", "image/png")


def test_a_task_fails_with_the_reason(at_work: tuple[Task, TaskManager]) -> None:
    task, manager = at_work
    manager.fail("too many bands")
    with pytest.raises(errors.TaskFailed, match=r"^failed - too many bands$"):
        task.result()


def test_a_checkpoint_over_the_limit_is_not_sent(at_work: tuple[Task, TaskManager], client: TaskClient) -> None:
    task, manager = at_work
    with pytest.raises(errors.TooLarge):
        manager.checkpoint(bytes(client.max_body_bytes() or 0) + b"x")
    assert not task.refresh().is_finished


def test_a_cancelled_task_is_a_conflict(at_work: tuple[Task, TaskManager]) -> None:
    task, manager = at_work
    manager.update("at work")
    assert not manager.cancelled
    task.cancel()
    with pytest.raises(errors.Conflict) as refused:
        manager.heartbeat()
    assert manager.cancelled
    assert refused.value.task["BackendStatus"] == "cancelled"


def test_a_released_task_begins_again_with_its_checkpoint(
    at_work: tuple[Task, TaskManager], model: Model, backbone: Backbone
) -> None:
    task, manager = at_work
    assert manager.restored() is None
    manager.checkpoint(b"half of it")
    manager.release(status="the service is stopping")
    manager.release(status="the service is stopping")  # as if the answer had been lost
    with pytest.raises(errors.Conflict):
        manager.update("too late")

    again = model.dispatches.get(timeout=PATIENCE_S)
    assert (again.task_id, again.attempt) == (task.id, 2)
    second = manager_of(again, backbone)
    assert second.restored() == b"half of it"
    second.release(failed=True)
    third = model.dispatches.get(timeout=PATIENCE_S)
    assert third.attempt == 3
    manager_of(third, backbone).complete()
    assert task.wait(PATIENCE_S).state == "completed"


@pytest.mark.parametrize(
    ("body", "arrives"),
    [(None, b"the body"), ("another text", b"another text"), ({"bands": 3}, b'{"bands": 3}'), (b"\xff", b"\xff")],
)
def test_a_task_is_sent_on_to_the_next_step(
    at_work: tuple[Task, TaskManager], models: Models, backbone: Backbone, body: Any, arrives: bytes
) -> None:
    task, manager = at_work
    with models.model() as step:
        manager.result(b"of the first step")
        manager.next(step.path + "?fine=1", body, query={"band": [1, 2]})
        sent = step.dispatches.get(timeout=PATIENCE_S)
        assert (sent.task_id, sent.path) == (task.id, step.path + "?fine=1&band=1&band=2")
        assert (sent.body, sent.attempt) == (arrives, 2)
        manager_of(sent, backbone).complete("in two steps")
        assert task.result(PATIENCE_S).bytes() == b"of the first step"


def test_a_task_is_sent_on_with_its_result(
    at_work: tuple[Task, TaskManager], models: Models, backbone: Backbone
) -> None:
    task, manager = at_work
    with models.model() as step:
        with pytest.raises(errors.Conflict, match="no result"):
            manager.next(step.path, takes_result=True)
        assert not manager.cancelled
        manager.result(b"of the first step", "image/x-any")
        manager.next(step.path, takes_result=True)
        sent = step.dispatches.get(timeout=PATIENCE_S)
        assert (sent.body, sent.headers["content-type"]) == (b"of the first step", "image/x-any")
        with pytest.raises(errors.Conflict):
            manager.heartbeat()
        assert manager.cancelled
        manager_of(sent, backbone).complete()
        with pytest.raises(errors.NotFound):
            task.result(PATIENCE_S)


def test_a_task_is_not_sent_where_nothing_is_registered(at_work: tuple[Task, TaskManager]) -> None:
    with pytest.raises(errors.InvalidRequest):
        at_work[1].next("/v9/nothing")
    with pytest.raises(ValueError, match="dots"):
        at_work[1].next("/v1/../nothing")


def test_a_direct_call_has_no_task() -> None:
    with pytest.raises(KeyError):
        TaskManager.of({"Content-Type": "text/plain"}, url="http://b.example")


def test_each_report_tells_attempt_slots_and_instance() -> None:
    with ScriptedServer([answer(503), answer(200, {"TaskId": "t"})]) as server:
        manager = TaskManager("t", 7, url=server.url, key="the-key", slots=2, instance="pod-1")
        manager.heartbeat()
        manager.update("x")
        manager.result(b"")
        manager.release()
    for request in server.requests:
        headers = [request.headers[name] for name in ("x-task-attempt", "x-task-slots", "x-task-instance")]
        assert headers == ["7", "2", "pod-1"]
    assert len(server.requests) == 5
    assert "the-key" not in repr(manager)
