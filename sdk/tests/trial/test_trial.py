"""A thousand mixed tasks through the real app, while pods of each kind are killed: none is lost, none is wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from balancer import Balancer
from conftest import REPOSITORY, Backbone, Place
from services.service_process import descendants, eventually, is_alive
from words import NoSuchWord, work

from taskbackbone import TaskClient
from taskbackbone._dispatch import free_port
from taskbackbone.client import Task

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TASKS = 1000
END_S = 400.0
KINDS = ("service", "sidecar", "manager", "ai4e")
R_EVERY = 10
"""Each so many tasks, one is for R: it starts a process for each."""
R = REPOSITORY / "sdk" / "r"
AI4E = REPOSITORY / "sdk" / "ai4e" / "ai4e_api_tools"


@cache
def kinds() -> tuple[str, ...]:
    """With R, where it is installed, as ``python3 dev.py r`` does."""
    if shutil.which("Rscript") is None:
        return KINDS
    needs = "for (name in c('plumber', 'crul', 'callr', 'urltools')) loadNamespace(name)"
    found = subprocess.run(["Rscript", "--vanilla", "-e", needs], capture_output=True, check=False)
    return KINDS if found.returncode else (*KINDS, "r")


def kind_of(number: int) -> str:
    return "r" if "r" in kinds() and number % R_EVERY == 7 else KINDS[number % len(KINDS)]


@dataclass
class Pod:
    """One of two of its kind: all of its processes die together."""

    kind: str
    path: str
    environment: dict[str, str]
    folder: Path
    flask_python: Path
    port: int = field(default_factory=free_port)
    server_port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        if self.kind == "service":
            script = self.folder / "service_pod.py"
            script.write_text((HERE / "service_pod.py").read_text().replace("/{path}", self.path))
            self._run([sys.executable, str(script)])
        elif self.kind == "manager":
            self._run([sys.executable, "manager_pod.py"])
        elif self.kind == "r":
            self.environment = {
                **self.environment,
                "POD_PATH": self.path,
                "AI4E_API_TOOLS": str(R / "ai4e_api_tools"),
            }
            self._run([str(R / "serve"), str(HERE / "r_pod.R")])
        elif self.kind == "ai4e":
            self._run([sys.executable, "ai4e_pod.py"])
        else:
            bind = f"127.0.0.1:{self.server_port}"
            self._run([str(self.flask_python), "-m", "gunicorn", "--workers", "2", "--bind", bind, "flask_pod:app"])
            upstream = ["--upstream", f"http://{bind}/model", "--slots", "2"]
            self._run([sys.executable, "-m", "taskbackbone", "sidecar", *upstream])

    def _run(self, command: list[str]) -> None:
        more = {"PORT": str(self.port), "PYTHONPATH": str(HERE)}
        if self.kind == "ai4e":  # which knows the variables of the legacy platform's charts
            url, key = (self.environment[name] for name in ("BACKBONE_URL", "BACKBONE_KEY"))
            more["CACHE_CONNECTOR_UPSERT_URI"] = f"{url}/api/CacheConnectorUpsert?code={key}"
            more["CACHE_CONNECTOR_GET_URI"] = f"{url}/api/CacheConnectorGet?code={key}"
            more["API_PREFIX"] = self.path.rpartition("/")[0]
            more["PYTHONPATH"] += os.pathsep + str(AI4E)
        environment = {**os.environ, **self.environment, **more}
        with (self.folder / f"{self.kind}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, cwd=HERE, env=environment, stdout=log, stderr=log))

    def kill(self) -> list[int]:
        """Returns what was killed, and what must end with it."""
        started = [process.pid for process in self.processes]
        family = [*started, *(pid for each in started for pid in descendants(each))]
        direct = family if self.kind in ("sidecar", "r") else started
        for pid in direct:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self.processes.clear()
        return family


@dataclass(frozen=True)
class Given:
    """A task to submit, and what must become of it."""

    kind: str
    body: bytes
    seconds: float

    @property
    def expected(self) -> tuple[str, bytes]:
        try:
            result = work(self.body, 0)
        except NoSuchWord as error:
            return "failed", f"failed - {error}".encode()
        return "completed", b"completed - " + result[:64] if self.kind == "ai4e" else result


def plan() -> list[Given]:
    chance = random.Random(14)
    given: list[Given] = []
    for number in range(TASKS):
        size = 2_000_000 if number % 97 == 5 else 100_000 if number % 10 == 3 else chance.randrange(2000)
        start = b"no " if number % 7 == 3 else b"go "
        seconds = 1.5 if number % 50 == 9 else chance.choice((0, 0, 0.02, 0.1))
        body = start + b"%d " % number + chance.randbytes(size)
        given.append(Given(kind_of(number), body, seconds))
    return given


@pytest.fixture
def places(backbone: Backbone) -> dict[str, Place]:
    return {kind: backbone.place(brief_lease=True) for kind in kinds()}


@pytest.fixture
def pods(
    backbone: Backbone, places: dict[str, Place], foreign_python: Callable[[str], Path], tmp_path: Path
) -> Iterator[dict[str, list[Pod]]]:
    """A pair of pods of each kind, behind a balancer at the kind's place."""
    pods: dict[str, list[Pod]] = {}
    for kind, place in places.items():
        folders = [tmp_path / f"{kind}-{number}" for number in range(2)]
        for folder in folders:
            folder.mkdir()
        told = (f"{place.path}/model", backbone.environment)
        pods[kind] = [Pod(kind, *told, folder, foreign_python("gunicorn")) for folder in folders]
    with ExitStack() as stack:
        for kind, pair in pods.items():
            stack.enter_context(Balancer(places[kind].port, [pod.port for pod in pair]))
            for pod in pair:
                pod.start()
        yield pods
        left = [pid for pair in pods.values() for pod in pair for pid in pod.kill()]
    eventually(lambda: not any(map(is_alive, left)), f"processes are left: {list(filter(is_alive, left))}")


@contextmanager
def killed_on_the_way(
    client: TaskClient, pods: dict[str, list[Pod]], places: dict[str, Place], given: list[Given]
) -> Iterator[list[str]]:
    """Kills and replaces a pod of each kind, one after the other, when so many of its tasks have ended."""
    killed: list[str] = []

    def ended(kind: str) -> int:
        queue = client.queue(f"{places[kind].path}/model")
        return queue["Completed"] + queue["Failed"]

    def kill() -> None:
        counts = Counter(each.kind for each in given)
        for share, kind in zip((0.15, 0.25, 0.35, 0.45, 0.3), kinds()):
            eventually(lambda kind=kind, share=share: ended(kind) > share * counts[kind], kind, END_S)
            pods[kind][0].kill()
            killed.append(kind)
            pods[kind][0].start()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        yield killed
        killing.result()


def outcome(given: Given, task: Task) -> tuple[str, bytes]:
    task.wait(END_S)
    has_result = task.state == "completed" and given.kind != "ai4e"  # whose results are texts, as those of its time
    return task.state, task.result().bytes() if has_result else task.status.encode()


def test_a_thousand_tasks_survive_the_death_of_pods_of_each_kind(
    backbone: Backbone, places: dict[str, Place], pods: dict[str, list[Pod]]
) -> None:
    given, began_s = plan(), time.monotonic()
    with TaskClient(backbone.url, backbone.key) as client, ThreadPoolExecutor(8) as pool:
        with killed_on_the_way(client, pods, places, given) as killed:

            def submit(each: Given) -> Task:
                return client.submit(f"{places[each.kind].path}/model", each.body, query={"seconds": each.seconds})

            tasks = list(pool.map(submit, given))
            outcomes = list(pool.map(outcome, given, tasks))

        assert killed == list(kinds())
        wrong = [
            (each.kind, task.id, found[0], found[1][:80])
            for each, task, found in zip(given, tasks, outcomes)
            if found != each.expected
        ]
        assert wrong == []
        for kind in kinds():
            queue = client.queue(f"{places[kind].path}/model")
            assert (queue["Waiting"], queue["Dispatched"], queue["Running"], queue["InFlight"]) == (0, 0, 0, 0)
        attempts = Counter(task.attempt for task in tasks)
    took_s = time.monotonic() - began_s
    sys.stdout.write(
        f"{TASKS} tasks of {', '.join(kinds())} in {took_s:.0f} s; by attempts: {dict(sorted(attempts.items()))}\n"
    )
    assert sum(attempts.values()) == TASKS
    assert max(attempts) > 1  # the pods had tasks when they were killed
