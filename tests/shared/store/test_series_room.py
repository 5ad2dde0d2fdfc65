"""How much room the series take."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgpack
import pytest
import redis

from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import tag_of, unpack
from shared.store.series import OTHER, EndpointSeries
from shared.store.store import TaskStore
from shared.tasks.task import State
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.counted import (
    FIRST_MINUTE_MS,
    MINUTE_MS,
    client_of,
    counts,
    end,
    run,
    state_key,
    submit,
)
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.world import Server, nodes


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(opener(redis_url))
    yield link
    await link.aclose()


async def test_the_rows_of_a_path_take_a_bounded_room_whatever_happens(
    link: RedisLink, clock: Clock, redis_server: Server
) -> None:
    """The worst case: each minute has durations in all bins, for a hundred days."""
    queues, client, chance = (
        QueueSteps(link, store_policy(), lambda path: None, clock),
        client_of(redis_server),
        random.Random(1),
    )
    everything = "".join(
        map(
            chr,
            [*range(1, 6)] * 9
            + [32 + number for number in range(22)] * 4
            + [64 + number for number in range(22)] * 5,
        )
    )
    await queues.enqueue([QueueEntry.of(new_task("t", clock))])

    async def pass_time(minutes: int) -> None:
        clock.advance(60 * minutes)
        state = unpack(client.get(state_key()) or b"")
        client.set(
            state_key(), msgpack.packb({**state, "M": everything, "t": clock() - MINUTE_MS}, use_bin_type=False)
        )
        await queues.configure(PATH, {"limit": chance.randrange(1, 100)})

    for _ in range(100 * 24):
        await pass_time(60)
    for _ in range(7 * 144):
        await pass_time(10)
    for _ in range(360):
        await pass_time(1)
    rows = [client.memory_usage(f"{tag_of(PATH)}s{span}:{PATH}", samples=0) for span in (1, 10, 60)]
    assert all(rows) and sum(rows) < 301 * 1024
    assert client.llen(f"{tag_of(PATH)}s1:{PATH}") >= 360
    assert client.llen(f"{tag_of(PATH)}s10:{PATH}") >= 7 * 144


async def test_the_least_used_paths_become_other_when_there_is_no_room(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    tag = tag_of(PATH)
    same = next(f"/v1/other/{n}" for n in range(1000) if tag_of(f"/v1/other/{n}") == tag)
    clock.advance(3600)
    created = await submit(task_store, "t2", same)
    assert created.granted
    clock.advance(3600)
    client_of(redis_server).hset(f"{tag}series_bytes", PATH, 5 * 1024 * 1024)
    await submit(task_store, "t3", same)
    clock.advance(3600)
    await submit(task_store, "t4", same)
    assert await task_store.series.paths() == sorted([same, OTHER])
    found = await task_store.series.read(OTHER, FIRST_MINUTE_MS, FIRST_MINUTE_MS + MINUTE_MS, MINUTE_MS, clock())
    assert counts(found[0]) == {"created": 1}
    assert (await task_store.series.read(PATH, FIRST_MINUTE_MS, FIRST_MINUTE_MS + MINUTE_MS, MINUTE_MS, clock()))[
        0
    ].counts is None


async def test_ten_thousand_paths_have_a_bounded_room_and_are_all_told_of(
    redis_url: str, clock: Clock, redis_server: Server
) -> None:
    link = RedisLink(opener(redis_url))
    queues, series = QueueSteps(link, store_policy(), lambda path: None, clock), EndpointSeries(link)
    paths = [f"/v1/many/{number}" for number in range(10_000)]
    for minute in range(2):
        for start in range(0, len(paths), 500):
            some = paths[start : start + 500]
            tasks = [new_task(f"t{minute}-{path[9:]}", clock, path=path) for path in some]
            await asyncio.gather(*(queues.enqueue([QueueEntry.of(task)], arrive=True) for task in tasks))
        clock.advance(60)
    assert await series.paths() == sorted(paths)
    bytes_by_kind = dict[str, int]()
    for node in nodes(redis_server):
        with redis.Redis(port=node.port) as client:
            for key in client.scan_iter(count=1000):
                kind = key.split(b"}")[1].split(b":")[0].decode()
                if kind in ("s1", "s10", "s60", "sum", "series", "series_bytes"):
                    bytes_by_kind[kind] = bytes_by_kind.get(kind, 0) + client.memory_usage(key, samples=0)
    assert sum(bytes_by_kind.values()) < 64 * 1024 * 1024 / 2
    totals = await series.totals(paths)
    assert {each.counts["created"] for each in totals.values()} == {2}
    await link.aclose()


async def test_paths_that_were_not_used_for_ninety_days_are_forgotten(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    tag = tag_of(PATH)
    same = next(f"/v1/other/{n}" for n in range(1000) if tag_of(f"/v1/other/{n}") == tag)
    clock.advance(91 * 86_400)
    for number in range(2):
        await submit(task_store, f"u{number}", same)
        clock.advance(3_600)
    await submit(task_store, "u2", same)
    assert await task_store.series.paths() == [same]
    assert client_of(redis_server).hkeys(f"{tag}series_bytes") == [same.encode()]
