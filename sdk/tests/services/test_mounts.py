"""A service within another app, with threads, and without processes of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from service_process import Service, eventually, is_alive, running, serving

from taskbackbone.testing import PlayedBackbone

FUNCTIONS = """
@service.setup
def load() -> None:
    global model
    model = os.getpid()

@service.task("/words")
def words(body: str, task: Task, *, least: int = 1) -> dict:
    return {"words": sum(len(word) >= least for word in body.split()), "pid": os.getpid(), "model": model}

@service.task("/wait")
def wait(task: Task) -> str:
    while not os.path.exists("go on"):
        time.sleep(0.01)
        task.check()
    return "done"
"""
MOUNTED = (
    """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

service = TaskService(drain_s=0.2)
"""
    + FUNCTIONS
    + """
async def own(request):
    return PlainTextResponse("the app's own")

lifespan = None if os.environ.get("WITHOUT_LIFESPAN") else service.asgi.lifespan
app = Starlette(routes=[Route("/own", own), Mount("/models", service.asgi)], lifespan=lifespan)

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, port=int(os.environ["PORT"]))
"""
)


def hosted(command: str) -> list[str] | None:
    """The command for a host: the script itself, or uvicorn's own."""
    if command == "python a_service.py":
        return None
    code = "import os, uvicorn; uvicorn.run('a_service:app', port=int(os.environ['PORT']))"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("command", ["python a_service.py", "uvicorn a_service:app"])
@pytest.mark.parametrize("without_lifespan", ["", "1"])
def test_a_mounted_service_answers_beside_its_host(tmp_path: Path, command: str, without_lifespan: str) -> None:
    environment = {"WITHOUT_LIFESPAN": without_lifespan, "PYTHONPATH": str(tmp_path)}
    with serving(tmp_path, MOUNTED, environment, command=hosted(command), ready="/own") as (backbone, service):
        answer = json.loads(service.call("/models/words?least=3", b"to be or not to be").body)
        assert answer["words"] == 1
        assert answer["pid"] == answer["model"] != service.process.pid

        backbone.service_url = service.url + "/models"
        task = backbone.submit("/words", "to be").wait()
        assert task.json()["words"] == 2
        assert service.ask("GET", "/models/readyz").status == 200
        assert service.ask("GET", "/own").text == "the app's own"
        assert len(service.workers()) == 1


def test_tasks_of_a_mounted_service_are_given_back_when_its_host_stops(tmp_path: Path) -> None:
    with serving(tmp_path, MOUNTED, ready="/models/readyz") as (backbone, service):
        backbone.service_url = service.url + "/models"
        task = backbone.submit("/wait").until(lambda task: task.state == "running")

        service.stop()

        releases = [json.loads(call.body) for call in task.calls if call.kind == "release"]
        assert releases == [{"Failed": False, "Status": "the service is stopping"}]


def test_workers_of_a_mounted_service_end_with_a_killed_host(tmp_path: Path) -> None:
    with running(tmp_path, MOUNTED, ready="/models/readyz") as service:
        workers = service.workers()
        service.stop(signal.SIGKILL)

        assert len(workers) == 1
        eventually(lambda: not any(map(is_alive, workers)), "a worker is still there")


def test_a_service_can_be_served_as_an_app_itself(tmp_path: Path) -> None:
    code = "service = TaskService()\n" + FUNCTIONS + "app = service.asgi\n"
    with running(tmp_path, code, {"PYTHONPATH": str(tmp_path)}, command=hosted("uvicorn")) as service:
        assert json.loads(service.call("/words", b"a").body)["words"] == 1


@pytest.fixture(params=["threads of a worker", "threads of the service"])
def threaded(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[PlayedBackbone, Service], None, None]:
    isolation = "thread" if request.param == "threads of the service" else "process"
    code = f"service = TaskService(concurrency=3, isolation={isolation!r}, drain_s=0.2, cancel_grace_s=2)\n"
    code += FUNCTIONS + THREADED + "service.run()\n"
    with serving(tmp_path, code, lease_s=3) as both:
        yield both


THREADED = """
@service.task("/keep")
def keep(task: Task) -> str:
    if task.restored is None:
        task.checkpoint(b"kept " + task.id.encode())
        raise TryAgain()
    return task.restored.decode()

@service.task("/block", timeout_s=0.5)
def block(task: Task) -> str:
    while not os.path.exists("unblock"):
        time.sleep(0.01)
    task.progress(1)
    return "done"

@service.task("/log")
def log(body: str) -> None:
    import logging
    logging.getLogger("model").info("says %s", body)

@service.task("/exit")
def exit_() -> None:
    os._exit(1)

@service.task("/shield")
def shield(task: Task) -> str:
    with task.uninterrupted():
        while not os.path.exists("unshield"):
            time.sleep(0.01)
            task.progress(0.5, "within")
        print("the block is whole", flush=True)
    return "done"
"""


def test_several_tasks_run_at_a_time_in_threads(threaded: tuple[PlayedBackbone, Service], tmp_path: Path) -> None:
    backbone, service = threaded
    tasks = [backbone.submit("/wait") for _ in range(4)]
    eventually(lambda: service.metrics()["taskbackbone_running"] == 3, "not three at a time")
    assert service.metrics()["taskbackbone_slots"] == 3

    (tmp_path / "go on").touch()
    for task in tasks:
        assert task.wait().state == "completed"


def test_a_task_in_a_thread_is_cancelled_where_it_looks(threaded: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = threaded
    tasks = [backbone.submit("/wait").until(lambda task: task.state == "running") for _ in range(2)]

    tasks[0].cancel()
    eventually(lambda: service.metrics()["taskbackbone_running"] == 1, "it goes on")
    assert tasks[1].state == "running"
    tasks[1].cancel()
    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "it goes on")


def test_a_block_in_a_thread_that_is_not_to_be_interrupted_is_whole(
    threaded: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, service = threaded
    task = backbone.submit("/shield").until(lambda task: task.state == "running")

    task.cancel()
    service.until_log("no longer this service's")
    (tmp_path / "unshield").touch()
    service.until_log("the block is whole")
    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "it goes on")
    assert service.metrics()['taskbackbone_ended_total{outcome="stopped"}'] == 1


def test_each_thread_asks_for_its_own_task(threaded: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = threaded
    tasks = [backbone.submit("/keep") for _ in range(6)]

    for task in tasks:
        task.wait()
        assert task.result is not None
        assert task.result.data == b"kept " + task.id.encode()


def test_log_lines_of_a_thread_say_its_own_task(threaded: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = threaded
    tasks = [backbone.submit("/log", f"number {number}").wait() for number in range(3)]

    for number, task in enumerate(tasks):
        service.until_log(f"INFO model [task {task.id}, attempt 1]: says number {number}")


def test_a_task_over_its_time_in_a_thread_fails_when_it_looks(
    threaded: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, service = threaded
    task = backbone.submit("/block")
    service.until_log("its time is up")
    (tmp_path / "unblock").touch()

    assert task.wait().status == "failed - it took longer than 0.5 s"


def test_a_worker_that_is_killed_for_one_task_gives_the_others_back_uncounted(tmp_path: Path) -> None:
    code = "service = TaskService(concurrency=2, cancel_grace_s=0.5, drain_s=0.2)\n" + FUNCTIONS + THREADED
    with serving(tmp_path, code + "service.run()\n", lease_s=3) as (backbone, service):
        innocent = backbone.submit("/wait").until(lambda task: task.state == "running")
        (worker,) = service.workers()
        guilty = backbone.submit("/block").wait()

        assert guilty.status == "failed - it took longer than 0.5 s"
        eventually(lambda: not is_alive(worker), "the worker is still there")
        innocent.until(lambda task: task.attempt == 2)
        assert innocent.failures == 0
        (tmp_path / "go on").touch()
        assert innocent.wait().state == "completed"


def test_all_tasks_of_a_worker_that_ends_by_itself_are_given_back_counted(tmp_path: Path) -> None:
    code = "service = TaskService(concurrency=2, drain_s=0.2)\n" + FUNCTIONS + THREADED + "service.run()\n"
    with serving(tmp_path, code, lease_s=3) as (backbone, _):
        one = backbone.submit("/wait").until(lambda task: task.state == "running")
        other = backbone.submit("/exit").until(lambda task: task.attempt == 2)

        one.until(lambda task: task.attempt == 2)
        assert (one.failures, other.failures) == (1, 1)
        other.cancel()


def test_several_workers_share_the_calls(tmp_path: Path) -> None:
    code = "service = TaskService(workers=3)\n" + FUNCTIONS + "service.run()\n"
    with running(tmp_path, code) as service, ThreadPoolExecutor(3) as callers:
        eventually(lambda: service.metrics()["taskbackbone_slots"] == 3, "not all are ready")
        calls = [callers.submit(service.call, "/wait") for _ in range(3)]
        eventually(lambda: service.metrics()["taskbackbone_running"] == 3, "not three at a time")
        assert service.call("/words", b"a").status == 503
        (tmp_path / "go on").touch()
        assert [call.result().text for call in calls] == ["done"] * 3
        assert len(service.workers()) == 3


def test_a_service_in_threads_that_cannot_be_set_up_ends(tmp_path: Path) -> None:
    code = """
    service = TaskService(isolation="thread")

    @service.setup
    def load() -> None:
        raise ValueError("no weights")

    service.run()
    """
    with running(tmp_path, code, waits=False) as service:
        assert service.process.wait(60) == 1
        assert "ValueError: no weights" in service.log


STUCK = """
service = TaskService(isolation="thread", drain_s=0.1, cancel_grace_s=0.3)

@service.task("/stuck")
def stuck() -> None:
    open("stuck", "w").close()
    while True:
        time.sleep(600)

service.run()
"""


def test_a_service_in_threads_that_is_stuck_is_not_alive_and_ends_all_the_same(tmp_path: Path) -> None:
    with serving(tmp_path, STUCK, lease_s=3) as (backbone, service):
        task = backbone.submit("/stuck").until(lambda task: task.state == "running")
        assert service.ask("GET", "/livez").status == 200
        task.cancel()

        service.until_log("does not stop, and a thread cannot be ended by force")
        assert service.ask("GET", "/livez").status == 503
        assert service.stop() == 0


def test_a_function_in_a_thread_that_does_not_end_is_given_back_when_the_service_stops(tmp_path: Path) -> None:
    with serving(tmp_path, STUCK) as (backbone, service):
        task = backbone.submit("/stuck").until(lambda task: task.state == "running")

        assert service.stop() == 0
        releases = [json.loads(call.body) for call in task.calls if call.kind == "release"]
        assert releases == [{"Failed": False, "Status": "the service is stopping"}]


def test_a_service_in_threads_is_one_process(tmp_path: Path) -> None:
    code = "service = TaskService(isolation='thread')\n" + FUNCTIONS + "service.run()\n"
    with running(tmp_path, code) as service:
        assert json.loads(service.call("/words", b"a").body)["pid"] == service.process.pid
        assert service.workers() == []


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("TaskService(workers=0)", "workers and concurrency are at least 1"),
        ("TaskService(isolation='fork')", "isolation is process or thread"),
        ("TaskService().task('words')(print)", "a path begins with a slash"),
        (
            "s = TaskService(); s.task('/a')(lambda body: 1); s.task('/a/')(lambda body: 1)",
            "/a has a function already",
        ),
        ("s = TaskService()\nasync def f(body): ...\ns.task('/a')(f)", "without async and yield"),
        ("s = TaskService()\ndef f(body: int): ...\ns.task('/a')(f)", "body: a body is bytes, str"),
        ("s = TaskService()\ndef f(a, b): ...\ns.task('/a')(f)", "b is one too many"),
        ("s = TaskService()\ndef f(*a): ...\ns.task('/a')(f)", r"\*a is not possible"),
        ("s = TaskService()\ndef f(*, a: dict): ...\ns.task('/a')(f)", "a: a parameter is int"),
        ("s = TaskService()\ndef f(a: 'Nothing'): ...\ns.task('/a')(f)", "annotations cannot be read"),
    ],
)
def test_what_cannot_be_a_service_is_refused_where_it_is_made(made: str, reason: str) -> None:
    from taskbackbone import TaskService

    with pytest.raises((TypeError, ValueError), match=reason):
        exec(made, {"TaskService": TaskService})
    assert "TASKBACKBONE_WORKER" not in os.environ
