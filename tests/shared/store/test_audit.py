"""What operators do is on record before they do it, and the newest of it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from local.redis_server import RedisServer
from shared.store.audit import Action, Audit, AuditEntry
from shared.store.mending import Mending
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS
from tests.shared.store.conftest import POLICY, Clock, RepeatingLink, opener
from tests.shared.store.world import START_MS, Server, nodes

CANCEL = Action("cancel", "t1", "ada", "gateway")
PURGE = Action("purge", "t2", None, "key")
BULK = Action("bulk replay", None, "ada", "easyauth", "op-1")
AUDIT, AUDITED = f"{HASH_TAGS[0]}audit", f"{HASH_TAGS[0]}audited"


@pytest.fixture(params=[RedisLink, RepeatingLink], ids=["once", "each call repeated"])
async def link(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[RedisLink]:
    link: RedisLink = request.param(opener(redis_url))
    yield link
    await link.aclose()


@pytest.fixture
def audit(link: RedisLink, clock: Clock) -> Audit:
    return Audit(link, clock, kept=5)


@pytest.fixture
def client(redis_server: Server) -> Iterator[redis.Redis]:
    """Of the server that has the record."""
    for node in nodes(redis_server):
        with redis.Redis(port=node.port) as client:
            try:
                client.exists(AUDIT)
            except redis.ResponseError:
                continue
            yield client
            return


async def entries(audit: Audit) -> list[tuple[str, int | None]]:
    return [(entry.action.name, entry.count) for entry in (await audit.page(10)).entries]


async def test_an_action_is_on_record_before_it_is_taken_and_then_what_came_of_it(audit: Audit, clock: Clock) -> None:
    entry_id = await audit.begin(CANCEL)
    assert (await audit.page(10)).entries == [AuditEntry(entry_id, START_MS, CANCEL, None)]
    clock.advance(3)
    await audit.finish(entry_id, 1)
    assert (await audit.page(10)).entries == [AuditEntry(entry_id, START_MS, CANCEL, 1)]


async def test_each_action_has_who_did_it_as_far_as_that_is_known(audit: Audit) -> None:
    for action in (CANCEL, PURGE, BULK):
        await audit.begin(action)
    assert [entry.action for entry in (await audit.page(10)).entries] == [BULK, PURGE, CANCEL]


async def test_pages_have_each_entry_once_whatever_is_added_meanwhile(audit: Audit) -> None:
    ids = [await audit.begin(Action(str(number), None, None, "key")) for number in range(5)]
    first = await audit.page(2)
    assert [entry.id for entry in first.entries] == [ids[4], ids[3]]
    assert first.next is not None
    second = await audit.page(2, first.next)
    assert [entry.id for entry in second.entries] == [ids[2], ids[1]]
    assert second.next is not None
    assert [entry.id for entry in (await audit.page(2, second.next)).entries] == [ids[0]]
    assert (await audit.page(2, second.next)).next is None


async def test_the_newest_entries_are_kept_and_nothing_of_the_others(audit: Audit, client: redis.Redis) -> None:
    for number in range(12):
        await audit.finish(await audit.begin(Action(str(number), None, None, "key")), number)
    assert await entries(audit) == [(str(number), number) for number in range(11, 6, -1)]
    assert (client.xlen(AUDIT), client.hlen(AUDITED)) == (5, 5)


async def test_what_came_of_an_action_is_not_kept_without_its_entry(audit: Audit, client: redis.Redis) -> None:
    first = await audit.begin(CANCEL)
    for _ in range(5):
        await audit.begin(PURGE)
    await audit.finish(first, 1)
    assert client.hlen(AUDITED) == 0


async def test_what_somebody_else_has_written_is_no_entry(audit: Audit, client: redis.Redis) -> None:
    await audit.begin(CANCEL)
    client.xadd(AUDIT, {"x": "y"})
    client.xadd(AUDIT, {"k": "1", "e": b"\xc1"})
    assert await entries(audit) == [("cancel", None)]


async def test_a_key_of_another_kind_is_removed_and_the_record_begins_anew(
    link: RedisLink, audit: Audit, client: redis.Redis, clock: Clock
) -> None:
    client.set(AUDIT, "mine")
    with pytest.raises(StoreUnavailable):
        await audit.begin(CANCEL)
    await Mending(link, POLICY, clock).after_failures()
    await audit.begin(CANCEL)
    assert await entries(audit) == [("cancel", None)]


async def test_a_full_redis_still_takes_it_so_that_an_operator_can_make_room(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisServer(tmp_path_factory.mktemp("full-redis")) as server, server.connect() as client:
        client.config_set("maxmemory", 1)
        link = RedisLink(opener(server.url))
        audit = Audit(link)
        entry_id = await audit.begin(PURGE)
        await audit.finish(entry_id, 1)
        assert await entries(audit) == [("purge", 1)]
        await link.aclose()
