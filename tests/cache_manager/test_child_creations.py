"""How a batch's child is created: in one step on one server, in two on several. Each script is sent once, or twice as
after a lost answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from local.redis_server import RedisServer
from shared.store import RedisLink
from shared.tasks.outcomes import Applied, BatchRefused, Created, Draining, Existing
from shared.tasks.task import NewBatch
from tests.cache_manager.process import Process
from tests.cache_manager.test_batches import CHILD, LinkToSeveralServers, counts, end
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.world import Server, World


class RepeatingLinkToSeveralServers(LinkToSeveralServers, RepeatingLink):
    pass


LINKS = {
    "one server": RedisLink,
    "one server, each script twice": RepeatingLink,
    "several": LinkToSeveralServers,
    "several, each script twice": RepeatingLinkToSeveralServers,
}
PATH = CHILD.path


@pytest.fixture(params=LINKS)
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, link=LINKS[request.param](opener(redis_url)))
    await process.store.batches.create(NewBatch("b", owner="alice"))
    yield process
    await process.dispatcher.aclose()
    await process.services.store.aclose()


async def create(process: Process, child_id: str, **change: Any) -> object:
    return await process.store.create(replace(CHILD, id=child_id, **{"owner": "alice", **change}))


async def test_children_of_the_same_moment_are_all_registered_and_wait(
    process: Process, redis_server: Server
) -> None:
    ids = [f"c{number}" for number in range(20)]
    created = await asyncio.gather(*(create(process, child_id) for child_id in ids))
    assert all(isinstance(each, Created) for each in created)
    assert await counts(process) == (20, 0, 0, 0)
    world = World(redis_server)
    assert {child for child, *_ in world.children_of("b")} == set(ids) <= world.records.keys()
    world.assert_consistent()


async def test_a_child_that_its_queue_refuses_is_not_its_batchs(process: Process, redis_server: Server) -> None:
    await process.queues.configure(PATH, {"draining": True})
    assert isinstance(await create(process, "c1"), Draining)
    assert await counts(process) == (0, 0, 0, 0)
    assert [*World(redis_server).children_of("b")] == []
    assert await process.store.get("c1") is None


@pytest.mark.parametrize("fingerprint", ["", "f"])
async def test_a_child_that_its_batch_refuses_is_not_created(
    process: Process, redis_server: Server, fingerprint: str
) -> None:
    assert await create(process, "c1", owner="bob", fingerprint=fingerprint) == BatchRefused("unknown")
    assert await create(process, "c1", batch="no", fingerprint=fingerprint) == BatchRefused("unknown")
    assert isinstance(await process.store.batches.seal("b", "alice"), Applied)
    assert await create(process, "c1", fingerprint=fingerprint) == BatchRefused("sealed")
    assert await process.store.get("c1") is None
    assert (await process.queues.status(PATH)).waiting == 0
    assert [*World(redis_server).children_of("b")] == []


async def test_whoever_repeats_a_create_finds_the_child_although_its_batch_is_sealed(process: Process) -> None:
    assert isinstance(await create(process, "c1", fingerprint="f"), Created)
    assert isinstance(await create(process, "c2"), Created)
    await end(process, "c1")
    await process.store.batches.seal("b", "alice")
    found = await create(process, "c1", fingerprint="f")
    assert isinstance(found, Existing)
    assert (found.task.id, await counts(process)) == ("c1", (2, 1, 0, 0))


async def test_a_child_that_exists_is_registered_once(process: Process, redis_server: Server) -> None:
    for _ in range(3):
        await create(process, "c1", fingerprint="f")
    ((child, known, number),) = World(redis_server).children_of("b")
    assert (child, known, await counts(process)) == ("c1", "registered", (1, 0, 0, 0))
    if isinstance(redis_server, RedisServer) and not isinstance(process.link, LinkToSeveralServers):
        assert number == 1, "apart, nobody can tell whether an earlier registration has led to a child"
