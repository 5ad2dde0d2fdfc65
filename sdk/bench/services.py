"""What the SDK's services promise, measured: calls, heartbeats, cancels, lost workers, stops, slots, memory.

``measure`` returns the figures by their keys in ``bench.harness.TARGETS``. ``python -m sdk.bench.services`` prints
them, as rows and as JSON. Each row runs a service of its own. A played backbone stands for the real one, but for the
row with two pods: that runs against the local stack, behind a small balancer as in front of pods.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import psutil
from bench.plausibility import require
from local.processes import free_port
from tests.sdk.environments import clean_environment

from taskbackbone.testing import PlayedBackbone, PlayedTask

ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = 120.0
_GRACE_S: Final = 1.0
_SETUP_S: Final = 1.0
_DRAIN_S: Final = 5.0
_TASKS_AT_STOP: Final = 4
_LONGEST_DISPATCH_S: Final = 0.0002
"""No dispatch, however fast, goes through HTTP in less."""

SERVICE: Final = """
import os, time
from collections import deque
from itertools import repeat
from taskbackbone import Cancelled, Task, TaskService

service = TaskService(
    concurrency=int(os.environ.get("CONCURRENCY", 1)), drain_s=5, cancel_grace_s=float(os.environ.get("GRACE_S", 1))
)
at = os.environ.get("PLACE", "")


def note(name):
    with open(name, "a") as file:
        file.write(f"{time.monotonic()}\\n")


@service.setup
def load():
    time.sleep(float(os.environ.get("SETUP_S", 0)))


@service.task(at + "/count")
def count(body: str) -> dict:
    return {"words": len(body.split())}


@service.task(at + "/gil")
def gil(*, items: int) -> str:
    note("began")
    deque(repeat(None, items), maxlen=0)  # one call into C, which lets nobody else have the GIL
    note("ended")
    return "done"


@service.task(at + "/loop")
def loop() -> None:
    try:
        while True:
            sum(range(100))
    finally:
        note("stopped")


@service.task(at + "/sleep")
def sleep(task: Task, *, seconds: float = 60) -> str:
    note("began")
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.02)
        task.check()
    return "done"


service.run()
"""


class Service:
    """A running service and where it writes down times."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        with suppress(OSError):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        return 0, ""

    def running(self) -> int:
        lines = self.get("/metrics")[1].splitlines()
        return next((int(float(line.split()[1])) for line in lines if line.startswith("taskbackbone_running ")), -1)

    def times(self, name: str) -> list[float]:
        file = self.folder / name
        return [float(line) for line in file.read_text().split()] if file.exists() else []

    def family(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@contextmanager
def running(
    python: Path, environment: Mapping[str, str], port: int | None = None, folder: Path | None = None
) -> Generator[Service, None, None]:
    with tempfile.TemporaryDirectory() as own:
        folder, port = folder or Path(own), port or free_port()
        script = folder / "measured_service.py"
        script.write_text(textwrap.dedent(SERVICE))
        variables = {**clean_environment(), **environment, "PORT": str(port)}
        with (folder / f"log-{port}").open("wb") as log:
            process = subprocess.Popen([python, script], cwd=folder, env=variables, stdout=log, stderr=log)
        service = Service(process, port, folder)
        try:
            until(lambda: service.get("/readyz")[0] == 200, "the service is ready")
            yield service
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()


@contextmanager
def served(
    python: Path, environment: Mapping[str, str] | None = None, **backbone: Any
) -> Generator[tuple[PlayedBackbone, Service], None, None]:
    played = PlayedBackbone(**backbone)
    with played, running(python, {**played.environment, **(environment or {})}) as service:
        played.service_url = service.url
        yield played, service


def until(condition: Callable[[], object], what: str, timeout_s: float = _PATIENCE_S) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        require(time.monotonic() < give_up_s, f"not within {timeout_s:g} s: {what}")
        time.sleep(0.002)


def calls_of_a_brief_task(python: Path, tasks: int) -> dict[str, float]:
    """How many calls to the backbone a task costs, the most of any."""
    with served(python) as (backbone, _):
        for _ in range(tasks):
            backbone.submit("/count", "to be or not to be").wait()
        calls = [call for call in backbone.calls if call.kind != "health"]
        counts = [len([call for call in calls if call.of(task)]) for task in backbone.tasks.records]
        require(min(counts) >= 1, "a task ended that nobody reported")
        return {"sdk_calls": max(max(counts), len(calls) / tasks)}


def gil_held(python: Path, seconds: float) -> dict[str, float]:
    """The leases that are lost while a call into C holds the GIL, and the longest time without a heartbeat."""
    with served(python, lease_s=5.0, now_s=time.time) as (backbone, service):
        per_s = _items_per_s(python)
        task = backbone.submit("/gil", query=f"items={int(per_s * seconds * 1.15)}").wait()
        (began_s, *_), (ended_s, *_) = service.times("began"), service.times("ended")
        held_s = ended_s - began_s
        require(held_s >= seconds, f"the GIL was held for {held_s:.1f} s only")
        beats_s = [began_s, *(call.at_s for call in task.calls if began_s <= call.at_s <= ended_s), ended_s]
        gaps_s = [later - earlier for earlier, later in zip(beats_s, beats_s[1:], strict=False)]
        require(len(beats_s) <= held_s * 2 + 3, "there are more heartbeats than two a second")
        return {"sdk_gil_lost": task.attempt - 1, "sdk_gil_gap": max(gaps_s)}


def _items_per_s(python: Path) -> float:
    """How fast the call into C is on this machine, at its best."""
    code = "import time\nfrom collections import deque\nfrom itertools import repeat\nbegan = time.perf_counter()\n"
    code += "deque(repeat(None, 10**8), maxlen=0)\nprint(1e8 / (time.perf_counter() - began))"
    taken = [float(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)]
    return max(taken)


def cancelled(python: Path) -> dict[str, float]:
    """From the call that is answered 409 until the work has stopped; for a call into C, beyond the grace."""
    environment = {"GRACE_S": str(_GRACE_S)}
    with served(python, environment, lease_s=3.0, now_s=time.time) as (backbone, service):
        task = _begun(backbone, "/loop")
        told_s = _cancel(task)
        until(lambda: service.times("stopped"), "the loop has stopped")
        python_s = service.times("stopped")[0] - told_s

        (worker,) = service.family()[1:]
        task = _begun(backbone, "/gil", "items=1000000000000")
        told_s = _cancel(task)
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker is ended")
        until(lambda: service.running() == 0, "the slot is free")
        c_s = time.monotonic() - told_s - _GRACE_S
    require(python_s > 0, "the work had stopped before it was cancelled")
    require(c_s > 0, "the worker was killed within its grace")
    return {"sdk_cancel": python_s, "sdk_cancel_c": c_s}


def _begun(backbone: PlayedBackbone, path: str, query: str = "") -> PlayedTask:
    return backbone.submit(path, query=query).until(lambda task: task.state == "running")


def _cancel(task: PlayedTask) -> float:
    """Returns when the call came that tells the service."""
    cancelled_s = time.monotonic()
    task.cancel()
    until(lambda: any(call.at_s > cancelled_s for call in task.calls), "a heartbeat after the cancel")
    return next(call.at_s for call in task.calls if call.at_s > cancelled_s)


def worker_killed(python: Path) -> dict[str, float]:
    """From the kill until the task waits again, and until its next attempt, beyond the set-up of the worker."""
    with served(python, {"SETUP_S": str(_SETUP_S)}) as (backbone, service):
        task = _begun(backbone, "/sleep")
        (worker,) = service.family()[1:]
        killed_s = time.monotonic()
        worker.kill()
        task.until(lambda task: task.attempt == 2)
        (release,) = [call for call in task.calls if call.kind == "release"]
        until(lambda: len(service.times("began")) == 2, "the next attempt begins")
        next_s = service.times("began")[1] - killed_s - _SETUP_S
        task.cancel()
    require(release.at_s > killed_s, "the task was given back before its worker was killed")
    require(next_s > 0, "the next attempt began before a worker was set up")
    return {"sdk_kill": release.at_s - killed_s, "sdk_kill_next": next_s}


def back_to_back(python: Path, tasks: int) -> dict[str, float]:
    """How often the service refuses a task for a slot that it told free."""
    with served(python) as (backbone, _):
        began_s = time.monotonic()
        submitted = [backbone.submit("/count", "to be or not to be") for _ in range(tasks)]
        for task in submitted:
            task.wait()
        each_s = (time.monotonic() - began_s) / tasks
        require(each_s > _LONGEST_DISPATCH_S, f"{each_s * 1e6:.0f} µs for a task are less than HTTP needs")
        require(all(task.state == "completed" for task in submitted), "a task did not complete")
        refused = sum(answer.meaning == "busy" for task in submitted for answer in task.answers)
        return {"sdk_refused": refused, "tasks_per_s": 1 / each_s}


def heap_growth(python: Path, tasks: int) -> dict[str, float]:
    """By how much the memory grows that supervisor and worker have for themselves, after a warm-up."""
    with served(python) as (backbone, service):
        _work_off(backbone, max(200, tasks // 10))
        family = service.family()
        before = [each.memory_full_info().uss for each in family]
        _work_off(backbone, tasks)
        after = [each.memory_full_info().uss for each in family]
        require(service.family() == family, "a process was replaced")
        return {"sdk_heap": (sum(after) - sum(before)) / 2**20}


def _work_off(backbone: PlayedBackbone, tasks: int) -> None:
    for _ in range(0, tasks, 100):
        for task in [backbone.submit("/count", "to be or not to be") for _ in range(100)]:
            task.wait()
        backbone.tasks.records.clear()  # the bench's own memory, and the time of its sweeps
        backbone.calls.clear()


def stopped_beside_another(python: Path) -> dict[str, float]:
    """Two pods behind one address: the one with all tasks is told to stop."""
    with _stack() as stack, tempfile.TemporaryDirectory() as first_folder, tempfile.TemporaryDirectory() as other:
        path, place = next((path, place) for path, place in stack["places"].items() if path.startswith("/v1/test/"))
        caller = Caller(stack["url"], stack["key"])
        environment = {
            "BACKBONE_URL": stack["url"],
            "BACKBONE_KEY": stack["key"],
            "PLACE": path,
            "CONCURRENCY": str(_TASKS_AT_STOP),
        }
        first_port, second_port = free_port(), free_port()
        balancer = Balancer(place["port"], [first_port, second_port])
        with balancer, running(python, environment, first_port, Path(first_folder)) as first:
            tasks = [caller.submit(f"{path}/sleep") for _ in range(_TASKS_AT_STOP)]
            until(lambda: len(first.times("began")) == _TASKS_AT_STOP, "all tasks are at work")
            with running(python, environment, second_port, Path(other)) as second:
                began_s = time.monotonic()
                first.process.send_signal(signal.SIGTERM)
                code = first.process.wait(_PATIENCE_S)
                exit_s = time.monotonic() - began_s
                until(lambda: len(second.times("began")) == _TASKS_AT_STOP, "all tasks begin again")
                starts_s = second.times("began")
                failures = sum("Retrying" in event["Status"] for task in tasks for event in caller.history(task))
                released_s = began_s + _DRAIN_S
                for task in tasks:
                    caller.cancel(task)
        require(code == 0, f"the pod ended with {code}")
        require(exit_s >= _DRAIN_S, f"the pod was gone after {exit_s:.1f} s, though its tasks take longer")
        require(min(starts_s) >= released_s - 0.5, "a task began again before it was given back")
        return {"sdk_stop": exit_s, "sdk_stop_next": max(starts_s) - released_s, "sdk_stop_failures": failures}


@contextmanager
def _stack() -> Generator[dict[str, Any], None, None]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.sdk.stack", folder]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            require(bool(line), "the local stack does not start")
            yield json.loads(line)
        finally:
            process.stdin.close()
            process.wait()


class Caller:
    def __init__(self, url: str, key: str) -> None:
        self._url = url + "/api/v1"
        self._key = key

    def submit(self, path: str) -> str:
        return self._ask("POST", f"/submit{path}", b"a body")["TaskId"]

    def history(self, task_id: str) -> list[dict[str, Any]]:
        return self._ask("GET", f"/tasks/{task_id}/history")["Events"]

    def cancel(self, task_id: str) -> None:
        self._ask("DELETE", f"/tasks/{task_id}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"x-functions-key": self._key, "Content-Type": "text/plain"}
        with urlopen(Request(self._url + path, body, headers, method=method), timeout=_PATIENCE_S) as answer:
            return json.load(answer)


class Balancer:
    """Passes each connection on to a pod that is ready, as a service of Kubernetes does."""

    def __init__(self, port: int, pods: Sequence[int]) -> None:
        self._port = port
        self._pods = pods
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Balancer:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", self._port))
        self._is_up.set()
        self._loop.run_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [pod for pod in self._pods if await self._is_ready(pod)]
        with suppress(OSError):
            theirs, ours = await asyncio.open_connection("127.0.0.1", random.choice(ready or self._pods))
            await asyncio.gather(self._copy(reader, ours), self._copy(theirs, writer))
        writer.close()

    async def _is_ready(self, port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
        return b" 200 " in status

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def rows(*, quick: bool) -> dict[str, Callable[[Path], dict[str, float]]]:
    """The measurements, by name. Each returns its figures by their keys."""
    return {
        "calls": lambda python: calls_of_a_brief_task(python, 20 if quick else 200),
        "gil": lambda python: gil_held(python, 6 if quick else 30),
        "cancel": cancelled,
        "kill": worker_killed,
        "stop": stopped_beside_another,
        "back to back": lambda python: back_to_back(python, 100 if quick else 1000),
        "heap": lambda python: heap_growth(python, 500 if quick else 10_000),
    }


def measure(python: Path, *, quick: bool = False, repeats: int = 1) -> dict[str, list[float]]:
    """The figures of all rows, each as often as it is repeated.

    Raises:
        ImplausibleFigure: a figure cannot be.
    """
    figures: dict[str, list[float]] = {}
    for take in rows(quick=quick).values():
        for _ in range(repeats):
            for key, value in take(python).items():
                figures.setdefault(key, []).append(value)
    return figures


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    quick, figures = "--quick" in sys.argv, dict[str, float]()
    for name, take in rows(quick=quick).items():
        if not names or name in names:
            began_s = time.monotonic()
            taken = take(Path(sys.executable))
            figures.update(taken)
            told = ", ".join(f"{key} {value:.3g}" for key, value in taken.items())
            print(f"{name:14} {told}   ({time.monotonic() - began_s:.0f} s)", flush=True)
    print(json.dumps({"load": os.getloadavg(), "figures": figures}))


if __name__ == "__main__":
    main()
