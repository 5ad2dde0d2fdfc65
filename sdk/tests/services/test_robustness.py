"""Whatever a model does to its interpreter: its task is cancelled, ended or given back, and the service goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from service_process import Service, eventually, is_alive, running, serving

from taskbackbone.testing import Call, PlayedBackbone, PlayedTask

CODE = """
import ctypes, signal, subprocess, threading
from collections import deque
from itertools import repeat

service = TaskService(cancel_grace_s=1, drain_s=1)

@service.task("/loop")
def loop(task: Task) -> str:
    try:
        while True:
            try:
                sum(range(1000))
            except Exception:
                pass
    except Cancelled as cancelled:
        print("cancelled:", cancelled, flush=True)
        raise

@service.task("/sleep")
def sleep() -> None:
    time.sleep(600)

@service.task("/shielded")
def shielded(task: Task) -> str:
    with task.uninterrupted():
        open("shielded", "w").close()
        while not os.path.exists("go on"):
            time.sleep(0.01)
            task.progress(0.5)
        print("the block is whole")
    time.sleep(600)

@service.task("/deaf")
def deaf() -> str:
    while True:
        try:
            time.sleep(600)
        except BaseException:
            print("deaf", flush=True)

@service.task("/c")
def c() -> None:
    deque(repeat(None, 10**15), maxlen=0)  # holds the GIL all the while, and looks for no signals

@service.task("/gil")
def gil(*, seconds: int) -> str:
    ctypes.PyDLL(None).sleep(seconds)
    return "done"

@service.task("/child")
def child() -> None:
    started = subprocess.Popen(["sleep", "600"])
    print("child", started.pid, flush=True)
    started.wait()

@service.task("/crash")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@service.task("/exit")
def exit_() -> None:
    print("last words", end="")
    sys.stdout.flush()
    os._exit(3)

@service.task("/timeout", timeout_s=0.5)
def timeout() -> None:
    time.sleep(600)

@service.task("/stall", stall_s=0.7)
def stall(task: Task, *, steps: int = 0) -> str:
    for _ in range(steps):
        time.sleep(0.1)
        task.check()
    if not steps:
        time.sleep(600)
    return "done"

@service.task("/quick")
def quick() -> str:
    return str(os.getpid())

@service.task("/late")
def late(task: Task) -> str:
    def go_on():
        time.sleep(0.2)
        try:
            task.progress(0.9)
            task.checkpoint(b"late")
        except RuntimeError as error:
            print("late:", error, flush=True)
    threading.Thread(target=go_on).start()
    return "done"

@service.task("/helped")
def helped(task: Task) -> str:
    def check():
        while not os.path.exists("go on"):
            try:
                task.check()
            except Cancelled:
                print("the helper is cancelled", flush=True)
                return
            time.sleep(0.01)
    helper = threading.Thread(target=check)
    helper.start()
    with task.uninterrupted():
        helper.join()
    time.sleep(600)

@service.task("/ask", stall_s=1.5)
def ask(task: Task) -> str:
    return str(task.restored)

@service.task("/overlay")
def overlay(task: Task) -> str:
    while not os.path.exists("go on"):
        task.progress(0.5)
    return "done"

service.run()
"""


@pytest.fixture
def served(tmp_path: Path):
    with serving(tmp_path, CODE, lease_s=3) as both:  # by a clock that stands still: so a heartbeat comes each second
        yield both


def begun(backbone: PlayedBackbone, path: str, query: str = "") -> PlayedTask:
    return backbone.submit(path, query=query).until(lambda task: task.state == "running")


def until_free(service: Service) -> None:
    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, f"its slot is not free: {service.log}")


def works(backbone: PlayedBackbone, service: Service) -> bool:
    """Whether the service takes the next task."""
    task = backbone.submit("/quick").wait()
    return task.state == "completed" and task.attempt == 1


@pytest.mark.parametrize("path", ["/loop", "/sleep"])
def test_a_cancelled_task_stops_in_python_code_and_its_worker_stays(
    served: tuple[PlayedBackbone, Service], path: str
) -> None:
    backbone, service = served
    workers = service.workers()
    task = begun(backbone, path)

    task.cancel()
    until_free(service)

    assert task.state == "cancelled"
    assert service.workers() == workers
    assert works(backbone, service)
    assert [call for call in task.calls if call.ends or call.kind == "release"] == []


def test_the_function_learns_why_it_is_cancelled(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    begun(backbone, "/loop").cancel()

    service.until_log("cancelled: cancelled")
    until_free(service)
    assert works(backbone, service)


def test_a_block_that_is_not_to_be_interrupted_is_whole(
    served: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, service = served
    task = begun(backbone, "/shielded")
    eventually((tmp_path / "shielded").exists, "the block has not begun")

    task.cancel()
    service.until_log("no longer this service's")
    (tmp_path / "go on").touch()
    until_free(service)

    assert "the block is whole" in service.log
    assert "its worker is killed" not in service.log
    assert works(backbone, service)


def test_a_thread_that_finds_its_task_cancelled_leaves_the_main_thread_to_be_cancelled_too(
    served: tuple[PlayedBackbone, Service],
) -> None:
    backbone, service = served
    begun(backbone, "/helped").cancel()

    service.until_log("the helper is cancelled")
    until_free(service)
    assert "its worker is killed" not in service.log


def test_a_function_does_not_stall_while_the_backbone_is_slow_to_answer_it(
    served: tuple[PlayedBackbone, Service],
) -> None:
    backbone, _ = served
    asked: list[float] = []

    def away(call: Call) -> int | None:
        if not call.path.endswith("/checkpoint"):
            return None
        asked.append(time.monotonic())
        return 503 if time.monotonic() < asked[0] + 3 else None

    backbone.fault = away
    task = backbone.submit("/ask").wait()

    assert (task.state, task.status, task.attempt) == ("completed", "completed", 1)
    assert asked[-1] >= asked[0] + 3


@pytest.mark.parametrize("path", ["/c", "/deaf", "/child"])
def test_what_does_not_stop_is_killed_after_the_grace(served: tuple[PlayedBackbone, Service], path: str) -> None:
    backbone, service = served
    task = begun(backbone, path)
    (worker,) = service.workers()

    task.cancel()
    until_free(service)

    if path != "/child":
        assert "does not stop: its worker is killed" in service.log
        eventually(lambda: not is_alive(worker), "the worker is still there")
    assert works(backbone, service)
    assert task.state == "cancelled"


def test_a_killed_workers_own_children_end_with_it(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    begun(backbone, "/child")
    child = int(service.log.partition("child ")[2].split()[0])
    (worker,) = service.workers()

    os.kill(worker, signal.SIGKILL)

    service.until_log("is replaced")
    eventually(lambda: not is_alive(child), "the child is still there")


@pytest.mark.parametrize(
    ("path", "how"), [("/crash", "killed by SIGSEGV"), ("/exit", "exit code 3"), ("/sleep", "killed by SIGKILL")]
)
def test_the_task_of_a_lost_worker_is_given_back_and_the_worker_replaced(
    served: tuple[PlayedBackbone, Service], path: str, how: str
) -> None:
    backbone, service = served
    (worker,) = service.workers()
    task = backbone.submit(path)
    if path == "/sleep":
        task.until(lambda task: task.state == "running")
        os.kill(worker, signal.SIGKILL)

    task.until(lambda task: task.attempt == 2)
    (release,) = (call for call in task.calls if call.kind == "release" and call.headers["x-task-attempt"] == "1")
    assert json.loads(release.body) == {"Failed": True, "Status": f"the worker was lost: {how}"}
    assert release.headers["x-task-slots"] == "1"
    eventually(lambda: service.workers() not in ([], [worker]), "no new worker")
    task.cancel()
    if path == "/exit":
        assert "last words" in service.log


def test_a_task_that_comes_while_a_worker_is_replaced_waits_for_the_new_one(tmp_path: Path) -> None:
    code = CODE.replace("service.run()", "if os.path.exists('slow'): time.sleep(1)\nservice.run()")
    with serving(tmp_path, code) as (backbone, service):
        begun(backbone, "/sleep").cancel()
        (worker,) = service.workers()
        (tmp_path / "slow").touch()
        os.kill(worker, signal.SIGKILL)
        service.until_log("is replaced")

        assert works(backbone, service)


def test_heartbeats_go_on_while_the_gil_is_held(tmp_path: Path) -> None:
    with serving(tmp_path, CODE, lease_s=3, now_s=time.time) as (backbone, _):
        task = backbone.submit("/gil", query="seconds=8").wait()

        assert (task.state, task.attempt) == ("completed", 1)
        assert len([call for call in task.calls if call.kind == "heartbeat"]) >= 3


def test_a_task_over_its_time_is_killed_and_has_failed(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    task = backbone.submit("/timeout").wait()

    assert (task.state, task.status) == ("failed", "failed - it took longer than 0.5 s")
    assert works(backbone, service)


def test_a_direct_call_over_its_time_is_answered_504(served: tuple[PlayedBackbone, Service]) -> None:
    _, service = served

    assert service.call("/timeout").status == 504


def test_a_function_that_tells_nothing_is_killed_and_its_task_tried_again(
    served: tuple[PlayedBackbone, Service],
) -> None:
    backbone, service = served
    task = backbone.submit("/stall").until(lambda task: task.attempt == 2)

    release = next(call for call in task.calls if call.kind == "release")
    assert json.loads(release.body) == {"Failed": True, "Status": "the function told nothing for 0.7 s"}
    task.cancel()
    until_free(service)


def test_a_function_that_shows_that_it_is_alive_does_not_stall(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/stall", query="steps=15").wait()

    assert (task.state, task.attempt) == ("completed", 1)


def test_work_stops_when_nothing_was_taken_for_a_lease(tmp_path: Path) -> None:
    with serving(tmp_path, CODE, lease_s=3) as (backbone, service):
        task = begun(backbone, "/loop")
        backbone.fault = lambda call: 503

        service.until_log("cancelled: lease")
        until_free(service)
        backbone.fault = None
        assert task.state == "running"
        assert [call for call in task.calls if call.ends] == []


def test_an_outage_shorter_than_the_lease_costs_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, CODE, lease_s=9) as (backbone, _):
        task = begun(backbone, "/overlay")
        backbone.fault = lambda call: 0
        seen = len(backbone.calls)
        eventually(lambda: len(backbone.calls) >= seen + 3, "it does not try again")
        backbone.fault = None
        (tmp_path / "go on").touch()

        task.wait()
        assert (task.state, task.attempt) == ("completed", 1)


def test_a_thread_that_outlives_its_task_does_no_harm(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    backbone.submit("/late").wait()

    assert works(backbone, service)
    backbone.submit("/late").wait()
    service.until_log("late: the task has ended")
    assert works(backbone, service)


def test_many_cancels_never_hit_another_task(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    workers = service.workers()

    for _ in range(30):
        task = backbone.submit("/sleep").until(lambda task: task.state == "dispatched")
        eventually(lambda: service.metrics()["taskbackbone_running"] == 1, "it does not run")
        service.dispatch("/quick", task.id, task.attempt + 1)  # which cancels it; its own slot may be free or not
        task.cancel()
        until_free(service)
        assert works(backbone, service)

    assert service.workers() == workers


def test_workers_end_with_a_killed_supervisor_whatever_they_do(tmp_path: Path) -> None:
    with serving(tmp_path, CODE.replace("TaskService(", "TaskService(workers=2, ")) as (backbone, service):
        begun(backbone, "/c")
        workers = service.workers()
        assert len(workers) == 2

        service.stop(signal.SIGKILL)

        eventually(lambda: not any(map(is_alive, workers)), "a worker is still there")


def test_what_is_printed_before_a_worker_is_killed_is_not_lost(tmp_path: Path) -> None:
    code = """
    service = TaskService()

    @service.task("/print")
    def print_() -> None:
        for number in range(2000):
            print("line", number)
        os.kill(os.getpid(), 9)

    service.run()
    """
    with running(tmp_path, code) as service:
        assert service.call("/print").status == 503
        assert [line for line in service.log.splitlines() if line.startswith("line ")] == [
            f"line {number}" for number in range(2000)
        ]


def test_a_model_that_writes_to_standard_output_and_reads_standard_input_does_no_harm(tmp_path: Path) -> None:
    code = """
    service = TaskService()

    @service.task("/noise")
    def noise() -> str:
        os.write(1, b"\\0\\0\\0\\1" * 1000)
        os.close(1)
        return sys.stdin.read() + "."

    service.run()
    """
    with running(tmp_path, code) as service:
        assert service.call("/noise").text == "."
        assert service.call("/noise").status in (200, 500)  # its own standard output is gone
