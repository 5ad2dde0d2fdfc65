"""The target of the faults: the local stack and a model service, with access to every process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from local.azurite import Azurite
from local.processes import ChildProcess, LocalStackError, free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import NO_TLS, ROOT, Stack
from tests.faults.hostile_redis import SettableClock, SmallDisk, why_clocks_are_fixed
from tests.faults.model_service import MODERN, PREFIX, UPLOADED, Behaviour, Entry, read_journal
from tests.faults.told import Told
from tests.shared.store.world import World, nodes
from tests.waiting import PATIENCE_S, eventually

SETTINGS = {
    "RECONCILER_INTERVAL_S": "1",
    "BACKOFF_BASE_S": "0.2",
    "BUSY_RETRY_S": "0.2",
    "REPUBLISH_S": "0.3",
    "LEASE_S": "1.5",
    "DISPATCH_TIMEOUT_S": "1",
}
"""Deadlines short enough for tests. The attempt limit is the app's default."""
OWNERS_IN_FLIGHT = 6
"""How many tasks the service that reads uploads gets at a time."""
GRID_TIME_SCALE = 30
"""Event Grid's first retry is due after 10 s."""
_INSIDE = Path(__file__).parent / "inside"
_REPEAT_PAUSE_S = 0.1
_STATES = ("Delayed", "Waiting", "Dispatched", "Running", "Completed", "Failed", "Cancelled")


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a process holds open."""

    tasks: int
    """Asyncio tasks that are not done."""
    descriptors: int
    """Files and sockets, without those to Redis: that pool is bounded and keeps its connections open."""
    redis_connections: int


class _PatientTransport(httpx.HTTPTransport):
    """Repeats a call that is answered 503, as the app does when Redis is late on a busy machine."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until_s = time.monotonic() + PATIENCE_S
        while (response := super().handle_request(request)).status_code == 503 and time.monotonic() < until_s:
            response.close()
            time.sleep(_REPEAT_PAUSE_S)
        return response


class Rig:
    """A working stack once it is started; between faults all its parts run and behave.

    Parameters:
        cluster: Redis is one of three primaries without replicas.
    """

    def __init__(self, directory: Path, *, cluster: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.deleted: set[str] = set()
        """The tasks whose records a fault has deleted."""
        self.redis = RedisCluster(directory / "redis") if cluster else SmallDisk(directory / "redis")
        self.redis_clocks: list[SettableClock] = []
        """One for each node, if clocks can be set here."""
        if why_clocks_are_fixed() is None:
            files = (directory / f"clock-{number}" for number, _ in enumerate(self.redis_nodes))
            self.redis_clocks = [*map(SettableClock, self.redis_nodes, files)]
        self.azurite = Azurite(directory / "azurite")
        self._journal = directory / "dispatches"
        self._behaviour = directory / "behaviour"
        self._task_counts = {name: directory / f"{name}.tasks" for name in ("host", "event_grid")}
        self._model_port = port = free_port()
        self.told = Told()
        path = os.pathsep.join((str(_INSIDE), str(ROOT)))
        self.stack = Stack(
            directory,
            redis=self.redis,
            azurite=self.azurite,
            backends={
                PREFIX: {"url": f"http://127.0.0.1:{port}", "callback": "rig"},
                MODERN + UPLOADED: {
                    "url": f"http://127.0.0.1:{port}",
                    "reference": True,
                    "callback": "rig",
                    # All tasks are one owner's. One whose slot counts for ever would keep the others from theirs.
                    "per_owner": {"in_flight": OWNERS_IN_FLIGHT, "hard": True},
                },
            },
            with_model=False,
            settings={**SETTINGS, **self.told.settings},
            time_scale=GRID_TIME_SCALE,
        )
        for name, file in self._task_counts.items():
            getattr(self.stack, name).environment |= {"PYTHONPATH": path, "TASK_COUNT_FILE": str(file)}
        self.model = ChildProcess(
            "the model service",
            [sys.executable, "-m", "tests.faults.model_service", str(port), self._behaviour, self._journal],
            log_path=directory / "model.log",
            environment={"PYTHONPATH": str(ROOT), "BACKBONE_URL": self.stack.url, "BACKBONE_KEY": self.stack.key},
        )

    def start(self) -> None:
        """
        Raises:
            LocalStackError: a part does not start.
        """
        try:
            self.behave(Behaviour.WORK)
            self.told.start()
            self.model.spawn()
            self.azurite.spawn()
            self.redis.start()
            self.azurite.wait_until_ready()
            self.stack.start()
            self.model.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for part in (self.model, self.stack, self.azurite, self.redis, self.told):
            part.stop()

    def check(self) -> None:
        """
        Raises:
            LocalStackError: a part has ended by itself.
        """
        self.stack.check()
        for part in (self.model, self.azurite, *self.redis_nodes):
            part.check()

    def behave(self, behaviour: Behaviour) -> None:
        """Set how the model service answers from now on, even after a restart."""
        scratch = self._behaviour.with_suffix(".new")
        scratch.write_text(behaviour)
        scratch.replace(self._behaviour)

    @contextmanager
    def model_restarted_whenever_it_dies(self) -> Iterator[None]:
        """Restart the model service like Kubernetes, but without a growing delay."""
        over = threading.Event()

        def restart() -> None:
            while not over.wait(0.05):
                if not self.model.is_running:
                    # A dispatched task may kill it before it counts as ready.
                    with suppress(LocalStackError):
                        self.model.start()

        restarter = threading.Thread(target=restart, name="restarter", daemon=True)
        restarter.start()
        try:
            yield
        finally:
            over.set()
            restarter.join()
            # A task that it has accepted may be about to kill it.
            self.model.restart()

    @contextmanager
    def second_host(self) -> Iterator[None]:
        """Another functions host of the same app, at an address that no caller knows."""
        command = ["-m", "local.functions_host", "--script-root", str(ROOT), "--port", "0"]
        second = ChildProcess(
            "the second functions host",
            [sys.executable, *command],
            log_path=self.stack.directory / "second_host.log",
            environment=self.stack.host.environment,
        )
        second.start()
        try:
            # The first call awakes it.
            httpx.get(f"{second.url}/api/v1/health", timeout=PATIENCE_S, verify=NO_TLS)
            yield
        finally:
            second.stop()

    def until_taken_up(self) -> None:
        """Return when somebody has taken the next step for each task that is overdue now."""
        for node in self.redis_nodes:
            with node.connect() as client:
                now_ms = client.time()[0] * 1000
            eventually(lambda node=node, now_ms=now_ms: _earliest_deadline_ms(node) > now_ms)

    def kill_redis(self, node: RedisServer) -> None:
        """kill -9, when the server's file has all that it has acknowledged: with ``everysec`` it holds writes back
        while its disk does not keep up, and nothing is promised of these."""
        with node.connect() as client:
            client.config_set("appendfsync", "no")
        node.kill()

    def endpoint(self, path: str) -> str:
        """The URL of an endpoint path at the model service."""
        return f"http://127.0.0.1:{self._model_port}{path}"

    @property
    def redis_nodes(self) -> list[RedisServer]:
        return nodes(self.redis)

    @property
    def most_behind_s(self) -> int:
        """By how much the clock of a node of Redis has been set back, at most."""
        return max((clock.behind_s for clock in self.redis_clocks), default=0)

    def journal(self) -> list[Entry]:
        """All dispatches to the model service, and all its accepted reports."""
        return [*read_journal(self._journal)]

    def world(self) -> World:
        return World(self.redis)

    def model_is_idle(self) -> bool:
        """Whether no worker is left, not even for a stale attempt."""
        return httpx.get(self.endpoint("/"), timeout=PATIENCE_S, verify=NO_TLS).text == "0"

    def client(self) -> httpx.Client:
        """A client of the app for calls that do not test whether it answers."""
        stack = self.stack
        return httpx.Client(
            base_url=stack.url,
            headers={"x-functions-key": stack.key},
            timeout=PATIENCE_S,
            transport=_PatientTransport(verify=NO_TLS),
        )

    def depths(self) -> Counter[tuple[str, str]]:
        """The app's own numbers of tasks, by endpoint path and state."""
        with self.client() as app:
            queues = app.get("/api/v1/queues/").raise_for_status().json()["Queues"]
        return Counter(
            {(queue["EndpointPath"], state.lower()): queue[state] for queue in queues for state in _STATES}
        )

    def usage(self, name: str) -> Usage:
        """The resources that the process *name*, ``host`` or ``event_grid``, holds open now."""
        part: ChildProcess = getattr(self.stack, name)
        file = self._task_counts[name]
        file.unlink(missing_ok=True)
        os.kill(part.pid, signal.SIGUSR1)
        eventually(file.exists)
        process = psutil.Process(part.pid)
        redis_ports = {node.port for node in self.redis_nodes}
        to_redis = [link for link in process.net_connections("tcp") if link.raddr and link.raddr[1] in redis_ports]
        return Usage(int(file.read_text()), process.num_fds() - len(to_redis), len(to_redis))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _earliest_deadline_ms(node: RedisServer) -> float:
    deadlines_ms: list[float] = []
    with node.connect() as client:
        for key in client.scan_iter("*}due"):
            first: list[Any] = client.zrange(key, 0, 0, withscores=True)
            deadlines_ms += [float(at_ms) for _, at_ms in first]
    return min(deadlines_ms, default=float("inf"))
