"""What a service in R does when something dies, is cancelled or told to stop."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from taskbackbone import TaskClient
from taskbackbone.client import Task

from local.processes import free_port
from local.stack import ROOT, Stack
from tests.r.conftest import Place, Pod
from tests.waiting import PATIENCE_S, eventually


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def at_work(pod: Pod, caller: TaskClient, place: Place, seconds: float) -> tuple[Task, int]:
    """A task whose model is at work for *seconds*, and the process that it works in."""
    task = caller.submit(f"{place.path}/work", query={"seconds": seconds})
    return task, eventually(lambda: pod.pids_of(task.id))[-1]


def reasons(task: Task) -> list[str]:
    return [event["Status"] for event in task.history()]


def test_a_model_that_is_killed_is_a_counted_failure_and_runs_again(
    pod: Pod, place: Place, caller: TaskClient
) -> None:
    task = caller.submit(f"{place.path}/once/kill")
    assert task.result(PATIENCE_S).text() == "done the second time"
    assert task.attempt == 2
    assert any("the model's process ended by signal 9" in reason for reason in reasons(task))


def test_a_model_that_quits_runs_again(pod: Pod, place: Place, caller: TaskClient) -> None:
    task = caller.submit(f"{place.path}/once/quit")
    assert task.result(PATIENCE_S).text() == "done the second time"
    assert any("the model's process ended" in reason for reason in reasons(task))


def test_a_model_may_ask_to_be_tried_again(pod: Pod, place: Place, caller: TaskClient) -> None:
    task = caller.submit(f"{place.path}/once/again")
    assert task.result(PATIENCE_S).text() == "done the second time"
    assert any("the archive sleeps" in reason for reason in reasons(task))


def test_the_death_of_the_server_takes_its_models_along_and_loses_no_task(
    pod: Pod, place: Place, caller: TaskClient
) -> None:
    task, child = at_work(pod, caller, place, 30)
    server = server_of(pod)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: has_ended(child))
    eventually(lambda: not pod.is_running)
    pod.start()
    eventually(lambda: len(pod.pids_of(task.id)) == 2)
    task.cancel()


def test_a_cancelled_model_may_tidy_up_and_its_slot_is_free(pod: Pod, place: Place, caller: TaskClient) -> None:
    task = caller.submit(f"{place.path}/tidy")
    child = eventually(lambda: pod.pids_of(task.id))[-1]
    task.cancel()
    eventually(lambda: pod.trace(f"{task.id}.tidied"))
    eventually(lambda: has_ended(child))
    following = caller.submit(f"{place.path}/ends/text")
    assert following.result(PATIENCE_S).text() == "café"


def test_a_cancelled_model_that_is_deaf_is_killed(
    place: Place, variables: dict[str, str], caller: TaskClient, tmp_path: Path
) -> None:
    with Pod(tmp_path / "pod", place, {**variables, "TASK_GRACE_S": "1"}) as pod:
        task = caller.submit(f"{place.path}/deaf")
        child = eventually(lambda: pod.pids_of(task.id))[-1]
        task.cancel()
        eventually(lambda: has_ended(child))
        assert caller.submit(f"{place.path}/ends/text").result(PATIENCE_S).text() == "café"


def test_one_task_too_many_is_answered_503_and_another_is_taken_once_there_is_room(
    pod: Pod, place: Place, caller: TaskClient
) -> None:
    _, child = at_work(pod, caller, place, 6)
    headers = {"taskId": "one-too-many", "X-Task-Attempt": "1"}
    answer = httpx.post(f"{pod.url}{place.path}/work", headers=headers, timeout=PATIENCE_S)
    assert (answer.status_code, answer.headers["x-task-slots"]) == (503, "1")
    assert caller.submit(f"{place.path}/ends/text").result(PATIENCE_S).text() == "café"
    assert has_ended(child)


def test_sigterm_lets_a_task_end_that_ends_in_time(pod: Pod, place: Place, caller: TaskClient) -> None:
    task, _ = at_work(pod, caller, place, 3)
    assert pod.stop() == 0
    task.wait(PATIENCE_S)
    assert (task.state, task.attempt) == ("completed", 1)


def test_sigterm_gives_back_what_does_not_end_in_time(
    place: Place, variables: dict[str, str], caller: TaskClient, tmp_path: Path
) -> None:
    with Pod(tmp_path / "pod", place, {**variables, "TASK_DRAIN_S": "1", "TASK_GRACE_S": "2"}) as pod:
        task, child = at_work(pod, caller, place, 60)
        assert pod.stop() == 0
        assert has_ended(child)
        task.refresh()
        assert task.state == "created"
        assert "the service is stopping" in reasons(task)
        pod.start()
        eventually(lambda: len(pod.pids_of(task.id)) == 2)
        task.cancel()


def test_ctrl_c_at_a_terminal_gives_back_at_once(pod: Pod, place: Place, caller: TaskClient) -> None:
    task, child = at_work(pod, caller, place, 60)
    os.killpg(pod.pid, signal.SIGINT)  # the terminal tells all of its processes
    eventually(lambda: not pod.is_running)
    eventually(lambda: has_ended(child))
    assert "the service is stopping" in reasons(task)
    task.cancel()


def test_a_script_that_ends_gives_back_what_it_was_added(
    house: Stack, place: Place, caller: TaskClient, r: Callable[..., str]
) -> None:
    task = caller.submit(f"{place.path}/nobody")
    dispatch = dispatched(place, house)
    code = """
      task <- AddTask(list(HTTP_TASKID = Sys.getenv("ID"), HTTP_X_TASK_ATTEMPT = Sys.getenv("ATTEMPT")))
      UpdateTaskStatus(task$TaskId, "running")
      stop("the handler has a fault")
    """
    with suppress(Exception):
        r(code, ID=task.id, ATTEMPT=dispatch)
    eventually(lambda: "the service is stopping" in reasons(task))
    task.cancel()


def test_an_older_attempt_gets_the_task_and_changes_nothing(
    house: Stack, place: Place, caller: TaskClient, app: httpx.Client, r: Callable[..., str]
) -> None:
    task = caller.submit(f"{place.path}/nobody")
    attempt = dispatched(place, house)
    release, speaking = f"/api/v1/tasks/{task.id}/release", {"X-Task-Attempt": attempt}
    eventually(lambda: app.post(release, json={}, headers=speaking).status_code == 200)
    code = """
      request <- list(HTTP_TASKID = Sys.getenv("ID"), HTTP_X_TASK_ATTEMPT = Sys.getenv("ATTEMPT"))
      old <- as.integer(Sys.getenv("ATTEMPT"))
      task <- AddTask(request)
      stopifnot(is.list(task), task$TaskId == Sys.getenv("ID"))
      answer <- CompleteTask(task$TaskId, "completed - by an old one")
      stopifnot(is.character(answer), answer$Attempt > old, answer$BackendStatus == "created")
      sent <- AddPipelineTask(task$TaskId, "r", "v1", "p0", "x")
      stopifnot(sent$Attempt > old, sent$BackendStatus == "created")
      cat("told twice\\n")
    """
    assert "told twice" in r(code, ID=task.id, ATTEMPT=attempt)
    assert task.refresh().state == "created"
    task.cancel()


def test_an_end_that_the_app_does_not_hear_is_told_again(
    house: Stack, patient_place: Place, variables: dict[str, str], caller: TaskClient, tmp_path: Path
) -> None:
    with Pod(tmp_path / "pod", patient_place, variables) as pod:
        task, child = at_work(pod, caller, patient_place, 3)
        house.host.kill()
        try:
            eventually(lambda: has_ended(child))
        finally:
            house.host.start()
        assert task.result(PATIENCE_S).json()["pid"] == child
        assert task.attempt == 1


def test_tasks_of_two_pods_survive_the_death_of_one(
    place: Place, variables: dict[str, str], caller: TaskClient, tmp_path: Path
) -> None:
    environment = {**variables, "SLOTS": "2"}
    pair = [Pod(tmp_path / name, place, environment, port=free_port()) for name in ("one", "two")]
    with balancer(place.port, [int(pod.url.rpartition(":")[2]) for pod in pair]):
        for pod in pair:
            pod.spawn()
        try:
            for pod in pair:
                pod.wait_until_ready()
            tasks = [caller.submit(f"{place.path}/work", query={"seconds": 0.5}) for _ in range(24)]
            eventually(lambda: sum(each.refresh().state == "completed" for each in tasks) >= 4)
            server = server_of(pair[0])
            os.kill(server, signal.SIGKILL)
            eventually(lambda: not pair[0].is_running)
            pair[0].start()
            for task in tasks:
                task.wait(PATIENCE_S)
        finally:
            for pod in pair:
                pod.kill()
    assert {task.state for task in tasks} == {"completed"}
    ends = [event for task in tasks for event in task.history() if event["State"] == "completed"]
    assert len(ends) == len(tasks)
    queue = caller.queue(f"{place.path}/work")
    assert (queue["Waiting"], queue["Dispatched"], queue["Running"], queue["InFlight"]) == (0, 0, 0, 0)


def server_of(pod: Pod) -> int:
    """The process of R that serves, which the launcher waits for."""
    [server] = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split()
    return int(server)


def dispatched(place: Place, house: Stack) -> str:
    """Takes the one task that comes to a place where nobody serves; returns its attempt."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    attempts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            attempts.append(self.headers["X-Task-Attempt"])
            self.send_response(202)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
            return

    with HTTPServer(("127.0.0.1", place.port), Handler) as server:
        server.timeout = PATIENCE_S
        server.handle_request()
    return attempts[0]


def balancer(port: int, pods: list[int]) -> Any:
    """The balancer of the SDK's trial, which is no module of this repository."""
    spec = importlib.util.spec_from_file_location("balancer", ROOT / "sdk" / "tests" / "trial" / "balancer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Balancer(port, pods)
