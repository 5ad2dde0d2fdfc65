"""Services of every kind behind the real app at once, and of each kind a pod that is killed at its work."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import Backbone, Place

from taskbackbone import AsyncTaskClient

TASKS = 250
"""Of each kind."""
KILLED_AFTER = 60
"""So many tasks of a kind have ended when its pod is killed."""
CALLERS = 48
PATIENCE_S = 300.0

PLAIN = Path(__file__).parent / "counting_service.py"
SERVICE = """
import os, time
from taskbackbone import TaskService

service = TaskService(workers=2)


@service.task(os.environ["TASK_PATH"])
def count(body: str) -> dict:
    time.sleep(0.02)
    return {"words": len(body.split())}


service.run()
"""
MANAGED = """
import os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from taskbackbone import TaskManager, errors

slots = threading.Semaphore(2)


def work(task, body):
    try:
        task.update("counting")
        time.sleep(0.02)
    finally:
        slots.release()
    try:
        task.complete(result={"words": len(body.split())})
    except errors.Conflict:
        pass


class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        accepted = slots.acquire(blocking=False)
        if accepted:
            threading.Thread(target=work, args=(TaskManager.of(self.headers), body), daemon=True).start()
        self.send_response(202 if accepted else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
"""
UPSTREAM = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"words": len(body.split())}).encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Server).serve_forever()
"""


class Pod:
    """Processes that are killed together, and started again at the same place."""

    def __init__(self, place: Place, commands: list[list[str]], variables: dict[str, str]) -> None:
        self.path = f"{place.path}/count"
        self._commands = commands
        self._variables = {**os.environ, **variables, "PORT": str(place.port), "TASK_PATH": self.path, "SLOTS": "2"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._processes = [
            subprocess.Popen(command, env=self._variables, start_new_session=True) for command in self._commands
        ]

    def kill(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running(pod: Pod) -> Iterator[Pod]:
    pod.start()
    try:
        yield pod
    finally:
        pod.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def pods(backbone: Backbone, tmp_path: Path) -> Iterator[dict[str, Pod]]:
    scripts = {"service.py": SERVICE, "managed.py": MANAGED, "upstream.py": UPSTREAM}
    for name, source in scripts.items():
        (tmp_path / name).write_text(source)
    upstream = str(free_port())
    sidecar = ["-m", "taskbackbone", "sidecar", "--upstream", f"http://127.0.0.1:{upstream}", "--slots", "2"]
    programs = {
        "plain HTTP": [[str(PLAIN)]],
        "TaskService": [[str(tmp_path / "service.py")]],
        "sidecar": [[str(tmp_path / "upstream.py"), upstream], sidecar],
        "TaskManager": [[str(tmp_path / "managed.py")]],
    }
    with ExitStack() as stack:
        made: dict[str, Pod] = {}
        for kind, commands in programs.items():
            pod = Pod(
                backbone.place(brief_lease=True),
                [[sys.executable, *command] for command in commands],
                backbone.environment,
            )
            made[kind] = stack.enter_context(running(pod))
        yield made


@pytest.mark.slow
async def test_none_is_lost_and_none_is_wrong(backbone: Backbone, pods: dict[str, Pod]) -> None:
    ended: Counter[str] = Counter()
    attempts: Counter[int] = Counter()
    turns = asyncio.Semaphore(CALLERS)

    async def one(client: AsyncTaskClient, kind: str, number: int) -> bool:
        async with turns:
            task = await client.submit(pods[kind].path, "word " * (number + 1))
            result = await (await task.result(timeout_s=PATIENCE_S)).json()
        attempts[(await task.refresh()).attempt] += 1
        ended[kind] += 1
        if ended[kind] == KILLED_AFTER:
            pods[kind].kill()
            pods[kind].start()
        return result == {"words": number + 1}

    async with AsyncTaskClient(backbone.url, backbone.key) as client:
        submitted = [one(client, kind, number) for number in range(TASKS) for kind in pods]
        right = await asyncio.gather(*submitted)

    assert right == [True] * (4 * TASKS)
    assert sum(count for attempt, count in attempts.items() if attempt > 1) >= 1, "nobody was killed at work"
