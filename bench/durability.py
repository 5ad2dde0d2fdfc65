"""What ``DURABILITY`` costs: steps a second, and how long a step takes, with each of its values.

One Redis with a replica on the same machine serves all of them in turn, so that ``none`` has a replica to feed too.
A network between the two, and a slower disk than this one, add to a step what they take: no figure of the project
says less about another machine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.commands import ID_CHARS, Opened, Step, complete, create, open_redis, prepare_scripts
from bench.harness import Figure, Report, ratios, side_by_side, with_spread
from bench.plausibility import require
from local.redis_server import RedisServer
from shared.store.redis.durability import WAITAOF_SINCE, Durability
from tests.waiting import eventually

VALUES: Final[tuple[Durability, ...]] = ("none", "replica", "fsync")
STEPS: Final[tuple[Step, ...]] = (create, complete)
CALLERS: Final = 128


@dataclass(frozen=True, slots=True)
class Taken:
    """The steps of one value: with ``CALLERS``, and one after the other."""

    steps_per_s: float
    client_cpu_us: float
    alone_ms: tuple[float, ...]


def run(quick: bool) -> list[Figure]:
    tasks, alone, repeats = (1_000, 10, 2) if quick else (8_000, 40, 5)
    report = Report("durability", quick=quick, settings={"tasks": tasks, "one by one": alone, "repeats": repeats})
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(Path(name) / "primary", minimum_version=WAITAOF_SINCE) as primary,
    ):
        follows = ("--replicaof", f"127.0.0.1 {primary.port}")
        with RedisServer(Path(name) / "replica", extra_arguments=follows, minimum_version=WAITAOF_SINCE):
            eventually(lambda: _has_replica(primary))
            taken = side_by_side(
                repeats,
                {value: lambda value=value: asyncio.run(_taken(primary, value, tasks, alone)) for value in VALUES},
            )
    report.table(
        "create and complete",
        ["DURABILITY", f"steps/s, {CALLERS} callers", "our CPU µs a step", "ms a step, one caller", "longest, ms"],
        [
            (
                value,
                with_spread([each.steps_per_s for each in samples]),
                with_spread([each.client_cpu_us for each in samples], 1),
                with_spread([statistics.median(each.alone_ms) for each in samples], 2),
                f"{max(max(each.alone_ms) for each in samples):.1f}",
            )
            for value, samples in taken.items()
        ],
    )
    without = [each.steps_per_s for each in taken["none"]]
    for value in VALUES[1:]:
        rates = [each.steps_per_s for each in taken[value]]
        report.figure(Figure.of(f"durability_{value}", ratios(rates, without)))
    return report.finish()


def _has_replica(primary: RedisServer) -> bool:
    with primary.connect() as client:
        client.set("written", "")
        return client.execute_command("WAIT", 1, 100) == 1


async def _taken(primary: RedisServer, value: Durability, tasks: int, alone: int) -> Taken:
    with primary.connect() as client:  # with everysec a server may say that it has synced before it has
        client.config_set("appendfsync", "always" if value == "fsync" else "everysec")
    redis = open_redis(primary.url, durability=value)
    await prepare_scripts(redis, primary.url)
    ids = [f"{'a' * (ID_CHARS - 12)}{number:012}" for number in range(tasks + alone)]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for step in STEPS:
        await _by_all(redis, step, ids[alone:])
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    alone_ms: list[float] = []
    for step in STEPS:
        for task_id in ids[:alone]:
            at_s = time.perf_counter()
            await step(redis, task_id)
            alone_ms.append((time.perf_counter() - at_s) * 1000)
    depths: Any = await redis.queries.depths()
    require(sum(each.completed for each in depths.values()) == len(ids), "every task is completed")
    await redis.aclose()
    steps = tasks * len(STEPS)
    return Taken(steps / took_s, cpu_s / steps * 1e6, tuple(alone_ms))


async def _by_all(redis: Opened, step: Step, task_ids: list[str]) -> None:
    todo: Iterator[str] = iter(task_ids)

    async def caller() -> None:
        for task_id in todo:
            await step(redis, task_id)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
