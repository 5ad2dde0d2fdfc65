"""A service and the real backbone: from a caller's submit to the result."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from conftest import Backbone, Place
from service_process import Service, eventually, running

CODE = """
service = TaskService(drain_s=0.2, cancel_grace_s=5)
at = os.environ["PLACE"]

@service.task(at + "/count", content_types=["text/plain"])
def count(body: str, task: Task, *, least: int = 1) -> Result:
    words = sum(len(word) >= least for word in body.split())
    return Result({"words": words}, status=f"{words} words - all of them")

@service.task(at + "/wait")
def wait(task: Task) -> str:
    task.progress(0.25, "waiting")
    try:
        while not os.path.exists("go on"):
            time.sleep(0.01)
    except Cancelled as cancelled:
        if str(cancelled) == "shutdown":
            task.checkpoint(b"a quarter")
        raise
    return f"done after {task.restored!r}"

@service.task(at + "/large")
def large(body: bytes) -> bytes:
    return body[::-1]

@service.task(at + "/fail")
def fail() -> None:
    raise Fail("there is nothing to see - at all")

@service.task(at + "/map")
def map_(task: Task) -> Result:
    task.next(at + "/legend", {"classes": 3})
    return Result(b"a map", "image/png")

@service.task(at + "/draw")
def draw(body: bytes, task: Task, *, to: str) -> Result:
    task.next(to)
    return Result(body * 2, "image/x-any")

@service.task(at + "/size")
def size(body: bytes, task: Task) -> str:
    return f"{len(body)} bytes of {task.content_type}"

@service.task(at + "/legend")
def legend(body: dict, task: Task) -> Result:
    return Result(task.previous_result + b" with %d classes" % body["classes"], "image/png")

service.run()
"""


class Caller:
    """Somebody who submits tasks to the place of a service."""

    def __init__(self, backbone: Backbone, place: Place) -> None:
        self._api = backbone.url + "/api/v1"
        self._headers = {"x-functions-key": backbone.key}
        self._place = place

    def submit(self, path: str, body: bytes = b"", query: str = "") -> str:
        headers = {**self._headers, "Content-Type": "text/plain"}
        url = f"{self._api}/submit{self._place.path}{path}?{query}"
        return requests.post(url, body, headers=headers, timeout=60).json()["TaskId"]

    def task(self, task_id: str) -> dict[str, Any]:
        return requests.get(f"{self._api}/tasks/{task_id}", headers=self._headers, timeout=60).json()

    def result(self, task_id: str) -> requests.Response:
        return requests.get(f"{self._api}/tasks/{task_id}/result", headers=self._headers, timeout=60)

    def cancel(self, task_id: str) -> None:
        requests.delete(f"{self._api}/tasks/{task_id}", headers=self._headers, timeout=60)

    def until(self, task_id: str, backend_status: str) -> dict[str, Any]:
        eventually(lambda: self.task(task_id)["BackendStatus"] == backend_status, f"{self.task(task_id)}")
        return self.task(task_id)


@contextmanager
def pod(folder: Path, backbone: Backbone, place: Place) -> Generator[Service, None, None]:
    environment = {**backbone.environment, "PLACE": place.path, "PORT": str(place.port)}
    with running(folder, CODE, environment, waits=False) as service:
        service.port = place.port
        yield service.until_ready()


def test_a_caller_gets_what_the_function_returns(backbone: Backbone, place: Place, tmp_path: Path) -> None:
    caller = Caller(backbone, place)
    with pod(tmp_path, backbone, place):
        task_id = caller.submit("/count", b"to be or not to be", "least=3")
        task = caller.until(task_id, "completed")

        assert task["Status"] == "completed - 1 words - all of them"
        assert caller.result(task_id).json() == {"words": 1}

        body = os.urandom(3_000_000)
        task_id = caller.submit("/large", body)
        caller.until(task_id, "completed")
        assert caller.result(task_id).content == body[::-1]

        failed = caller.until(caller.submit("/fail"), "failed")
        assert failed["Status"] == "failed - there is nothing to see - at all"
        bad = caller.until(caller.submit("/count", b"a", "most=1"), "failed")
        assert bad["Status"] == "failed - most is no parameter of this task"


def test_a_pipeline_goes_from_step_to_step(backbone: Backbone, place: Place, tmp_path: Path) -> None:
    caller = Caller(backbone, place)
    with pod(tmp_path, backbone, place):
        task_id = caller.submit("/map")
        task = caller.until(task_id, "completed")

        assert task["EndpointPath"] == place.path + "/legend"
        assert caller.result(task_id).content == b"a map with 3 classes"


def test_what_a_step_returns_is_the_body_of_the_next_one(backbone: Backbone, place: Place, tmp_path: Path) -> None:
    caller = Caller(backbone, place)
    with pod(tmp_path, backbone, place):
        task_id = caller.submit("/draw", b"a map", f"to={place.path}/size")
        caller.until(task_id, "completed")
        assert caller.result(task_id).content == b"10 bytes of image/x-any"

        task_id = caller.submit("/draw", b"a map", "to=/v9/nothing")
        task = caller.until(task_id, "failed")
        assert task["Status"].startswith("failed - the backbone refused the next step, /v9/nothing: ")


def test_a_caller_sees_progress_and_may_cancel(backbone: Backbone, tmp_path: Path) -> None:
    place = backbone.place(brief_lease=True)
    caller = Caller(backbone, place)
    with pod(tmp_path, backbone, place) as service:
        task_id = caller.submit("/wait")
        task = caller.until(task_id, "running")
        assert (task["Status"], task["Progress"]) == ("running - waiting", 0.25)

        caller.cancel(task_id)
        eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "it goes on")
        assert caller.task(task_id)["BackendStatus"] == "cancelled"


def test_a_task_outlives_its_worker_and_its_pod(backbone: Backbone, place: Place, tmp_path: Path) -> None:
    caller = Caller(backbone, place)
    with pod(tmp_path, backbone, place) as service:
        task_id = caller.submit("/wait")
        caller.until(task_id, "running")
        os.kill(service.workers()[0], signal.SIGKILL)
        eventually(lambda: caller.task(task_id)["Attempt"] == 2, "there is no second attempt")
        caller.until(task_id, "running")
    assert caller.task(task_id)["BackendStatus"] == "created"

    (tmp_path / "go on").touch()
    with pod(tmp_path, backbone, place):
        caller.until(task_id, "completed")
        assert caller.result(task_id).text == "done after b'a quarter'"
