"""The series, whatever somebody else wrote, lost or set back."""

from __future__ import annotations

import msgpack
import pytest

from shared.store.redis.partitions import tag_of, unpack
from shared.store.series import COUNTS
from shared.store.store import TaskStore
from shared.tasks.task import State
from tests.shared.store.conftest import Clock
from tests.shared.store.counted import (
    client_of,
    counts,
    end,
    minutes,
    run,
    state_key,
    submit,
)
from tests.shared.store.fleet import PATH
from tests.shared.store.world import Server


async def test_values_that_somebody_else_wrote_stop_no_step(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    client, tag = client_of(redis_server), tag_of(PATH)
    await run(task_store, "t1")
    for span in (1, 10, 60):
        client.rpush(f"{tag}s{span}:{PATH}", b"garbage", msgpack.packb([1, 2, 3]))
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    clock.advance(60)
    await run(task_store, "t2")
    found = await minutes(task_store, clock, 3)
    assert [bucket.counts and counts(bucket) for bucket in found] == [
        {"created": 1},
        {"completed": 1},
        {"created": 1},
    ]


async def test_keys_of_another_type_stop_no_step(task_store: TaskStore, clock: Clock, redis_server: Server) -> None:
    client, tag = client_of(redis_server), tag_of(PATH)
    keys = [f"{tag}s{span}:{PATH}" for span in (1, 10, 60)]
    for key in (*keys, f"{tag}sum:{PATH}", f"{tag}series", f"{tag}series_bytes"):
        client.sadd(key, "garbage")
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    found = await minutes(task_store, clock, 2)
    assert [counts(bucket) for bucket in found] == [{"created": 1}, {"completed": 1}]
    assert await task_store.series.paths() == [PATH]


@pytest.mark.parametrize(
    "row",
    [
        [0, *[1] * 9, [1, "x"], []],
        [0, *[1] * 9, [1], [0, 1]],
        ["x", *[1] * 9, [], []],
        [float("inf"), *[1] * 9, [], []],
        [float("nan"), *[float("nan")] * 9, [], []],
        [10**18, *[1] * 9, [], []],
        [0, *[1] * 9, {"a": 1}, {}],
        [0, *[1] * 9, [[], 1], [300, 1]],
    ],
    ids=str,
)
async def test_rows_that_somebody_else_wrote_stop_neither_steps_nor_readers(
    row: list[object], task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    client, tag, packed = client_of(redis_server), tag_of(PATH), msgpack.packb(row)
    for span in (1, 10, 60):
        client.rpush(f"{tag}s{span}:{PATH}", packed)
    client.set(f"{tag}sum:{PATH}", packed)
    await task_store.series.totals([PATH])
    await minutes(task_store, clock, 2)
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    assert len(await minutes(task_store, clock, 2)) == 2
    await task_store.series.totals([PATH])


@pytest.mark.parametrize("tallies", ["\0\x06\x1f\x7f", "\udcff\udc80", ""], ids=["of no meaning", "bytes", "none"])
async def test_tallies_that_nobody_knows_are_left_out(
    tallies: str, task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await run(task_store, "t1")
    client = client_of(redis_server)
    state = unpack(client.get(state_key()) or b"")
    packed = msgpack.packb({**state, "M": tallies}, use_bin_type=False, unicode_errors="surrogateescape")
    client.set(state_key(), packed)
    await minutes(task_store, clock)
    clock.advance(60)
    await end(task_store, "t1", State.FAILED)
    assert counts((await minutes(task_store, clock, 2))[1]) == {"failed": 1}


async def test_when_a_queues_keys_are_lost_its_rows_and_sums_stay(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    clock.advance(60)
    await submit(task_store, "t2")
    client = client_of(redis_server)
    client.delete(*client.keys(f"{tag_of(PATH)}q*"))
    found = await minutes(task_store, clock, 3)
    assert [counts(bucket) for bucket in found] == [{"created": 1}, {"completed": 1}, {}]
    assert found[2].waiting is not None, "as it was last known"
    totals = (await task_store.series.totals([PATH]))[PATH]
    assert (totals.counts["created"], totals.counts["completed"], totals.waiting) == (1, 1, 0)
    await submit(task_store, "t3")
    assert (await task_store.series.totals([PATH]))[PATH].counts["created"] == 2


async def test_when_the_clock_is_set_back_nothing_is_lost(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    clock.advance(600)
    await run(task_store, "t1")
    clock.advance(60)
    await end(task_store, "t1", State.COMPLETED)
    clock.advance(-600)
    await run(task_store, "t2")
    clock.advance(660)
    await end(task_store, "t2", State.COMPLETED)
    await run(task_store, "t3")
    found = await minutes(task_store, clock, 20)
    totals = {name: sum(bucket.counts[name] for bucket in found if bucket.counts) for name in COUNTS}
    assert totals == {"created": 3, "completed": 2, "retried": 0, "cancelled": 0, "failed": 0}
    # What lay ahead is of the time that the clock was set back to.
    assert counts(found[1]) == {"created": 2, "completed": 1}
    client = client_of(redis_server)
    for span in (1, 10, 60):
        times = [unpack(row)[0] for row in client.lrange(f"{tag_of(PATH)}s{span}:{PATH}", 0, -1)]
        assert times == sorted({*times})
