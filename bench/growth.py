"""Whether operations cost more with more tasks in the store: waiting ones, and finished ones that are still kept.

Every operation runs alternately on a store of a thousand tasks and on one that grows to a million. Each store has its
own server, and the two are compared round by round. The cost of an operation is the server's own time for its
commands.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.commands import (
    BODY,
    ID_CHARS,
    PATH,
    Command,
    Loader,
    Opened,
    Step,
    claim,
    complete,
    create,
    default_policy,
    enqueue,
    heartbeat,
    open_redis,
    prepare_scripts,
    release,
    running,
    seen,
)
from bench.harness import Figure, Report, versions
from bench.plausibility import repeated_if_implausible, require
from local.redis_server import RedisServer
from shared.store.queries import Listing
from shared.store.redis.partitions import PARTITIONS
from shared.store.series import MINUTE_MS, EndpointSeries
from shared.tasks.task import State

SMALL: Final = 1_000
MONTH_S: Final = 30 * 86_400
POLICY: Final = replace(
    default_policy(), republish_s=MONTH_S, retention_s=MONTH_S, slot_claim_s=MONTH_S, slot_check_s=MONTH_S
)
"""With this policy nothing becomes due during the benchmark."""
KINDS: Final = {"waiting": (create, enqueue), "finished": (create, claim, running, complete)}
PAGE: Final = 50
_CHUNK: Final = 10_000


async def status(redis: Opened, task_id: str) -> object:
    return await redis.store.get(task_id)


async def purge(redis: Opened, task_id: str) -> object:
    return await redis.upkeep.purge([task_id])


async def reconciler(redis: Opened, _: str) -> object:
    return await asyncio.gather(*(redis.upkeep.sweep(index, {}) for index in range(PARTITIONS)))


async def maintain(redis: Opened, _: str) -> object:
    return await redis.queues.maintain(PATH)


async def depths(redis: Opened, _: str) -> object:
    return await redis.queries.depths()


async def list_page(redis: Opened, _: str) -> object:
    return await redis.queries.page(Listing(limit=PAGE))


async def list_rare(redis: Opened, _: str) -> object:
    return await redis.queries.page(Listing(limit=PAGE, path=PATH, states=[State.FAILED]))


async def queue(redis: Opened, _: str) -> object:
    return await asyncio.gather(redis.queries.depths(PATH), redis.queues.status(PATH))


async def series(redis: Opened, _: str) -> object:
    """Of the last six hours, by minutes."""
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms - now_ms % MINUTE_MS - 360 * MINUTE_MS
    return await EndpointSeries(redis.link).read(PATH, start_ms, now_ms, MINUTE_MS, now_ms)


async def metrics(redis: Opened, _: str) -> object:
    return await asyncio.gather(redis.queries.depths(PATH), EndpointSeries(redis.link).totals([PATH]))


STEPS: Final[dict[str, Step]] = {
    "enter queue": enqueue,
    "create": create,
    "claim": claim,
    "running": running,
    "heartbeat": heartbeat,
    "status": status,
    "complete": complete,
    "leave queue": release,
    "purge": purge,
}
"""A task goes through all of them in this order and leaves nothing behind."""
TIMERS: Final[dict[str, Step]] = {
    "reconciler: deadlines": reconciler,
    "reconciler: queue": maintain,
    "queue depths": depths,
}
"""They run while nothing is due."""
LISTS: Final[dict[str, Step]] = {
    "list": list_page,
    "list, filter that nothing passes": list_rare,
    "queue": queue,
    "series": series,
    "metrics": metrics,
}
"""What callers and operators read. The cost of a list that nothing passes depends on the index entries that it
checks. Their number is limited, and so is its cost."""
NO_STEPS: Final = ("status", *LISTS)
"""Operations that only read for a caller: shown, but neither a step nor a timer."""


@dataclass(slots=True)
class Store:
    """A server with a number of tasks, and the means to load more."""

    server: RedisServer
    kind: str
    commands: list[Command]
    empty_bytes: int
    tasks: int = 0
    ids: Iterable[str] = field(default_factory=lambda: _ids())

    def grow_to(self, tasks: int) -> None:
        with Loader(self.server.url) as loader:
            while self.tasks < tasks:
                chunk = list(islice(self.ids, min(_CHUNK, tasks - self.tasks)))
                for command in self.commands:
                    loader.send(command.bytes_for(chunk))
                self.tasks += len(chunk)

    @property
    def bytes_per_task(self) -> float:
        return (_used_bytes(self.server) - self.empty_bytes) / self.tasks


@dataclass(frozen=True, slots=True)
class Point:
    """The cost of an operation in a store of some size."""

    large_us: float
    ratios: tuple[float, ...]
    """The ratios to the small store, round by round."""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def run(quick: bool) -> list[Figure]:
    sizes = (SMALL, 10_000, 30_000) if quick else (SMALL, 10_000, 100_000, 1_000_000)
    rounds, calls = (6, 32) if quick else (15, 256)
    report = Report(
        "growth",
        quick=quick,
        settings={
            "sizes": sizes,
            "rounds": rounds,
            "calls a round": calls,
            "body bytes": 500,
            "Redis": "no persistence",
        },
    )
    points: dict[str, dict[int, dict[str, Point]]] = {}
    weights: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        stores = {
            (kind, role): asyncio.run(_open(servers, Path(name) / f"{kind}-{role}", kind))
            for kind in KINDS
            for role in ("small", "large")
        }
        for kind in KINDS:
            stores[kind, "small"].grow_to(SMALL)
        for size in sizes:
            began_s = time.monotonic()
            with ThreadPoolExecutor() as threads:
                list(threads.map(lambda kind, size=size: stores[kind, "large"].grow_to(size), KINDS))
            print(f"{size:,} tasks each, loaded in {time.monotonic() - began_s:.0f} s", flush=True)
            for kind in KINDS:
                small, large = stores[kind, "small"], stores[kind, "large"]
                weights.setdefault(kind, {})[size] = large.bytes_per_task
                require(
                    large.bytes_per_task >= len(BODY),
                    f"{large.bytes_per_task:,.0f} bytes a {kind} task, but its body alone has {len(BODY)}",
                )
                points.setdefault(kind, {})[size] = repeated_if_implausible(
                    f"{size:,} {kind} tasks",
                    lambda small=small, large=large: asyncio.run(_compare(small, large, rounds, calls)),
                )
    return _report(report, sizes, points, weights)


async def _open(servers: ExitStack, directory: Path, kind: str) -> Store:
    server = servers.enter_context(RedisServer(directory, extra_arguments=["--appendonly", "no"]))
    redis = open_redis(server.url, POLICY)
    await prepare_scripts(redis, server.url)
    commands = await seen(server.url, redis, KINDS[kind])
    await redis.aclose()
    server.flush()
    return Store(server, kind, commands, _used_bytes(server))


async def _compare(small: Store, large: Store, rounds: int, calls: int) -> dict[str, Point]:
    pair = [(open_redis(each.server.url, POLICY), each.server) for each in (small, large)]
    try:
        taken = await _taken_us(pair, rounds, calls)
    finally:
        for redis, _ in pair:
            await redis.aclose()
    return {
        name: Point(
            statistics.median(second for _, second in costs),
            tuple(second / first for first, second in costs),
        )
        for name, costs in taken.items()
    }


async def _taken_us(
    pair: Sequence[tuple[Opened, RedisServer]], rounds: int, calls: int
) -> dict[str, list[tuple[float, float]]]:
    """The costs of each operation in the two stores, round by round."""
    taken: dict[str, list[tuple[float, float]]] = {}
    own = _ids()
    for round_number in range(rounds):
        task_ids = list(islice(own, calls))
        for name, operation in {**STEPS, **TIMERS, **LISTS}.items():
            # A few calls are enough for the costly operations.
            ids = task_ids if name in STEPS else task_ids[: calls // 16]
            costs = [0.0, 0.0]
            for which in (0, 1) if round_number % 2 == 0 else (1, 0):
                costs[which] = await _cost_us(*pair[which], operation, ids)
            if round_number:  # the first round reads everything for the first time
                taken.setdefault(name, []).append((costs[0], costs[1]))
    return taken


async def _cost_us(redis: Opened, server: RedisServer, operation: Step, task_ids: Sequence[str]) -> float:
    """The server's time per call, in microseconds.

    Raises:
        ImplausibleFigure: the calls took no time, or more than has passed.
    """
    with server.connect() as client:
        client.config_resetstat()
        began_s = time.perf_counter()
        # Concurrently, as on a busy server: between single calls it would sleep and lose its caches.
        await asyncio.gather(*(operation(redis, task_id) for task_id in task_ids))
        passed_us = (time.perf_counter() - began_s) * 1e6
        stats: Any = client.info("commandstats")
    took_us = {name.removeprefix("cmdstat_"): stat["usec"] for name, stat in stats.items()}
    # The time of a script includes its commands, which are listed too.
    scripts = [took_us[name] for name in ("evalsha", "eval", "fcall") if name in took_us]
    total_us = sum(scripts or [took_us["get"]])
    require(
        0 < total_us <= passed_us,
        f"{len(task_ids)} calls took the server {total_us:,.0f} µs, while {passed_us:,.0f} µs passed",
    )
    return total_us / len(task_ids)


def _ids() -> Iterable[str]:
    while True:
        yield f"{random.getrandbits(4 * ID_CHARS):0{ID_CHARS}x}"


def _used_bytes(server: RedisServer) -> int:
    with server.connect() as client:
        memory: Any = client.info("memory")
    return memory["used_memory"]


def _report(
    report: Report,
    sizes: Sequence[int],
    points: dict[str, dict[int, dict[str, Point]]],
    weights: dict[str, dict[int, float]],
) -> list[Figure]:
    for kind, by_size in points.items():
        report.table(
            f"Server time of a call with {kind} tasks in the store, µs (÷ a store of {SMALL:,})",
            ["", *(f"{size:,}" for size in sizes)],
            [
                (name, *(f"{by_size[size][name].large_us:,.1f} ({by_size[size][name].ratio:.2f})" for size in sizes))
                for name in by_size[sizes[0]]
            ],
        )
    report.table(
        "Memory a task, bytes (500 of them its body)",
        ["", *(f"{size:,}" for size in sizes)],
        [(kind, *(f"{weights[kind][size]:,.0f}" for size in sizes)) for kind in weights],
    )
    _draw(report, sizes, points)
    last = {
        f"{name}, {kind}": point for kind, by_size in points.items() for name, point in by_size[sizes[-1]].items()
    }
    steps = {name: point for name, point in last.items() if not name.startswith(NO_STEPS)}
    worst = max(steps, key=lambda name: steps[name].ratio)
    report.note(f"the figure is that of the step or timer with the largest growth: {worst}")
    if "libc" in str(versions()["redis server"]):
        report.note(
            "this server has its memory from libc's malloc, which itself gets slower as the heap grows; Azure's has "
            "it from jemalloc. A redis-server with that on PATH is taken in place of this one"
        )
    report.figure(Figure.of("growth", steps[worst].ratios))
    return report.finish(
        ratios_at_the_end={name: round(point.ratio, 3) for name, point in last.items()},
        bytes_per_task={
            kind: {str(size): round(weight, 1) for size, weight in row.items()} for kind, row in weights.items()
        },
    )


def _draw(report: Report, sizes: Sequence[int], points: dict[str, dict[int, dict[str, Point]]]) -> None:
    with report.picture(10, 4.5) as picture:
        panels = picture.subplots(1, len(points), sharey=True)
        for panel, (kind, by_size) in zip(panels, points.items(), strict=True):
            for name in by_size[sizes[0]]:
                ratios = [by_size[size][name].ratio for size in sizes]
                panel.plot(sizes, ratios, marker="o", linestyle=":" if name in NO_STEPS else "-", label=name)
            panel.set(xscale="log", yscale="log", xlabel="tasks in the store", title=f"{kind} tasks")
            panel.axhline(1.3, color="grey", linewidth=0.8, linestyle="--")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel(f"server time of a call ÷ at {SMALL:,} tasks")
        picture.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
