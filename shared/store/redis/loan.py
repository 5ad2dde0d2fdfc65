"""A connection that successive command batches share.

redis-py's own way costs each batch much: to take a connection and to give it back, locks and timeouts; to write, an
asyncio task. Done once for many batches, and under the one timeout that a batch has anyway, a step takes the process
an eighth less of its time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.redis.client import REPLY_TIMEOUT_S, RedisClient


class Loan:
    """A connection of the client's to one server, on loan from its pool."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._node: Any = None
        self._connection: Any = None
        self._refusal: Exception | None = None

    async def take(self, node: Any, deadline: float) -> None:
        """Have an open connection to the client's server, or to one of its nodes: the one that is here if it is as
        good as new. If there is none, the next :meth:`ask` says why."""
        self._refusal = None
        try:
            if self._connection is None or node is not self._node or not await _is_good(self._connection):
                async with _done_by(deadline):
                    await self.give_back()
                    await self._take(node)
        except Exception as error:  # whatever it is, it is the answer to what is asked
            self._refusal = error

    async def ask(self, packed: Sequence[bytes], answers: Iterable[list[Any]], deadline: float) -> None:
        """Send commands and append the answer to each to its list, which is an error if the server says so.

        Raises:
            RedisError, OSError, TimeoutError: there are no further answers.
        """
        if self._refusal is not None:
            raise self._refusal
        connection = self._connection
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + REPLY_TIMEOUT_S)):
                connection._writer.writelines(packed)
                for each in answers:
                    try:
                        each.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as error:
                        each.append(error)
        except AttributeError as error:
            raise _closed_meanwhile() from error

    async def give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if not await _is_good(connection):
                    await connection.disconnect(nowait=True)  # the pool might lend it again as it is
            finally:
                await self._release(self._node, connection)

    async def _take(self, node: Any) -> None:
        if node is None:
            connection = await cast("Redis", self._client).connection_pool.get_connection()
        else:
            connection = node.acquire_connection()
        try:
            if node is not None:
                await node.disconnect_if_needed(connection)
                await connection.connect()
            await connection.check_health()
        except BaseException:
            await self._release(node, connection)
            raise
        self._node, self._connection = node, connection

    async def _release(self, node: Any, connection: Any) -> None:
        if node is None:
            await cast("Redis", self._client).connection_pool.release(connection)
        else:
            node.release(connection)


async def _is_good(connection: Any) -> bool:
    """Whether it is open, was used lately, has no answer that nobody has read, and is not to be closed because its
    server is no longer the primary."""
    return (
        connection.is_connected
        and asyncio.get_running_loop().time() < connection.next_health_check
        and not connection.should_reconnect()
        and not await connection.can_read()
    )


@asynccontextmanager
async def _done_by(deadline: float) -> AsyncGenerator[None]:
    """Let redis-py do something until the *deadline*, by the loop's clock.

    Raises:
        TimeoutError: it is not done by then.
    """
    try:
        # Two timeouts, since Python 3.11's wait_for, which redis-py uses, swallows a cancellation that comes as it
        # ends.
        async with asyncio.timeout_at(deadline + 0.5), asyncio.timeout_at(deadline):
            yield
    except AttributeError as error:
        raise _closed_meanwhile() from error


def _closed_meanwhile() -> Exception:
    """For an AttributeError, which redis-py raises if another call closes the connection meanwhile, as after a
    failover. Only its own code runs where this is caught, so it hides no bug of ours."""
    return ConnectionError("the connection was closed meanwhile")
