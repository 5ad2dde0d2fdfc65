"""Ten thousand waits in one process, at the store's face: what they cost Redis while nothing happens, and how soon a
change is seen.

The delay is the time from the answer to the step that makes the change until the wait for it has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from bench.harness import Figure, Report
from bench.plausibility import require
from local.redis_server import RedisServer
from shared.store import RedisAddress, RedisLink, TaskStore, connect
from shared.tasks.outcomes import Applied, Created
from shared.tasks.task import NewTask, State, Task
from tests.shared.store.policies import store_policy

WAITS: Final = 10_000
QUIET_S: Final = 20.0
CHANGES: Final = 200
OWN_COMMANDS: Final = ("info", "client", "hello", "ping")
"""Of the bench itself, and of connections."""


def commands_of(server: RedisServer) -> int:
    return sum(calls for name, calls in _calls(server).items() if name.partition("|")[0] not in OWN_COMMANDS)


def _calls(server: RedisServer) -> dict[str, int]:
    with server.connect() as client:
        stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


async def _created(store: TaskStore, number: int) -> Task:
    created = await store.create(NewTask(f"t{number}", "/v1/bench/waits", 3600, dispatch_requested=False))
    assert isinstance(created, Created)
    return created.task


async def _delay_ms(store: TaskStore, task: Task, wait: asyncio.Task[tuple[Task | None, float]]) -> float:
    outcome = await store.update(task.id, state=State.RUNNING, status="running")
    changed_s = time.perf_counter()
    found, seen_s = await wait
    require(isinstance(outcome, Applied) and found == outcome.task, "a wait ends with the change")
    return max(0.0, seen_s - changed_s) * 1000


async def measure(server: RedisServer, waits: int, quiet_s: float, changes: int) -> tuple[int, Sequence[float]]:
    """The commands that Redis ran while nothing happened, and the delays of changes in ms."""

    async def open_redis() -> Any:
        return await connect(RedisAddress.parse(server.url), lambda: cast("Any", None))

    store = TaskStore(RedisLink(open_redis), store_policy())

    async def wait(task: Task) -> tuple[Task | None, float]:
        return await store.wait(task, lambda _: True), time.perf_counter()

    tasks = [await _created(store, number) for number in range(waits)]
    waiting = [asyncio.ensure_future(wait(task)) for task in tasks]
    while _calls(server).get("get", 0) < waits:  # noqa: ASYNC110 (until each is heard of and has read the record)
        await asyncio.sleep(0.1)
    before = commands_of(server)
    await asyncio.sleep(quiet_s)
    commands = commands_of(server) - before
    delays_ms = [
        await _delay_ms(store, task, wait) for task, wait in zip(tasks[:changes], waiting[:changes], strict=True)
    ]
    require(not any(wait.done() for wait in waiting[changes:]), "no wait ends without a change")
    for wait_ in waiting:
        wait_.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await store.aclose()
    return commands, delays_ms


def run(quick: bool) -> list[Figure]:
    waits, quiet_s = (1_000, 2.0) if quick else (WAITS, QUIET_S)
    report = Report("waits", quick=quick, settings={"waits": waits, "quiet s": quiet_s, "changes": CHANGES})
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        commands, delays_ms = asyncio.run(measure(server, waits, quiet_s, CHANGES))
    report.figure(Figure.of("waits_commands", [commands]))
    report.figure(Figure.of("waits_delay", delays_ms))
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
