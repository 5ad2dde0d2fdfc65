"""A service as a process of its own, for the tests: its address, its log, its workers, and that none of them is left.

Tests write a service's script, start it, and ask it over HTTP; a played backbone stands for the real one where the
test is about what the service says to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from taskbackbone._dispatch import free_port
from taskbackbone.testing import PlayedBackbone

PATIENCE_S = 60.0
HEAD = """\
import os, sys, time
from taskbackbone import Cancelled, Fail, Result, Task, TaskService, TryAgain
"""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Service:
    """A running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, ready: str) -> None:
        self.process = process
        self.port = port
        self.folder = log.parent
        self.temporary = log.parent / "temporary"
        self._ready = ready
        self._log = log
        self._descendants: set[int] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def call(self, path: str, body: bytes = b"", content_type: str = "text/plain", **headers: str) -> Answer:
        """Calls the service directly."""
        return self.ask("POST", path, body, {"Content-Type": content_type, **headers})

    def dispatch(self, path: str, task_id: str, attempt: int = 1, body: bytes = b"", **headers: str) -> Answer:
        """Sends a task as the backbone does."""
        told = {"taskId": task_id, "X-Task-Attempt": str(attempt), "Content-Type": "text/plain", **headers}
        return self.ask("POST", path, body, told)

    def workers(self) -> list[int]:
        """The processes of its workers."""
        return self._note(children(self.process.pid))

    def metrics(self) -> dict[str, float]:
        lines = self.ask("GET", "/metrics").text.splitlines()
        values = (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        return defaultdict(float, {name: float(value) for name, value in values})

    def until_ready(self) -> Service:
        eventually(self._is_ready, f"the service is not ready: {self.log}")
        self.workers()
        return self

    def until_log(self, text: str) -> None:
        eventually(lambda: text in self.log, f"not in the log: {text}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Returns the exit code."""
        if self.process.poll() is None:
            self._note(descendants(self.process.pid))
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def left_over(self) -> list[int]:
        """What it started and has not ended."""
        return [pid for pid in self._descendants if is_alive(pid)]

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"the service ended with {self.process.returncode}: {self.log}"
        try:
            return self.ask("GET", self._ready).status == 200
        except OSError:
            return False

    def _note(self, pids: list[int]) -> list[int]:
        self._descendants.update(pids)
        return pids


@contextmanager
def running(
    folder: Path,
    code: str,
    environment: Mapping[str, str] | None = None,
    *,
    command: list[str] | None = None,
    waits: bool = True,
    ready: str = "/readyz",
) -> Generator[Service, None, None]:
    """Runs a script that makes a `service`, or a command in its folder, until the end of the block.

    Nothing that it has started may be left then.
    """
    script = folder / "a_service.py"
    script.write_text(HEAD + textwrap.dedent(code))
    port, log = free_port(), folder / f"log-{time.monotonic_ns()}"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("BACKBONE_", "SERVICE_"))}
    (folder / "temporary").mkdir(exist_ok=True)
    own.update({"PORT": str(port), "TMPDIR": str(folder / "temporary"), **(environment or {})})
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command or [sys.executable, str(script)],
            cwd=folder,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    service = Service(process, port, log, ready)
    try:
        yield service.until_ready() if waits else service
    finally:
        service.stop()
        if service.process.returncode >= 0:
            assert not list(service.temporary.iterdir()), "its folder is left"
        try:
            eventually(lambda: not service.left_over(), f"still there: {service.left_over()}; {service.log}")
        finally:
            for pid in service.left_over():
                os.kill(pid, signal.SIGKILL)


@contextmanager
def serving(
    folder: Path,
    code: str,
    environment: Mapping[str, str] | None = None,
    *,
    command: list[str] | None = None,
    ready: str = "/readyz",
    **backbone: Any,
) -> Generator[tuple[PlayedBackbone, Service], None, None]:
    """A played backbone, and a service that it dispatches to."""
    played = PlayedBackbone(**backbone)
    known = {**played.environment, **(environment or {})}
    with played, running(folder, code, known, command=command, ready=ready) as service:
        played.service_url = service.url
        yield played, service


def eventually(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits until the condition holds."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [child for child, parent in _processes() if parent == pid]


def descendants(pid: int) -> list[int]:
    processes, found = _processes(), [pid]
    for parent in found:
        found += [child for child, of in processes if of == parent]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def _processes() -> list[tuple[int, int]]:
    command = ["ps", "-ax", "-o", "pid=,ppid=,stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [(int(pid), int(parent)) for pid, parent, state in rows if not state.startswith("Z")]
