"""``taskbackbone.testing``: what a test does with a played backbone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_service import Given, ScriptedService

from taskbackbone.testing import PlayedBackbone, ServiceEnded

pytest_plugins = ["taskbackbone.pytest_plugin"]

COUNTING = [sys.executable, str(Path(__file__).with_name("counting_service.py"))]
PATH = "/v1/words/count"
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def service(played_backbone: PlayedBackbone) -> Iterator[ScriptedService]:
    """Accepts each task, and works on none."""
    with ScriptedService() as service:
        played_backbone.service_url = service.url
        yield service


def reported_by(backbone: PlayedBackbone, method: str, path: str, attempt: int, body: bytes = b"") -> int:
    """The status that a call of the service gets."""
    import requests

    headers = {"x-functions-key": backbone.key, "X-Task-Attempt": str(attempt)}
    return requests.request(method, backbone.url + path, headers=headers, data=body, timeout=60).status_code


def test_a_service_of_its_own_process_takes_a_task_and_answers(played_backbone: PlayedBackbone) -> None:
    with played_backbone.start(COUNTING) as process:
        task = played_backbone.submit(PATH, "to be or not to be").wait()

        assert (task.state, task.status, task.attempt) == ("completed", "completed", 1)
        assert task.json() == {"words": 6}
        assert [event["State"] for event in task.history] == ["created", "dispatched", "completed"]
        assert [(call.kind, call.status) for call in task.calls] == [("result", 200)]
    assert process.poll() is not None


def test_what_a_service_refuses_waits_until_it_has_room(played_backbone: PlayedBackbone) -> None:
    with played_backbone.start(COUNTING, environment={"SLOTS": "1"}):
        tasks = [played_backbone.submit(PATH, "a b", query="seconds=0.2") for _ in range(3)]

        assert [task.wait().json() for task in tasks] == [{"words": 2}] * 3
        refused = [answer for task in tasks for answer in task.answers if answer.meaning == "busy"]
        assert refused
        assert [task.failures for task in tasks] == [0, 0, 0]


def test_a_service_that_tells_its_slots_is_never_given_more(played_backbone: PlayedBackbone) -> None:
    with played_backbone.start(COUNTING, environment={"SLOTS": "2", "TELLS": "1"}):
        played_backbone.submit(PATH, "the first").wait()
        tasks = [played_backbone.submit(PATH, "a b", query="seconds=0.2") for _ in range(6)]

        assert all(task.wait().state == "completed" for task in tasks)
        assert played_backbone.slots == {"one": 2}
        assert {answer.meaning for task in tasks for answer in task.answers} == {"accepted"}


def test_a_lease_ends_when_the_test_says_so(played_backbone: PlayedBackbone, service: ScriptedService) -> None:
    task = played_backbone.submit(PATH, "a")
    assert service.next().headers["x-task-lease"] == "300"

    played_backbone.advance(299)
    assert (task.attempt, task.failures) == (1, 0)
    played_backbone.advance(1)
    assert service.next().attempt == 2
    assert (task.attempt, task.failures) == (2, 1)
    assert reported_by(played_backbone, "POST", f"/api/v1/tasks/{task.id}/heartbeat", 1) == 409
    assert reported_by(played_backbone, "POST", f"/api/v1/tasks/{task.id}/heartbeat", 2) == 200


def test_a_task_fails_with_its_last_attempt(service: ScriptedService) -> None:
    with PlayedBackbone(service.url, max_attempts=2, lease_s=5) as backbone:
        task = backbone.submit(PATH, "a")
        for _ in range(2):
            service.next()
            backbone.until(lambda: backbone.held == 1 and task.answers[task.attempt - 1 :])
            backbone.advance(5)

        assert task.wait().status == "Failed - the backend was not heard of for too long (attempt 2 of 2)."


def test_a_task_starts_when_it_is_to(played_backbone: PlayedBackbone, service: ScriptedService) -> None:
    task = played_backbone.submit(PATH, "a", start_after_s=60)
    played_backbone.advance(59)
    assert (task.state, service.dispatches.empty()) == ("created", True)
    played_backbone.advance(1)
    assert service.next().task_id == task.id


def test_a_task_that_the_service_has_not_taken_by_then_expires() -> None:
    with PlayedBackbone() as backbone:
        task, other = backbone.submit(PATH, "a", start_before_s=300), backbone.submit(PATH, "b", start_before_s=301)
        backbone.advance(300)
        assert (task.state, task.status) == ("failed", "Failed - it expired after 300 s in the queue.")
        assert task.history[-1]["EndReason"] == "expired"
        assert other.state == "created"


def test_a_task_that_the_service_has_taken_never_expires(
    played_backbone: PlayedBackbone, service: ScriptedService
) -> None:
    task = played_backbone.submit(PATH, "a", start_before_s=200)
    service.next()
    played_backbone.until(lambda: task.expires_s is None)
    played_backbone.advance(300)
    assert service.next().attempt == 2
    assert task.state == "dispatched"


def test_heartbeats_keep_no_attempt_that_runs_for_too_long(service: ScriptedService) -> None:
    with PlayedBackbone(service.url, max_attempts=2) as backbone:
        task = backbone.submit(PATH, "a", max_run_s=60)
        path = f"/api/v1/tasks/{task.id}/heartbeat"
        for attempt in (1, 2):
            service.next()
            backbone.until(lambda: task.answers[task.attempt - 1 :])
            for _ in range(3):
                assert reported_by(backbone, "POST", path, attempt) == 200
                backbone.advance(20)
        assert reported_by(backbone, "POST", path, 2) == 409
        assert task.wait().status == "Failed - it ran for longer than 60 s (attempt 2 of 2)."
        assert task.history[-1]["EndReason"] == "timeout"


def test_a_cancelled_service_gets_a_409(played_backbone: PlayedBackbone) -> None:
    with played_backbone.start(COUNTING):
        task = played_backbone.submit(PATH, "a", query="seconds=60").until(lambda task: task.calls)
        task.cancel()

        played_backbone.until(lambda: task.calls[-1].status == 409)
        assert task.state == "cancelled"


def test_the_same_attempt_can_be_sent_twice(played_backbone: PlayedBackbone, service: ScriptedService) -> None:
    task = played_backbone.submit(PATH, "a body", content_type="text/x-own", query="least=2")
    first = service.next()

    assert task.dispatch_again().meaning == "accepted"
    second = service.next()
    assert (second.path, second.body, second.attempt) == (f"{PATH}?least=2", b"a body", 1)
    assert first.headers["traceparent"] == second.headers["traceparent"]
    assert second.headers["content-type"] == "text/x-own"
    assert task.attempt == 1


def test_calls_fail_as_the_test_wants(played_backbone: PlayedBackbone, service: ScriptedService) -> None:
    import requests

    task = played_backbone.submit(PATH, "a")
    service.next()
    path = f"/api/v1/tasks/{task.id}/result"
    played_backbone.fail_next(2, 429)

    assert [reported_by(played_backbone, "PUT", path, 1, b"x") for _ in range(3)] == [429, 429, 200]
    played_backbone.fail_next(1, 0)
    with pytest.raises(requests.ConnectionError):
        reported_by(played_backbone, "PUT", path, 1, b"x")


@pytest.mark.parametrize(
    ("given", "state", "status"),
    [
        (
            Given(400, {"Content-Type": "text/plain"}, b"no picture"),
            "failed",
            "Failed - the backend answered 400: no picture.",
        ),
        (Given(200, {"X-Task-Complete": "6%20words", **TEXT}, b"6"), "completed", "6 words"),
        (Given(500), "failed", "Failed - the backend answered 500 (attempt 3 of 3)."),
    ],
)
def test_an_answer_ends_a_task(given: Given, state: str, status: str) -> None:
    with (
        ScriptedService(answer=lambda dispatch: given) as service,
        PlayedBackbone(service.url, max_attempts=3) as backbone,
    ):
        task = backbone.submit(PATH, "a").wait()

    assert (task.state, task.status) == (state, status)
    assert (task.result.data if task.result else b"") == (b"6" if state == "completed" else b"")


def test_a_released_task_waits_for_as_long_as_its_service_says(
    played_backbone: PlayedBackbone, service: ScriptedService
) -> None:
    task = played_backbone.submit(PATH, "a")
    service.next()
    release = b'{"RetryAfterSeconds": 60}'
    assert reported_by(played_backbone, "POST", f"/api/v1/tasks/{task.id}/release", 1, release) == 200

    played_backbone.advance(59)
    assert (task.state, task.attempt, service.dispatches.empty()) == ("created", 2, True)
    played_backbone.advance(1)
    assert service.next().attempt == 2


def test_tasks_wait_for_a_service_that_is_not_up_yet() -> None:
    with PlayedBackbone() as backbone:
        task = backbone.submit(PATH, "a b c")
        with backbone.start(COUNTING):
            assert task.wait().json() == {"words": 3}


def test_a_service_that_cannot_start_says_why(played_backbone: PlayedBackbone) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such module')"]
    with pytest.raises(ServiceEnded, match="no such module"), played_backbone.start(command):
        pytest.fail("it is ready")


def test_a_test_that_waits_in_vain_fails_with_what_it_waited_for(
    played_backbone: PlayedBackbone, service: ScriptedService
) -> None:
    task = played_backbone.submit(PATH, "a")
    with pytest.raises(AssertionError, match=f"task {task.id}: created|task {task.id}: dispatched"):
        task.wait(timeout_s=0.1)


def test_nothing_is_left_when_it_is_closed() -> None:
    before = threading.active_count()
    with PlayedBackbone() as backbone:
        assert threading.active_count() > before
        url = backbone.url
    assert threading.active_count() == before
    with PlayedBackbone(port=int(url.rpartition(":")[2])) as again:
        assert again.url == url
