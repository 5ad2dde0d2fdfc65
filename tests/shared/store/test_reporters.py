"""Reporters of requests in flight are bounded, and each report costs the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import MovedError

from local.redis_server import RedisCluster
from shared.store.redis.partitions import HASH_TAGS, pack, tag_of, unpack
from shared.store.request_counts import MOST_AT_ONCE, RequestReport, TooManyReporters
from tests.shared.store.conftest import Clock, Server, Store, StoreFactory
from tests.shared.store.test_cost import cost
from tests.shared.store.wire import Wire

DAY_S = 24 * 3600


async def test_a_counter_has_a_thousand_instances_at_most(store: Store, clock: Clock) -> None:
    async def report(instance: str, keep_s: float = 90) -> int:
        return await store.request_counts.report("aks", "/v1/a", 1, instance=instance, keep_s=keep_s)

    for number in range(0, 1_000, 20):
        await asyncio.gather(*(report(f"pod-{number + more}") for more in range(20)))
    with pytest.raises(TooManyReporters, match="instances"):
        await report("one-more")
    assert await report("pod-7") == 1_001
    assert await store.request_counts.report("aks", "/v1/a", 1) == 1_002
    clock.advance(90)
    assert await store.request_counts.count("aks", "/v1/a") == 1
    assert await report("one-more") == 2


async def test_there_is_a_bound_of_counters_and_a_silent_one_makes_room(store: Store, clock: Clock) -> None:
    tag = tag_of("aks /v1/0")
    paths = [path for path in (f"/v1/{number}" for number in range(9_000)) if tag_of(f"aks {path}") == tag][:258]
    for path in paths[:256]:
        await store.request_counts.report("aks", path, 1)
    with pytest.raises(TooManyReporters, match="counters"):
        await store.request_counts.report("aks", paths[256], 1)
    clock.advance(DAY_S - 1)
    for path in paths[1:256]:
        await store.request_counts.report("aks", path, 1)
    clock.advance(1)
    assert await store.request_counts.report("aks", paths[256], 1) == 1
    assert await store.request_counts.count("aks", paths[0]) is None
    with pytest.raises(TooManyReporters, match="counters"):
        await store.request_counts.report("aks", paths[257], 1)


async def test_what_the_unnamed_said_is_dropped_after_a_day_of_silence(store: Store, clock: Clock) -> None:
    await store.request_counts.report("aks", "/v1/a", 5)
    clock.advance(DAY_S - 0.001)
    assert await store.request_counts.count("aks", "/v1/a") == 5
    clock.advance(0.001)
    assert await store.request_counts.count("aks", "/v1/a") == 0
    assert await store.request_counts.report("aks", "/v1/a", 1) == 1


async def test_the_shares_of_a_former_version_go_on(store: Store, clock: Clock, redis_server: Server) -> None:
    await store.request_counts.report("aks", "/v1/a", 1)
    tag, former = tag_of("aks /v1/a"), {"pod-1": [2, clock() + 60_000], "gone": [9, clock()]}
    packed = pack({"kept": [1, [7], former]})[6:]
    for node in redis_server.nodes if isinstance(redis_server, RedisCluster) else [redis_server]:
        with node.connect() as client, contextlib.suppress(MovedError):
            client.hset(f"{tag}requests", "aks /v1/a", packed)  # the packed list without the map around it
    assert await store.request_counts.count("aks", "/v1/a") == 3
    assert await store.request_counts.report("aks", "/v1/a", 1, instance="pod-1", keep_s=90) == 4
    assert await store.request_counts.report("aks", "/v1/a", -9, instance="pod-1", keep_s=90) == 1


def paths_of(tag: str, count: int) -> list[str]:
    """Paths whose counters of the cluster ``aks`` lie in this partition."""
    found = (path for path in (f"/v1/{number}" for number in itertools.count()) if tag_of(f"aks {path}") == tag)
    return [*itertools.islice(found, count)]


async def counts_of(store: Store, paths: Iterable[str]) -> set[int | None]:
    return {*await asyncio.gather(*(store.request_counts.count("aks", path) for path in paths))}


async def test_reports_of_one_call_count_all_or_none(store: Store, clock: Clock) -> None:
    full, other = HASH_TAGS[:2]
    there, elsewhere = paths_of(full, 257), paths_of(other, 2)
    await store.request_counts.report_all([RequestReport("aks", path, 1) for path in there[:256]])
    named = RequestReport("aks", elsewhere[0], 1, "pod", 90)
    assert await store.request_counts.report_all([named]) == [1]
    for too_many in ([there[256]], [there[0], there[256]]):
        fives = [RequestReport("aks", path, 5) for path in (elsewhere[1], *too_many)]
        with pytest.raises(TooManyReporters, match="counters"):
            await store.request_counts.report_all([named, *fives])
    assert await counts_of(store, there[:256]) == {1}
    assert await counts_of(store, elsewhere) == {1, None}
    clock.advance(DAY_S)
    assert await store.request_counts.report_all([named, *fives]) == [1, 5, 5, 5]


async def test_instances_of_one_call_count_all_or_none(store: Store) -> None:
    def reports(names: Iterable[int]) -> list[RequestReport]:
        return [RequestReport("aks", "/v1/a", 1, f"pod-{number}", 90) for number in names]

    await store.request_counts.report_all(reports(range(950)))
    for too_many in (range(900, 960), range(900, 1_001), range(990, 1_041)):
        with contextlib.suppress(TooManyReporters):
            await store.request_counts.report_all(reports(too_many))
    assert await store.request_counts.count("aks", "/v1/a") == 950 + 60
    with pytest.raises(TooManyReporters, match="instances"):
        await store.request_counts.report_all(reports(range(940, 1_001)))
    assert await store.request_counts.count("aks", "/v1/a") == 950 + 60


async def test_calls_at_once_exceed_no_bound(store: Store) -> None:
    size = MOST_AT_ONCE + 20  # two steps each, which others come between

    async def report(call: int) -> int:
        names = [f"pod-{call}-{number}" for number in range(size)]
        try:
            await store.request_counts.report_all([RequestReport("aks", "/v1/a", 1, name, 90) for name in names])
        except TooManyReporters:
            return 0
        return size

    counted = await asyncio.gather(*map(report, range(12)))
    assert (await store.request_counts.count("aks", "/v1/a") or 0) == sum(counted) <= 1_000
    assert 0 in counted


async def test_what_was_reserved_in_vain_is_soon_free(store: Store, clock: Clock) -> None:
    tag, other = HASH_TAGS[:2]
    full, elsewhere = paths_of(other, 257), paths_of(tag, 257)
    await store.request_counts.report_all([RequestReport("aks", path, 1) for path in full[:256]])
    await store.request_counts.report_all([RequestReport("aks", path, 1) for path in elsewhere[:255]])
    with pytest.raises(TooManyReporters, match="counters"):
        await store.request_counts.report_all([RequestReport("aks", path, 1) for path in (elsewhere[255], full[256])])
    assert await counts_of(store, elsewhere[255:]) == {None}
    with pytest.raises(TooManyReporters, match="counters"):
        await store.request_counts.report("aks", elsewhere[256], 1)
    clock.advance(10)
    assert await store.request_counts.report("aks", elsewhere[256], 1) == 1


async def test_a_call_whose_replies_were_lost_counts_once(open_store: StoreFactory, wire: Wire) -> None:
    store, other = open_store(url=wire.url), open_store()
    paths = [path for tag in HASH_TAGS[:3] for path in paths_of(tag, 2)]
    reports = [RequestReport("aks", path, 1, instance, 90) for path in paths for instance in ("a", "b", None)]
    assert await store.request_counts.report_all([*reports, *reports]) == [6] * 36
    for sent in [script for script in wire.scripts if b"report" in script[4]]:
        await other._link.script("requests/report", sent[3].decode(), *sent[4:])
    assert await counts_of(store, paths) == {6}


@pytest.mark.parametrize("instances", [32, 33, 100])
async def test_shares_are_right_however_many_there_are(store: Store, clock: Clock, instances: int) -> None:
    """Few of them lie in their counter, many have keys of their own."""

    async def report(instance: str, delta: int, keep_s: float = 90) -> int:
        return await store.request_counts.report("aks", "/v1/a", delta, instance=instance, keep_s=keep_s)

    assert await store.request_counts.report("aks", "/v1/a", 5) == 5
    for number in range(instances):
        assert await report(f"pod-{number}", 2) == 5 + 2 * (number + 1)
    assert await report("pod-0", -1) == 4 + 2 * instances
    assert await report("pod-1", -9) == 2 + 2 * instances, "a share is never less than 0"
    assert await report("pod-2", 1, 200) == 3 + 2 * instances
    clock.advance(90)
    assert await store.request_counts.count("aks", "/v1/a") == 8
    assert await report("pod-3", 4, 200) == 12
    assert await report("pod-2", -1, 200) == 11
    clock.advance(200)
    assert await store.request_counts.count("aks", "/v1/a") == 5


async def test_a_report_costs_the_same_beside_a_hundred_and_beside_a_thousand(
    store: Store, redis_server: Server
) -> None:
    async def report(number: int) -> None:
        await store.request_counts.report("aks", "/v1/a", 1, instance=f"pod-{number}", keep_s=90)

    async def join(first: int, end: int) -> None:
        names = [f"pod-{number}" for number in range(first, end)]
        await store.request_counts.report_all([RequestReport("aks", "/v1/a", 1, name, 90) for name in names])

    await join(0, 100)
    few = await cost(redis_server, lambda: report(7))
    await join(100, 1_000)
    assert await cost(redis_server, lambda: report(7)) == few
    assert max(map(len, kept_by(redis_server))) < 1_000


async def test_few_shares_lie_where_a_former_version_finds_them(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.request_counts.report("aks", "/v1/a", 2, instance="pod", keep_s=90)
    [kept] = map(unpack, kept_by(redis_server))
    assert kept[2] == {"pod": [2, clock() + 90_000]}


def kept_by(server: Server) -> Iterator[bytes]:
    """The counter, of each server that has it."""
    for node in server.nodes if isinstance(server, RedisCluster) else [server]:
        with redis.Redis(port=node.port, password=node.password) as client, contextlib.suppress(MovedError):
            kept: Any = client.hget(f"{tag_of('aks /v1/a')}requests", "aks /v1/a")
            yield kept
