"""The sidecar before servers of models that nobody here wrote."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from services.service_process import descendants

from taskbackbone.testing import PlayedBackbone, PlayedTask

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PATIENCE_S = 120.0
SIDECAR = [sys.executable, "-m", "taskbackbone", "sidecar"]


@dataclass(frozen=True)
class Server:
    """How one is started and asked.

    Attributes:
        command: what follows its Python; ``PORT`` stands for the port.
        body: of a request, with ``TEXT`` for the text.
        refuses: whether it says that it has no room for a second request, or lets that wait.
        options: of the sidecar.
    """

    command: tuple[str, ...]
    path: str
    body: str = '{"text": "TEXT"}'
    refuses: bool = False
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


SERVERS = {
    "cog": Server(
        ("-m", "cog.server.http"),
        "/predictions",
        '{"input": {"text": "TEXT"}}',
        refuses=True,
        options=("--busy", "409", "--failure", "status=failed"),
        variables={"COG_PREDICT_TYPE_STUB": "cog_model.py:Model"},
    ),
    "litserve": Server(("litserve_model.py",), "/predict"),
    "bentoml": Server(
        ("-m", "bentoml", "serve", "bentoml_model:Model", "--host", "127.0.0.1", "--port", "PORT"),
        "/predict",
        refuses=True,
        variables={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    "gunicorn": Server(
        ("-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:PORT", "gunicorn_model:app"), "/predict"
    ),
}


@dataclass
class Case:
    """A server with a sidecar before it."""

    name: str
    python: Path
    port: int
    backbone: PlayedBackbone
    log: Path

    @property
    def server(self) -> Server:
        return SERVERS[self.name]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The server; whatever it has started is killed with it."""
        variables = {**os.environ, **self.server.variables, "PORT": str(self.port)}
        variables.pop("PYTHONPATH", None)
        variables["PATH"] = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        command = [str(self.python), *(word.replace("PORT", str(self.port)) for word in self.server.command)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=HERE, env=variables, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield process
            finally:
                self.kill(process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    @contextmanager
    def sidecar(self, *options: str) -> Iterator[None]:
        upstream = f"http://127.0.0.1:{self.port}{self.server.path}"
        with self.backbone.start([*SIDECAR, "--upstream", upstream, *self.server.options, *options]):
            yield

    def submit(self, text: str) -> PlayedTask:
        body = self.server.body.replace("TEXT", text).encode()
        return self.backbone.submit("/v1/any/model", body, content_type="application/json")

    def is_ready(self) -> bool:
        return requests.get(f"{self.backbone.service_url}/readyz", timeout=PATIENCE_S).status_code == 200


@pytest.fixture(params=SERVERS)
def case(request: pytest.FixtureRequest, foreign_python: Callable[[str], Path], tmp_path: Path) -> Iterator[Case]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with PlayedBackbone(lease_s=3) as backbone:
        yield Case(request.param, foreign_python(request.param), port, backbone, tmp_path / "server.log")


def output(task: PlayedTask) -> object:
    assert task.result is not None
    document = json.loads(task.result.data)
    return document["output"]


def until(case: Case, task: PlayedTask, condition: Callable[[PlayedTask], object]) -> PlayedTask:
    """Waits until the condition holds; released tasks come again meanwhile."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not case.backbone.wait_for(lambda: condition(task), 0.5):
        assert time.monotonic() < deadline_s, f"{task}: {case.log.read_text()[-2000:]}"
        for each in case.backbone.all_tasks:
            each.due_s = None if each.state == "created" else each.due_s
    return task


def test_a_server_that_is_not_up_yet_gets_its_tasks_when_it_is(case: Case) -> None:
    with case.sidecar():
        task = case.submit("to be or not to be")
        task.until(lambda task: task.answers)
        assert not case.is_ready()
        with case.running():
            assert output(until(case, task, lambda task: task.has_ended)) == 6
            assert task.failures == 0
            assert case.is_ready()


def test_what_a_server_refuses_fails_with_its_text(case: Case) -> None:
    with case.running(), case.sidecar():
        until(case, case.submit("warm up"), lambda task: task.has_ended)
        body = case.server.body.replace('"text"', '"picture"').encode()
        task = case.backbone.submit("/v1/any/model", body, content_type="application/json")

        until(case, task, lambda task: task.has_ended)
        assert (task.state, task.failures) == ("failed", 0), task
        assert "required" in task.status.lower() or "picture" in task.status


def test_a_server_without_room_gets_a_task_when_it_has_some(case: Case) -> None:
    with case.running(), case.sidecar("--slots", "2"):
        until(case, case.submit("warm up"), lambda task: task.has_ended)
        tasks = [case.submit("sleep 2 now") for _ in range(3)]

        for task in tasks:
            assert output(until(case, task, lambda task: task.has_ended)) == 3
        assert [task.failures for task in tasks] == [0, 0, 0]
        released = [call for task in tasks for call in task.calls if call.kind == "release"]
        assert bool(released) == bool(case.server.refuses)


def test_a_task_that_is_cancelled_leaves_room_for_another(case: Case) -> None:
    with case.running(), case.sidecar():
        until(case, case.submit("warm up"), lambda task: task.has_ended)
        task = case.submit("sleep 8 now")
        until(case, task, lambda task: task.calls)
        task.cancel()

        following = case.submit("a b")
        assert output(until(case, following, lambda task: task.has_ended)) == 2
        assert (task.state, following.failures) == ("cancelled", 0)


def test_a_server_that_is_killed_with_a_task_gets_it_again(case: Case) -> None:
    with case.sidecar():
        with case.running() as process:
            until(case, case.submit("warm up"), lambda task: task.has_ended)
            task = case.submit("sleep 5 now")
            until(case, task, lambda task: task.calls)
            case.kill(process)
            until(case, task, lambda task: task.failures)
        with case.running():
            assert output(until(case, task, lambda task: task.has_ended)) == 3
