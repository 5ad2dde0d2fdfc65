"""Reporters of requests in flight are bounded, and each report costs the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.exceptions import MovedError

from local.redis_server import RedisCluster
from shared.store.redis.partitions import pack, tag_of
from shared.store.request_counts import TooManyReporters
from tests.shared.store.conftest import Clock, Server, Store

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
    packed = pack({"kept": [1, [], former]})[6:]
    for node in redis_server.nodes if isinstance(redis_server, RedisCluster) else [redis_server]:
        with node.connect() as client, contextlib.suppress(MovedError):
            client.hset(f"{tag}requests", "aks /v1/a", packed)  # the packed list without the map around it
    assert await store.request_counts.count("aks", "/v1/a") == 3
    assert await store.request_counts.report("aks", "/v1/a", 1, instance="pod-1", keep_s=90) == 4
    assert await store.request_counts.report("aks", "/v1/a", -9, instance="pod-1", keep_s=90) == 1
