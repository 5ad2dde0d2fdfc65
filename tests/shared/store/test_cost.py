"""The cost of a step in commands: counts are exact, times are not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from shared.store.redis.link import _SCRIPTS
from shared.store.redis.partitions import PARTITIONS, pack
from shared.tasks.task import NewTask, State
from tests.shared.store.conftest import Clock, StoreFactory
from tests.shared.store.steps import Step, each_step
from tests.shared.store.wire import Wire
from tests.shared.store.world import START_MS, Server, nodes, tag_of

MANY = 100_000
PATHS = ("/v1/a", "/v1/b", "/v1/c")


def commands_run(server: Server) -> Counter[str]:
    """How often Redis has run each command, including those within scripts."""
    counts: Counter[str] = Counter()
    for node in nodes(server):
        with node.connect() as client:
            stats: dict[str, dict[str, int]] = client.info("commandstats")  # type: ignore[assignment]
            counts.update({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})
    return Counter(
        {
            name: count
            for name, count in counts.items()
            if name.partition("|")[0] not in ("info", "config", "client", "cluster", "hello", "ping", "auth")
        }
    )


async def cost(server: Server, take: Callable[[], Awaitable[object]]) -> Counter[str]:
    before = commands_run(server)
    await take()
    return commands_run(server) - before


@each_step
async def test_a_step_is_one_round_trip(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server, step: Step
) -> None:
    plain, store = open_store(), open_store(url=wire.url)
    await step.take(plain, await step.prepare(plain, clock))  # loads the script
    redis_server.flush()
    clock.ms = START_MS
    task = await step.prepare(plain, clock)
    await asyncio.gather(store.get("t1"), store.request_counts.count("aks", "/v1/a"))  # opens the connections
    wire.commands.clear()
    await step.take(store, task)
    assert [command[0] for command in wire.commands] == [b"EVALSHA"]


async def test_a_query_is_one_round_trip_and_the_depths_are_one_for_each_partition(
    open_store: StoreFactory, wire: Wire
) -> None:
    store = open_store(url=wire.url)
    await asyncio.gather(
        store.queries.depths("/v1/a"), store.queries.paths(), store.request_counts.count("aks", "/v1/a")
    )  # loads the scripts
    questions: dict[Callable[[], Awaitable[Any]], list[bytes]] = {
        lambda: store.get("t1"): [b"GET"],
        lambda: store.inline_result("t1"): [b"GET"],
        lambda: store.request_counts.count("aks", "/v1/a"): [b"EVALSHA"],
        store.queries.paths: [b"EVALSHA"] * PARTITIONS,
        lambda: store.queries.depths("/v1/a", "/v1/b"): [b"EVALSHA"] * PARTITIONS,
    }
    for ask, commands in questions.items():
        wire.commands.clear()
        await ask()
        assert [command[0] for command in wire.commands if command[0] != b"CLIENT"] == commands


async def test_timers_and_depths_cost_the_same_with_few_and_with_many_finished_tasks(
    open_store: StoreFactory, wire: Wire, redis_server: Server
) -> None:
    store = open_store()

    async def timers() -> None:
        for partition in range(PARTITIONS):
            assert await store.sweep(partition, {}) == []

    async def finished() -> int:
        return sum([depth.completed for depth in (await store.queries.depths()).values()])

    await timers()
    # Each partition has a task of each path, so that later tasks add no path.
    few = await create_finished(open_store, wire, redis_server, 0, 600)
    assert await finished() == few
    sweep_of_few, depths_of_few = await cost(redis_server, timers), await cost(redis_server, store.queries.depths)
    many = await create_finished(open_store, wire, redis_server, few, MANY)
    assert await finished() == few + many
    assert await cost(redis_server, timers) == sweep_of_few
    assert await cost(redis_server, store.queries.depths) == depths_of_few
    # What is overdue, the ends of children that no batch knows, the next schedule, and when the next delayed task
    # starts.
    assert sweep_of_few == {"evalsha": PARTITIONS, "zrangebyscore": 2 * PARTITIONS, "zrange": 2 * PARTITIONS}
    rows = PARTITIONS * len(PATHS)
    assert depths_of_few == {
        "evalsha": 2 * PARTITIONS,
        "sunion": PARTITIONS,
        "exists": PARTITIONS,
        "zcard": 7 * rows,
    }


async def create_finished(open_store: StoreFactory, wire: Wire, server: Server, first: int, count: int) -> int:
    """Create *count* tasks as the store does, but in large pipelines."""
    await open_store(url=wire.url).create(
        NewTask(f"example-{first}", PATHS[0], 60, state=State.COMPLETED, dispatch_requested=False)
    )
    arg = msgpack.unpackb(wire.scripts[-1][4])
    source, sha = _SCRIPTS["task/create"]
    clients = [redis.Redis(port=node.port) for node in nodes(server)]
    pipes = [client.pipeline(transaction=False) for client in clients]
    for client in clients:
        client.script_load(source)
    for number in range(first, first + count):
        arg["id"], arg["op"], arg["rec"]["p"] = f"t{number}", str(number), PATHS[number % 3]
        tag = "{" + tag_of(arg["id"]) + "}"
        pipe = pipes[key_slot(tag.encode()) * len(pipes) // REDIS_CLUSTER_HASH_SLOTS]
        pipe.evalsha(sha, 1, tag, pack(arg), "")
        if len(pipe) == 5000:
            pipe.execute()
    for pipe, client in zip(pipes, clients, strict=True):
        pipe.execute()
        client.close()
    return count + 1
