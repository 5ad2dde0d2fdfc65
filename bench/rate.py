"""Rates: four processes of the app grant the slots of two endpoints, 50 a second each, while one after another is
killed: how many windows of a second have more grants, and how much of what the rate allows is used.

Each process runs the app's own dispatcher and reconciler. The model service accepts at once; it reports each end to
one of the processes that live, as by a load balancer, and repeats what was not answered. When a slot was granted is
read from the commands that Redis runs (``MONITOR``), by Redis' clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import redis.asyncio

from bench.harness import Figure, Report
from bench.plausibility import require
from cache_manager.reconciler import keep_reconciling
from local.processes import ChildProcess
from local.redis_server import RedisServer
from local.stack import ROOT
from shared.dispatch.backend_client import Accepted, Answer
from shared.dispatch.registry import Endpoint
from shared.resilience.circuit_breaker import Reachability
from shared.services import Services
from shared.settings import Settings
from shared.tasks.outcomes import Applied, Created
from shared.tasks.task import Content, NewTask, State, Task
from shared.tasks.told_slots import ToldSlots
from tests.grant_times import GrantTimes

TASKS: Final = 50
"""How many an endpoint gets within a second at most."""
PROCESSES: Final = 4
SERVICE_S: Final = 0.3
SECONDS: Final = 180
SLOTS: Final = 1_000
"""As the model service tells, so that nothing but the rate holds a task back."""
KILL_EACH_S: Final = 12.0
SPARE_S: Final = 2.0
"""So much longer it is measured, for the first grant comes a moment after the begin."""
CALLERS: Final = 64
PATHS: Final = {"evenly": "/v1/evenly/model", "in a burst": "/v1/burst/model"}
REPEAT_S: Final = 1.0
"""After so long, the model service repeats a report that was not answered."""
_HEARS: Final = "bench:hears:"
_WORKING: Final = "bench:working"
_READY: Final = "bench:ready"
_RESUME: Final = "resume"


def settings_for(url: str) -> Settings:
    backend = {"url": "https://models.example.org", "rate": f"{TASKS}/1s"}
    return Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": json.dumps({"/v1/evenly": backend, "/v1/burst": backend | {"burst": True}}),
        }
    )


class NoEvents:
    """Event Grid, which delivers nothing: tasks that wait need no event."""

    state: Reachability = "ok"

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        return

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        return

    async def aclose(self) -> None:
        return


class Model:
    """Accepts each task at once. :class:`Ends` has the processes hear of its end a while later."""

    def __init__(self, server: Any) -> None:
        self._server = server

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: object,
    ) -> Answer:
        await self._server.zadd(
            _WORKING, {f"{headers['taskId']} {headers['X-Task-Attempt']}": time.time() + SERVICE_S}
        )
        return Accepted(told=ToldSlots(SLOTS, "model"))

    async def aclose(self) -> None:
        return


async def serve(url: str, number: int) -> None:
    """One process of the app, until it is killed."""
    server: Any = redis.asyncio.Redis.from_url(url, protocol=2, decode_responses=True)
    services = Services.compose(settings_for(url), publisher=NoEvents(), transport=Model(server))
    services.run_beside(keep_reconciling(services))
    for path in PATHS.values():
        services.dispatcher.dispatch_granted([await services.store.queues.grant_free_slots(path)])
    await server.sadd(_READY, number)
    while True:
        _, heard = await server.blpop(f"{_HEARS}{number}")
        if heard == _RESUME:
            for path in PATHS.values():
                granted = await services.store.queues.configure(path, {"paused": False})
                services.dispatcher.dispatch_granted([granted])
        else:
            services.run_beside(_report(services, server, heard))


async def _report(services: Services, server: Any, ended: str) -> None:
    task_id, attempt = ended.split(" ")
    outcome = await services.store.update(task_id, state=State.COMPLETED, status="completed", attempt=int(attempt))
    await server.zrem(_WORKING, ended)
    if isinstance(outcome, Applied):
        await services.dispatcher.after_transition(outcome)


async def submit(url: str, count: int) -> None:
    """So many tasks wait at each endpoint, which is paused."""
    services = Services.compose(settings_for(url), publisher=NoEvents(), transport=Model(None))
    for path in PATHS.values():
        await services.store.queues.configure(path, {"paused": True})
    left = [(path, number) for path in PATHS.values() for number in range(count)]

    async def call() -> None:
        while left:
            path, number = left.pop()
            body = Content("application/octet-stream", 2)
            task_id = f"{path.split('/')[2]}{number}"
            created = await services.store.create(NewTask(task_id, path, 600, body=body, inline_body=b"hi"))
            require(isinstance(created, Created), "each task is a new one")

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    await services.aclose()


class Ends:
    """Has a process that is ready hear of each end, until it has answered."""

    def __init__(self, server: RedisServer) -> None:
        self._client: Any = server.connect()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _tell(self) -> None:
        while not self._over.wait(0.005):
            now_s = time.time()
            due, ready = self._client.zrangebyscore(_WORKING, 0, now_s), [*self._client.smembers(_READY)]
            for ended in due if ready else ():
                self._client.zadd(_WORKING, {ended: now_s + REPEAT_S}, xx=True)
                self._client.rpush(_HEARS + random.choice(ready), ended)


def processes(server: RedisServer, directory: Path) -> list[ChildProcess]:
    return [
        ChildProcess(
            f"process {number}",
            [sys.executable, "-m", "bench.rate", "--serve", server.url, "--number", str(number)],
            log_path=directory / f"{number}.log",
            environment={"PYTHONPATH": str(ROOT)},
        )
        for number in range(PROCESSES)
    ]


def measure(server: RedisServer, directory: Path, seconds: int, kill_each_s: float) -> tuple[GrantTimes, int]:
    """When slots were granted, and how many processes were killed meanwhile."""
    chance = random.Random(19)
    asyncio.run(submit(server.url, TASKS * (seconds + 5)))
    kills, started = 0, processes(server, directory)
    try:
        for process in started:
            process.spawn()
        claim_s = settings_for(server.url).republish_s
        with server.connect() as client, GrantTimes([server], claim_s) as grants, Ends(server):
            while client.scard(_READY) < PROCESSES:
                time.sleep(0.1)
            client.rpush(f"{_HEARS}0", _RESUME)
            until_s = time.monotonic() + seconds + SPARE_S
            while (left_s := until_s - time.monotonic()) > 0:
                time.sleep(min(left_s, kill_each_s))
                if left_s > kill_each_s:
                    number = chance.randrange(PROCESSES)
                    started[number].kill()
                    client.srem(_READY, number)
                    client.delete(f"{_HEARS}{number}")
                    started[number].spawn()
                    kills += 1
            return grants, kills
    finally:
        for process in started:
            process.kill()


def run(quick: bool) -> list[Figure]:
    seconds, kill_each_s = (12, 4.0) if quick else (SECONDS, KILL_EACH_S)
    report = Report(
        "rate",
        quick=quick,
        settings={"rate": f"{TASKS}/1s", "processes": PROCESSES, "seconds": seconds, "service s": SERVICE_S},
    )
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        grants, kills = measure(server, Path(directory), seconds, kill_each_s)
    require(kills >= seconds // kill_each_s - 1, "processes were killed all the while")
    rows: list[list[str]] = []
    over, used = 0, 1.0
    for name, path in PATHS.items():
        [times_ms] = grants.by_path[path]
        require(len(times_ms) > TASKS, "slots were granted")
        # From the first grant on, which the burst begins with all of a window.
        most = TASKS * seconds if name == "evenly" else TASKS * (seconds + 1)
        within = sum(at < times_ms[0] + seconds * 1_000 for at in times_ms)
        require(within <= most, f"{within} grants within {seconds} s are more than {TASKS} a second")
        over, used = over + grants.over(path, TASKS, 1_000), min(used, within / (TASKS * seconds))
        gap_ms = max(after - before for before, after in pairwise(times_ms))
        rows.append(
            [
                name,
                f"{within:,}",
                str(grants.over(path, TASKS, 1_000)),
                f"{within / (TASKS * seconds):.4f}",
                f"{gap_ms}",
            ]
        )
    report.table(
        f"{TASKS} tasks a second at most, {PROCESSES} processes, {kills} kills, {seconds} s",
        ["how", "grants", "windows over", "used", "longest gap, ms"],
        rows,
    )
    report.figure(Figure.of("rate_over", [over]))
    report.figure(Figure.of("rate_used", [used]))
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", metavar="URL", help="be one of the processes")
    parser.add_argument("--number", type=int, default=0, help="which one")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.number))
    else:
        run(options.quick)
