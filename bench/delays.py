"""Delayed tasks: what a hundred thousand of them cost while none is due, and how exactly ten thousand start.

Two processes of the app, composed as ever but for Event Grid and the network, run the reconciler's rounds against a
real Redis: one server with the delayed tasks, one without, and one with as many that were delayed and have been
cancelled. The ratio is that of a round to one without. Beside more keys of any kind a round takes Redis longer, and
with libc's allocator, which the bundled Valkey has, much longer: it looks for free memory between them. The table has
Redis' part, too. A start is measured where the model service gets the task, by the clock that Redis has too.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, Literal, cast

from bench.harness import Figure, Report, ratios, with_spread
from bench.plausibility import require
from bench.waits import commands_of
from cache_manager.reconciler import keep_reconciling, reconcile
from local.redis_server import RedisServer
from shared.dispatch.backend_client import Answer, Completed
from shared.dispatch.registry import Endpoint
from shared.resilience.circuit_breaker import Reachability
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisAddress, RedisLink, connect
from shared.tasks.outcomes import Applied, Created
from shared.tasks.task import Content, NewTask, State, Task
from shared.tasks.timing import Moment, Timing

PATH: Final = "/v1/bench/delays"
DELAYED: Final = 100_000
ENDED: Final = 10_000
"""How many tasks that have ended each store has at least."""
PROCESSES: Final = 2
IDLE_S: Final = 60.0
ROUNDS: Final = 30
STARTS: Final = 10_000
SPREAD_S: Final = 60.0
"""Within how many seconds all of them start."""
AHEAD_S: Final = 30.0
"""How long before the first of them all are stored."""
HOUR_MS: Final = 3_600_000
Kind = Literal["none", "ended", "delayed"]
"""What a store has beside some tasks that have ended."""
KINDS: Final[Sequence[Kind]] = ("none", "ended", "delayed")
_AT_ONCE: Final = 500
BODY: Final = b"x" * 500


class SilentPublisher:
    """Event Grid takes all events, and delivers none: what is granted here is dispatched by the process."""

    @property
    def state(self) -> Reachability:
        return "ok"

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        return

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        return

    async def aclose(self) -> None:
        return


@dataclass
class Model:
    """A model service that answers at once, and knows when it was called."""

    called_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: Any,
    ) -> Answer:
        self.called_ms.setdefault(headers["taskId"], []).append(time.time_ns() / 1e6)
        return Completed("completed", "text/plain", "", b"done")

    async def aclose(self) -> None:
        return


def scripts_s(server: RedisServer) -> float:
    """Redis' own time for scripts until now, of which a round is made."""
    with server.connect() as client:
        stats = cast("dict[str, dict[str, float]]", client.info("commandstats"))
    return stats.get("cmdstat_evalsha", {}).get("usec", 0) / 1e6


def process_of(server: RedisServer, model: Model) -> Services:
    """A process of the app."""
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": server.url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1/bench": "https://backend.example.org"}',
        }
    )

    async def open_redis() -> Any:
        return await connect(RedisAddress.parse(server.url), lambda: cast("Any", None))

    return Services.compose(settings, link=RedisLink(open_redis), publisher=SilentPublisher(), transport=model)


async def store_delayed(processes: Sequence[Services], starts_ms: Sequence[int]) -> dict[str, int]:
    """A task for each of the times; by their ids, when they start."""
    found: dict[str, int] = {}

    async def create(number: int, at_ms: int) -> None:
        new = NewTask(
            f"t{number}-{at_ms}",
            PATH,
            600,
            body=Content("text/plain", len(BODY)),
            inline_body=BODY,
            timing=Timing(Moment("epoch", at_ms)),
        )
        created = await processes[number % len(processes)].store.create(new)
        assert isinstance(created, Created)
        assert created.task.start is not None
        found[new.id] = created.task.start.at_ms

    for first in range(0, len(starts_ms), _AT_ONCE):
        some = starts_ms[first : first + _AT_ONCE]
        await asyncio.gather(*(create(first + number, at_ms) for number, at_ms in enumerate(some)))
    return found


async def store_ended(process: Services, count: int) -> None:
    """Tasks that have ended: a store that has none at all costs a round less than any in use."""
    ended = [
        NewTask(
            f"ended{number}",
            PATH,
            600,
            state=State.COMPLETED,
            dispatch_requested=False,
            body=Content("text/plain", len(BODY)),
            inline_body=BODY,
        )
        for number in range(count)
    ]
    for first in range(0, count, _AT_ONCE):
        await asyncio.gather(*(process.store.create(new) for new in ended[first : first + _AT_ONCE]))


async def cancel_all(process: Services, task_ids: Sequence[str]) -> None:
    for first in range(0, len(task_ids), _AT_ONCE):
        some = task_ids[first : first + _AT_ONCE]
        cancelled = await asyncio.gather(*(process.store.cancel(task_id) for task_id in some))
        assert all(isinstance(outcome, Applied) for outcome in cancelled)


async def idle(servers: Mapping[Kind, RedisServer], delayed: int, idle_s: float, rounds: int) -> dict[str, Any]:
    """What the rounds cost each of the servers, at the same time."""
    model = Model()
    processes = {kind: [process_of(server, model) for _ in range(PROCESSES)] for kind, server in servers.items()}
    hour_ms = time.time_ns() // 1_000_000 + HOUR_MS
    for some in processes.values():
        await store_ended(some[0], ENDED)
        await cancel_all(some[0], [*await store_delayed(some, [hour_ms - 1])])  # each server has all the scripts then
    starts_ms = [hour_ms + number for number in range(delayed)]
    await store_delayed(processes["delayed"], starts_ms)
    await cancel_all(processes["ended"][0], [*await store_delayed(processes["ended"], starts_ms)])
    for first, _ in processes.values():
        await reconcile(first)  # the first round of a Redis looks through all its keys, once, however long it takes
    for each in chain(*processes.values()):
        each.run_beside(keep_reconciling(each))
    # Whole intervals are counted, between the rounds and not beside one.
    await asyncio.sleep(1.5 * processes["delayed"][0].settings.reconciler_interval_s)
    before = {kind: commands_of(server) for kind, server in servers.items()}
    await asyncio.sleep(idle_s)
    commands = {kind: commands_of(server) - before[kind] for kind, server in servers.items()}
    for each in chain(*processes.values()):
        await each.aclose()
    took_ms: dict[Kind, list[float]] = {kind: [] for kind in servers}
    of_redis_ms: dict[Kind, list[float]] = {kind: [] for kind in servers}
    runners = {kind: process_of(server, model) for kind, server in servers.items()}
    for number in range(rounds + 2):
        for kind in sorted(servers, reverse=number % 2 == 0):
            scripts_before_s, begun_s = scripts_s(servers[kind]), time.perf_counter()
            require(await reconcile(runners[kind]) == 0, "nothing is due")
            took_s = time.perf_counter() - begun_s
            of_redis_s = scripts_s(servers[kind]) - scripts_before_s
            require(0 < of_redis_s < took_s, "Redis works during the round")
            if number > 1:  # the first ones load scripts
                took_ms[kind].append(1000 * took_s)
                of_redis_ms[kind].append(1000 * of_redis_s)
    depth = (await runners["delayed"].store.queues.depths(PATH))[PATH]
    require(depth.delayed == delayed and depth.created == 0, "all of them are still delayed")
    require(not model.called_ms, "none of them was dispatched")
    for each in runners.values():
        await each.aclose()
    return {
        "commands_per_s": {kind: count / idle_s for kind, count in commands.items()},
        "round_ms": took_ms,
        "round_of_redis_ms": of_redis_ms,
    }


async def late_ms(server: RedisServer, starts: int, spread_s: float, ahead_s: float) -> list[float]:
    """By how much each of the tasks came to the model service after its start; less than 0: before."""
    model, chance = Model(), random.Random(7)
    processes = [process_of(server, model) for _ in range(PROCESSES)]
    duties = [each.run_beside(keep_reconciling(each)) for each in processes]
    first_ms = time.time_ns() // 1_000_000 + round(ahead_s * 1000)
    asked = [first_ms + chance.randrange(round(spread_s * 1000)) for _ in range(starts)]
    stored = await store_delayed(processes, asked)
    require(time.time_ns() // 1_000_000 < first_ms, "all are stored before the first one is due")
    with suppress(TimeoutError):
        async with asyncio.timeout(ahead_s + spread_s + 30):
            while len(model.called_ms) < starts:  # noqa: ASYNC110 (the model service is not asked: it is called)
                await asyncio.sleep(0.2)
    require(not any(duty.done() for duty in duties), "the rounds go on")
    for each in processes:
        await each.aclose()
    require(model.called_ms.keys() == stored.keys(), "each task is dispatched, and no other")
    require(all(len(called) == 1 for called in model.called_ms.values()), "each is dispatched once")
    return [model.called_ms[task_id][0] - at_ms for task_id, at_ms in stored.items()]


def run(quick: bool) -> list[Figure]:
    delayed, idle_s, rounds = (2_000, 10.0, 4) if quick else (DELAYED, IDLE_S, ROUNDS)
    starts, spread_s, ahead_s = (500, 6.0, 12.0) if quick else (STARTS, SPREAD_S, AHEAD_S)
    shown = {"delayed": delayed, "idle s": idle_s, "rounds": rounds, "starts": starts, "spread s": spread_s}
    report = Report("delays", quick=quick, settings=shown)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        opened: dict[Kind, RedisServer] = {
            kind: servers.enter_context(RedisServer(Path(directory) / kind)) for kind in KINDS
        }
        costs = asyncio.run(idle(opened, delayed, idle_s, rounds))
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        late = sorted(asyncio.run(late_ms(server, starts, spread_s, ahead_s)))
    commands, round_ms, of_redis_ms = (costs[key] for key in ("commands_per_s", "round_ms", "round_of_redis_ms"))
    require(min(commands.values()) > 0, "rounds run")
    cuts = quantiles(late, n=1000)
    report.table(
        "While none is due",
        ["beside 10,000 tasks that have ended", "Redis commands a second", "a round, ms", "of it Redis, ms"],
        [
            (title, f"{commands[kind]:.1f}", with_spread(round_ms[kind], 1), with_spread(of_redis_ms[kind], 1))
            for kind, title in (
                ("none", "no more"),
                ("ended", f"{delayed:,} that were delayed and cancelled"),
                ("delayed", f"{delayed:,} delayed"),
            )
        ],
    )
    report.table(
        "A start, ms after its time",
        ["first", "median", "p99", "p99.9", "last"],
        [[f"{each:.0f}" for each in (late[0], cuts[499], cuts[989], cuts[998], late[-1])]],
    )
    report.figure(Figure.of("delays_commands", [commands["delayed"] / commands["none"]]))
    report.figure(Figure.of("delays_round", ratios(round_ms["delayed"], round_ms["none"])))
    report.figure(Figure.of("delays_late", [cuts[989] / 1000]))
    report.figure(Figure.of("delays_early", [sum(each < 0 for each in late)]))
    return report.finish(costs=costs, late_ms=late)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
