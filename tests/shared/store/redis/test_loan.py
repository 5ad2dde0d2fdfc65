"""Successive batches share a connection, but only one that the client's pool would lend too."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from shared.store.redis.client import MAX_CONNECTIONS, ClusterClient, RedisClient, reconnect
from shared.store.redis.loan import Loan
from shared.store.redis.partitions import HASH_TAGS
from tests.shared.store.conftest import opener
from tests.shared.store.world import Server, nodes
from tests.waiting import PATIENCE_S

KEY = f"{HASH_TAGS[0]}nothing"
ID, GET = b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(KEY), KEY.encode())


@pytest.fixture
async def client(redis_server: Server) -> AsyncIterator[RedisClient]:
    opened = await opener(redis_server.url)()
    yield opened
    await opened.aclose()


@pytest.fixture
async def loan(client: RedisClient) -> AsyncIterator[Loan]:
    lent = Loan(client)
    yield lent
    await lent.give_back()


def node_of(client: RedisClient, key: str) -> Any:
    return client.node_of(key) if isinstance(client, ClusterClient) else None


async def answer(loan: Loan, client: RedisClient, command: bytes, key: str = KEY) -> Any:
    answers: list[Any] = []
    await loan.take(node_of(client, key), math.inf)
    await loan.ask([command], [answers], math.inf)
    return answers[0]


async def something_to_read(loan: Loan) -> None:
    connection = cast("Any", loan)._connection
    async with asyncio.timeout(PATIENCE_S):
        while not await connection.can_read():  # noqa: ASYNC110 (nothing sets an event then)
            await asyncio.sleep(0)


def pings(server: Server) -> int:
    count = 0
    for node in nodes(server):
        with node.connect() as other:
            stats = cast("dict[str, Any]", other.info("commandstats"))
            count += stats["cmdstat_ping"]["calls"] if "cmdstat_ping" in stats else 0
    return count


async def test_batches_one_after_the_other_share_a_connection(client: RedisClient, loan: Loan) -> None:
    assert len({await answer(loan, client, ID) for _ in range(10)}) == 1


async def test_what_was_lent_is_given_back(client: RedisClient) -> None:
    for _ in range(2 * MAX_CONNECTIONS):
        loan = Loan(client)
        assert await answer(loan, client, GET) is None
        await loan.give_back()


async def test_an_answer_that_nobody_has_read_is_nobody_elses(client: RedisClient, loan: Loan) -> None:
    answers: list[Any] = []
    await loan.take(node_of(client, KEY), math.inf)
    await loan.ask([GET, ID], [answers], math.inf)
    await something_to_read(loan)
    assert await answer(loan, client, GET) is None


async def test_a_batch_that_is_not_answered_in_time_leaves_its_answer_to_none(
    client: RedisClient, loan: Loan
) -> None:
    before = await answer(loan, client, ID)
    answers: list[Any] = []
    await loan.take(node_of(client, KEY), math.inf)
    with pytest.raises(TimeoutError):
        await loan.ask([ID], [answers], 0)
    assert not answers
    assert await answer(loan, client, GET) is None
    assert await answer(loan, client, ID) != before


async def test_a_connection_that_the_server_has_closed_is_replaced(
    client: RedisClient, loan: Loan, redis_server: Server
) -> None:
    before = await answer(loan, client, ID)
    for node in nodes(redis_server):
        with node.connect() as other:
            other.client_kill_filter(_id=before)
    await something_to_read(loan)
    assert await answer(loan, client, ID) != before


async def test_a_connection_is_replaced_once_its_server_is_no_longer_the_primary(
    client: RedisClient, loan: Loan
) -> None:
    before = await answer(loan, client, ID)
    await reconnect(client)
    if isinstance(client, ClusterClient):
        await client.initialize()
    assert await answer(loan, client, ID) != before


async def test_a_connection_that_was_long_idle_is_tried_before_it_is_used(
    client: RedisClient, loan: Loan, redis_server: Server
) -> None:
    await answer(loan, client, GET)
    await loan.give_back()
    before = pings(redis_server)
    await answer(loan, client, GET)
    await loan.give_back()
    assert pings(redis_server) == before
    node = node_of(client, KEY)
    for idle in cast("Any", client).connection_pool._available_connections if node is None else node._free:
        idle.next_health_check = 0
    await answer(loan, client, GET)
    assert pings(redis_server) == before + 1


async def test_a_kept_connection_that_was_long_idle_is_not_used(client: RedisClient, loan: Loan) -> None:
    before = await answer(loan, client, ID)
    cast("Any", loan)._connection.next_health_check = 0
    assert await answer(loan, client, ID) != before


async def test_each_node_gets_its_own_commands(client: RedisClient, loan: Loan) -> None:
    for tag in HASH_TAGS * 2:
        key = f"{tag}nothing"
        get = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key.encode())
        assert await answer(loan, client, get, key) is None  # not MOVED
