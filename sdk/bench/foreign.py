"""The SDK's direct call beside those of other servers of models: each counts the characters of a text.

Each server runs alone, in an environment of its own under ``.local/sdk``, and is asked by one client over one
connection that is kept alive. What it is asked has its own form: a text here, JSON there.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from bench.plausibility import require
from local.processes import free_port
from tests.sdk import package
from tests.sdk.environments import clean_environment
from tests.sdk.foreign import python_with

SERVERS: Final = Path(__file__).parent / "servers"
SMALL_BYTES: Final = 500
LARGE_BYTES: Final = 500_000
OURS: Final = "taskbackbone"
BARE: Final = "bare ASGI handler"
_START_TIMEOUT_S: Final = 120.0
_WARM_UP: Final = 100
_BUSY: Final = (409, 429, 503)


@dataclass(frozen=True)
class Server:
    """How a server is started and asked.

    Parameters:
        command: what follows its Python; ``PORT`` stands for the port.
        path: where it is asked.
        key: under which name it expects the text in a JSON object; dots go deeper. Empty: it takes the text itself.
        package: whose environment of `tests.sdk.foreign` it needs; empty: our own.
        variables: of its process.
    """

    command: tuple[str, ...]
    path: str
    key: str = ""
    package: str = ""
    variables: Mapping[str, str] | None = None

    def body(self, size: int) -> tuple[bytes, str]:
        """A body with a text of *size* characters, and its type."""
        text = "x" * size
        if not self.key:
            return text.encode(), "text/plain"
        told: object = text
        for name in reversed(self.key.split(".")):
            told = {name: told}
        return json.dumps(told).encode(), "application/json"


CATALOGUE: Final[Mapping[str, Server]] = {
    BARE: Server(("bare.py",), "/v1/hello"),
    OURS: Server(("taskbackbone_hello.py",), "/v1/hello"),
    "cog": Server(
        ("-m", "cog.server.http"),
        "/predictions",
        "input.text",
        "cog",
        {"COG_PREDICT_TYPE_STUB": "cog_hello.py:Hello"},
    ),
    "LitServe": Server(("litserve_hello.py",), "/predict", "text", "litserve"),
    "BentoML": Server(
        ("-m", "bentoml", "serve", "bentoml_hello:Hello", "--host", "127.0.0.1", "--port", "PORT"),
        "/hello",
        "text",
        "bentoml",
        {"BENTOML_DO_NOT_TRACK": "true"},
    ),
}


@dataclass(frozen=True)
class Measured:
    """One run of a server.

    Attributes:
        ready_s: from the start of its process to its first answer.
        pss_mib: its share of memory with all its processes, once it has answered.
        small_ms, large_ms: the median time of a call with 500 characters, and with 500,000.
        small_cpu_ms: the CPU time of all its processes for a small call.
        refused: how many calls were refused, one after the other as they were; each was made again at once.
    """

    ready_s: float
    processes: int
    pss_mib: float
    small_ms: float
    small_cpu_ms: float
    large_ms: float
    refused: int


def pythons(wheel: Path) -> dict[str, Path]:
    """The Python of each server's environment. They are made the first time."""
    ours = package.installed("bench-sdk", sys.executable, wheel)
    return {name: python_with(each.package) if each.package else ours for name, each in CATALOGUE.items()}


def measure(name: str, python: Path, calls: int) -> Measured:
    """Start a server, ask it, and stop it.

    Raises:
        ImplausibleFigure: a figure cannot be.
    """
    server, port = CATALOGUE[name], free_port()
    began_s = time.monotonic()
    with running(server, python, port) as process:
        client = Client(port, server)
        client.until_ready(process)
        ready_s = time.monotonic() - began_s
        tree = family(process)
        pss_mib = sum(each.memory_full_info().pss for each in tree) / 2**20
        client.times_ms(SMALL_BYTES, _WARM_UP)
        before_s = cpu_s(tree)
        small_ms = client.times_ms(SMALL_BYTES, calls)
        small_cpu_ms = (cpu_s(tree) - before_s) * 1000 / calls
        large_ms = client.times_ms(LARGE_BYTES, max(20, calls // 10))
        client.close()
    floor_ms = loopback_ms(LARGE_BYTES), loopback_ms(SMALL_BYTES)
    require(min(large_ms) >= floor_ms[0] / 2, f"{name}: a large call was faster than the loopback interface")
    require(min(small_ms) >= floor_ms[1] / 2, f"{name}: a small call was faster than the loopback interface")
    require(pss_mib > 4, f"{name}: {pss_mib:.1f} MiB are less than a bare Python needs")
    cores = os.cpu_count() or 1
    require(small_cpu_ms <= statistics.mean(small_ms) * cores * 1.1, f"{name}: more CPU time than there was")
    small_p50_ms, large_p50_ms = statistics.median(small_ms), statistics.median(large_ms)
    return Measured(ready_s, len(tree), pss_mib, small_p50_ms, small_cpu_ms, large_p50_ms, client.refused)


@contextmanager
def running(server: Server, python: Path, port: int) -> Generator[subprocess.Popen[bytes], None, None]:
    variables = {**clean_environment(), **(server.variables or {}), "PORT": str(port)}
    variables["PATH"] = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [str(python), *(str(port) if word == "PORT" else word for word in server.command)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=SERVERS, env=variables, stdout=log, stderr=log)
        try:
            yield process
        finally:
            # Some leave children behind when they are asked to end.
            for each in reversed(family(process)):
                each.kill()
            process.wait()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(tree: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (each.cpu_times() for each in tree))


class Client:
    """One connection to a server."""

    def __init__(self, port: int, server: Server) -> None:
        self._server = server
        self.refused = 0
        """How often it said that it is full, though one call at a time is made."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                if self.call(*self._server.body(SMALL_BYTES)) == 200:
                    return
            except (OSError, http.client.HTTPException):
                self._connection.close()
            require(process.poll() is None, f"{self._server.command}: it has ended by itself")
            require(time.monotonic() < deadline_s, f"{self._server.command}: not ready in {_START_TIMEOUT_S:g} s")
            time.sleep(0.005)

    def times_ms(self, size: int, calls: int) -> list[float]:
        """How long each of so many calls took."""
        body, content_type = self._server.body(size)
        taken: list[float] = []
        for _ in range(calls):
            began_s = time.perf_counter()
            while (status := self.call(body, content_type)) in _BUSY:
                self.refused += 1
            taken.append((time.perf_counter() - began_s) * 1000)
            require(status == 200, f"{self._server.command}: it answered {status}")
        return taken

    def call(self, body: bytes, content_type: str) -> int:
        self._connection.request("POST", self._server.path, body, {"Content-Type": content_type})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def close(self) -> None:
        self._connection.close()


def loopback_ms(size: int) -> float:
    """The least time in which so many bytes go through the loopback interface, and an answer comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        thread = threading.Thread(target=_answer, args=(server, size), daemon=True)
        thread.start()
        payload, taken = b"x" * size, list[float]()
        with client, server:
            for _ in range(30):
                began_s = time.perf_counter()
                client.sendall(payload)
                client.recv(1)
                taken.append((time.perf_counter() - began_s) * 1000)
            client.shutdown(socket.SHUT_RDWR)
            thread.join()
    return min(taken)


def _answer(server: socket.socket, size: int) -> None:
    while True:
        left = size
        while left:
            received = server.recv(1 << 20)
            if not received:
                return
            left -= len(received)
        server.sendall(b"y")
