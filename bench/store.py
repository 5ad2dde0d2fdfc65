"""The task store's steps beside redis-benchmark, which runs the same scripts on the same server.

redis-benchmark is C, prepares its requests and ignores the answers, so it measures only the server and the sockets.
Its steps are real ones on prepared tasks: the last twelve digits of an id are random. Some ids occur twice, and the
repeated step is refused, which is cheaper; the benchmark counts and reports these.
"""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

from bench.commands import (
    ID_CHARS,
    PATH,
    Command,
    Loader,
    Step,
    claim,
    complete,
    create,
    heartbeat,
    open_redis,
    prepare_scripts,
    seen,
)
from bench.harness import Figure, Report, Unmeasured, ratios, side_by_side, with_spread
from bench.plausibility import Limits, require
from bench.step_driver import measure
from bench.steps import Steps
from local.redis_server import RedisServer

STEPS: Final[dict[str, Step]] = {"create": create, "claim": claim, "heartbeat": heartbeat, "complete": complete}
CALLERS: Final = (1, 32, 128)
PIPELINES: Final = (1, 16)
CONNECTIONS: Final = 128
CALLERS_OF_A_BATCH: Final = 8
"""As many as the SDK's ``map`` has by itself. The more there are, the more of its steps share a script."""
_PREFIX_CHARS: Final = ID_CHARS - 12
_MOST_REFUSED: Final = 0.1
_SERVER_THREADS: Final = 2
"""Redis works in one thread; a second one syncs its file to disk."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a number of equal steps."""

    steps: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    round_trips: int | None = None
    refused: int = 0


Phases = dict[str, Cost]


def run(quick: bool) -> list[Figure]:
    redis_benchmark = _find_redis_benchmark()
    repeats, scale = (2, 1) if quick else (3, 4)
    steps_by_callers = {1: 500 * scale, 32: 2_000 * scale, 128: 4_000 * scale}
    calls, prepared = 4_000 * scale, 30_000 * scale
    report = Report(
        "store",
        quick=quick,
        settings={
            "repeats": repeats,
            "steps a phase, by callers": steps_by_callers,
            "redis-benchmark": f"-c {CONNECTIONS}, {calls} calls a phase on {prepared} tasks",
            "body bytes": 500,
            "Redis": "append-only file, synced each second",
        },
    )
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        limits = Limits.of_redis(server.port)
        store_runs = {
            f"store, {callers} callers": lambda callers=callers: _plausible(
                _store(server, callers, steps_by_callers[callers]), limits
            )
            for callers in CALLERS
        }
        benchmark_runs = {
            f"redis-benchmark{f' -P {depth}' if depth > 1 else ''}": lambda depth=depth: _plausible(
                _redis_benchmark(redis_benchmark, server, depth, calls, prepared), limits
            )
            for depth in PIPELINES
        }
        taken = side_by_side(repeats, {**store_runs, **benchmark_runs})
        children = [asyncio.run(_child(server, 250 * scale, CALLERS_OF_A_BATCH)) for _ in range(4 * repeats)]
        lone_children = [asyncio.run(_child(server, 100 * scale, 1)) for _ in range(4 * repeats)]
    for phase in (*STEPS, "all"):
        report.table(
            f"{phase}: steps a second" if phase != "all" else "all four together: steps a second",
            ["", "steps/s", "client CPU µs", "server CPU µs", "round trips a step", "refused"],
            [(name, *_row([_phase(phases, phase) for phases in samples])) for name, samples in taken.items()],
        )
    ours, theirs = (
        [_rate(_phase(phases, "all")) for phases in taken[name]] for name in ("store, 128 callers", "redis-benchmark")
    )
    report.figure(Figure.of("store", ratios(ours, theirs)))
    report.figure(Figure.of("child", children))
    report.figure(Figure.of("lone child", lone_children))
    report.note("redis-benchmark's refused steps are cheaper than real ones, so they count in its favour.")
    return report.finish(
        samples={
            name: [{phase: _document(cost) for phase, cost in phases.items()} for phases in samples]
            for name, samples in taken.items()
        }
    )


def _plausible(phases: Phases, limits: Limits) -> Phases:
    """
    Raises:
        ImplausibleFigure: a phase took less time than is possible. redis-benchmark has a clock of its own.
    """
    for name, cost in phases.items():
        limits.rate(name, cost.steps, cost.seconds)
        require(
            cost.seconds * _SERVER_THREADS >= cost.server_cpu_s,
            f"{name}: {cost.steps:,} steps within {cost.seconds:.6f} s, in which the server worked for "
            f"{cost.server_cpu_s:.6f} s",
        )
    return phases


def _find_redis_benchmark() -> str:
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        raise Unmeasured(
            "there is no redis-benchmark on PATH (Debian, Ubuntu: apt install redis-tools; macOS: brew install redis)"
        )
    return program


def _store(server: RedisServer, callers: int, steps: int) -> Phases:
    server.flush()
    phases = asyncio.run(_store_phases(server, callers, steps))
    if (completed := _depth(server, "completed")) != steps:
        raise AssertionError(f"{completed} tasks are completed, not {steps}: some steps had no effect")
    return phases


async def _store_phases(server: RedisServer, callers: int, steps: int) -> Phases:
    redis = open_redis(server.url)
    await prepare_scripts(redis, server.url)
    task_ids = [f"{'a' * _PREFIX_CHARS}{number:012}" for number in range(steps)]
    phases: Phases = {}
    for name, step in STEPS.items():
        with _round_trips() as round_trips, _Meter(server) as meter:
            todo = iter(task_ids)

            async def caller(todo: Iterator[str] = todo, step: Step = step) -> None:
                for task_id in todo:
                    await step(redis, task_id)

            await asyncio.gather(*(caller() for _ in range(callers)))
        phases[name] = meter.cost(steps, resource.RUSAGE_SELF, round_trips=round_trips[0])
    await redis.aclose()
    return phases


async def _child(server: RedisServer, tasks: int, callers: int) -> float:
    """Redis' time for a batch's child ÷ for a task on its own, from the submit to the end."""
    steps = Steps(server.url, callers)
    with server.connect() as client:
        costs = await measure(steps, client, tasks, callers)
    await steps.aclose()
    whole = ("create + enqueue", "complete + grant + claim")
    child, alone = (sum(costs[kind + step]["redis_us"] for step in whole) for kind in ("child: ", ""))
    return child / alone


def _redis_benchmark(program: str, server: RedisServer, depth: int, calls: int, prepared: int) -> Phases:
    server.flush()
    commands = asyncio.run(_commands(server))
    phases: Phases = {}

    def measure(name: str, prefix: str, span: int) -> None:
        words = commands[name].for_redis_benchmark(prefix, name)
        options = ["-h", "127.0.0.1", "-p", str(server.port), "-c", str(CONNECTIONS), "-P", str(depth)]
        with _Meter(server) as meter:
            done = subprocess.run(
                [program, *options, "-n", str(calls), "-r", str(span), "--csv", *words],
                capture_output=True,
                check=False,
            )
        # Its own clock excludes its start.
        rate = re.search(rb'","([\d.]+)"', done.stdout.splitlines()[-1] if done.stdout else b"")
        if done.returncode or rate is None:
            raise AssertionError(f"redis-benchmark failed: {done.stderr.decode(errors='replace')}")
        cost = meter.cost(calls, resource.RUSAGE_CHILDREN, round_trips=calls // depth)
        phases[name] = Cost(calls, calls / float(rate[1]), cost.client_cpu_s, cost.server_cpu_s, cost.round_trips)

    def refused(name: str, changed: int) -> None:
        cost = phases[name]
        phases[name] = Cost(
            cost.steps, cost.seconds, cost.client_cpu_s, cost.server_cpu_s, cost.round_trips, cost.steps - changed
        )

    # Creates have an endless supply of ids. The other steps claim and complete the prepared tasks one by one.
    measure("create", "b" * _PREFIX_CHARS, 2_000_000_000)
    refused("create", _depth(server, "created"))
    prefix = "c" * _PREFIX_CHARS
    task_ids = [f"{prefix}{number:012}" for number in range(prepared)]
    with Loader(server.url) as loader:
        # redis-benchmark knows only one partition, so all its tasks must be there.
        loader.send(commands["create"].bytes_for(task_ids, one_partition=True))
        measure("claim", prefix, prepared)
        refused("claim", _depth(server, "dispatched"))
        loader.send(commands["claim"].bytes_for(task_ids, one_partition=True))
        measure("heartbeat", prefix, prepared)
        measure("complete", prefix, prepared)
        refused("complete", _depth(server, "completed"))
    if any(cost.refused > _MOST_REFUSED * cost.steps for cost in phases.values()):
        raise AssertionError(f"too many steps had no effect: {phases}")
    return {name: phases[name] for name in STEPS}


async def _commands(server: RedisServer) -> dict[str, Command]:
    redis = open_redis(server.url)
    await prepare_scripts(redis, server.url)
    commands = await seen(server.url, redis, STEPS.values())
    await redis.aclose()
    server.flush()
    return dict(zip(STEPS, commands, strict=True))


class _Meter:
    """Measures the time within its context, and the processor time of this process, its children and the server."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def __enter__(self) -> _Meter:
        self._at_start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end = self._now()

    def cost(self, steps: int, usage_of: int, *, round_trips: int | None) -> Cost:
        took = {name: self._at_end[name] - self._at_start[name] for name in self._at_end}
        client_s = took["self" if usage_of == resource.RUSAGE_SELF else "children"]
        return Cost(steps, took["wall"], client_s, took["server"], round_trips)

    def _now(self) -> dict[str, float]:
        with self._server.connect() as client:
            used: Any = client.info("cpu")
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "wall": time.perf_counter(),
            "self": own.ru_utime + own.ru_stime,
            "children": children.ru_utime + children.ru_stime,
            "server": used["used_cpu_user"] + used["used_cpu_sys"],
        }


@contextmanager
def _round_trips() -> Iterator[list[int]]:
    """Counts the messages that redis-py sends; a pipeline counts as one."""
    count = [0]
    send = AbstractConnection.send_packed_command

    async def counting(self: AbstractConnection, command: Any, check_health: bool = True) -> None:
        count[0] += 1
        await send(self, command, check_health)

    AbstractConnection.send_packed_command = counting
    try:
        yield count
    finally:
        AbstractConnection.send_packed_command = send


def _depth(server: RedisServer, state: str) -> int:
    async def depth() -> int:
        redis = open_redis(server.url)
        depths = await redis.queries.depths(PATH)
        await redis.aclose()
        return getattr(depths[PATH], state)

    return asyncio.run(depth())


def _phase(phases: Phases, name: str) -> Cost:
    if name != "all":
        return phases[name]
    costs = list(phases.values())
    trips = [cost.round_trips for cost in costs]
    return Cost(
        sum(cost.steps for cost in costs),
        sum(cost.seconds for cost in costs),
        sum(cost.client_cpu_s for cost in costs),
        sum(cost.server_cpu_s for cost in costs),
        sum(trip or 0 for trip in trips),
        sum(cost.refused for cost in costs),
    )


def _rate(cost: Cost) -> float:
    return cost.steps / cost.seconds


def _row(costs: Iterable[Cost]) -> tuple[str, ...]:
    costs = list(costs)
    steps = sum(cost.steps for cost in costs)
    return (
        with_spread([_rate(cost) for cost in costs]),
        f"{sum(cost.client_cpu_s for cost in costs) / steps * 1e6:.1f}",
        f"{sum(cost.server_cpu_s for cost in costs) / steps * 1e6:.1f}",
        f"{sum(cost.round_trips or 0 for cost in costs) / steps:.3f}",
        f"{sum(cost.refused for cost in costs) / steps:.1%}",
    )


def _document(cost: Cost) -> dict[str, object]:
    return {
        "steps": cost.steps,
        "steps_per_s": round(_rate(cost), 1),
        "client_cpu_us": round(cost.client_cpu_s / cost.steps * 1e6, 2),
        "server_cpu_us": round(cost.server_cpu_s / cost.steps * 1e6, 2),
        "round_trips": cost.round_trips,
        "refused": cost.refused,
    }
