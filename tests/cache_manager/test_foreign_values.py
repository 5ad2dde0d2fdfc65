"""Keys of the app hold what somebody else wrote. That is lost, and no error stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import MovedError

from cache_manager.reconciler import reconcile
from shared.store.queries import Listing
from shared.tasks.task import NewTask
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.shared.store.conftest import Clock
from tests.shared.store.world import Server, nodes, tag_of

PATH = "/v1/test"
GARBAGE = (b"garbage", b"", b"\x80", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa1c\x01")


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


def overwrite(server: Server, of: str, name: str, value: Any) -> None:
    """Write a key of the partition that *of* falls in: bytes as a string, a map to bytes as a hash, one to numbers as
    entries."""
    key = "{" + tag_of(of) + "}" + name
    written = 0
    for node in nodes(server):
        with node.connect() as client, suppress(MovedError):
            if isinstance(value, bytes):
                client.set(key, value)
            elif all(isinstance(each, bytes) for each in value.values()):
                client.hset(key, mapping=value)
            else:
                client.zadd(key, value)
            written += 1
    assert written == 1


async def rounds(process: Process, clock: Clock) -> None:
    for _ in range(3):
        clock.advance(4 * REPUBLISH_S)
        await reconcile(process.services)


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
@pytest.mark.parametrize("is_paused", [True, False], ids=["waits", "holds a slot"])
async def test_a_record_that_is_none_is_lost_and_stops_no_other(
    process: Process, clock: Clock, redis_server: Server, garbage: bytes, is_paused: bool
) -> None:
    await process.queues.configure(PATH, {"paused": is_paused})
    await process.store.create(NewTask("t", PATH, lease_s=60))
    overwrite(redis_server, "t", "t:t", garbage)
    assert (await process.store.page(Listing(10))).tasks == []
    assert await process.store.get("t") is None
    await rounds(process, clock)
    assert await process.queues.depths() == {}
    status = await process.queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 0)
    await process.store.create(NewTask("t", PATH, lease_s=60))
    assert await process.store.get("t")


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
async def test_an_outage_that_is_none_stops_no_sweep(
    process: Process, clock: Clock, redis_server: Server, garbage: bytes
) -> None:
    overwrite(redis_server, PATH, "outages", {PATH: garbage})
    await rounds(process, clock)
    assert await process.queues.outages() == {}


@pytest.mark.parametrize("kind", ["paths", "ended_paths", "queues"])
async def test_a_path_that_is_no_text_fails_no_list(
    process: Process, clock: Clock, redis_server: Server, kind: str
) -> None:
    await process.store.create(NewTask("t", PATH, lease_s=60))
    for node in nodes(redis_server):
        with node.connect() as client, suppress(MovedError):
            client.sadd("{" + tag_of("t") + "}" + kind, b"\xff\xfe")
    assert PATH in await process.queues.paths()
    assert [*await process.queues.depths()] == [PATH]
    await rounds(process, clock)


@pytest.mark.parametrize("kind", ["qo", "qh", "outages"])
async def test_a_key_of_another_type_is_lost(process: Process, clock: Clock, redis_server: Server, kind: str) -> None:
    await process.queues.configure(PATH, {"paused": kind != "qh"})
    await process.store.create(NewTask("t1", PATH, lease_s=60))
    await process.store.create(NewTask("t2", PATH, lease_s=60))
    overwrite(redis_server, PATH, kind if kind == "outages" else f"{kind}:{PATH}", b"garbage")
    await process.store.create(NewTask("t3", PATH, lease_s=60))
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    await reconcile(process.services)
    status = await process.queues.status(PATH)
    assert status.waiting + status.holding == 3


async def test_an_owners_entries_of_another_type_are_lost(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await process.store.create(NewTask("t1", PATH, lease_s=60))
    overwrite(redis_server, PATH, f"qw:{PATH} ", b"garbage")
    await rounds(process, clock)
    await process.store.create(NewTask("t2", PATH, lease_s=60))
    await rounds(process, clock)
    assert (await process.queues.status(PATH)).waiting == 2


@pytest.mark.parametrize("name", ["garbage", "t.x", "", b"\xff\xfe.1"])
@pytest.mark.parametrize("kind", ["qh", "qw"])
async def test_an_entry_whose_name_is_none_goes(
    process: Process, clock: Clock, redis_server: Server, kind: str, name: str | bytes
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await process.store.create(NewTask("t", PATH, lease_s=60))
    overwrite(redis_server, PATH, f"{kind}:{PATH}" + (" " if kind == "qw" else ""), {name: 1.0})
    await rounds(process, clock)
    status = await process.queues.status(PATH)
    assert (status.waiting, status.holding) == (1, 0)


async def test_rounds_begin_whatever_is_written_of_who_has_them(process: Process, redis_server: Server) -> None:
    assert await process.store.rounds.begin()
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("{*}reconciler"):
                client.hset(key, mapping={b"process": b"another's", b"until": b"garbage"})
    assert await process.store.rounds.begin()


@pytest.mark.parametrize("name", ["garbage", "u/", b"\xff\xfe.1"])
async def test_a_slot_that_is_granted_to_no_entry_fails_nothing_and_is_free_again(
    process: Process, clock: Clock, redis_server: Server, name: str | bytes
) -> None:
    await process.queues.configure(PATH, {"paused": True, "limit": 1})
    await process.store.create(NewTask("t", PATH, lease_s=60))
    overwrite(redis_server, PATH, f"qw:{PATH} ", {name: 1.0})
    await process.queues.configure(PATH, {"paused": False})
    await rounds(process, clock)
    status = await process.queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 1)
