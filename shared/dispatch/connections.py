"""Connections to model services: aiohttp's, for servers that answer before they have read the request.

A busy server may refuse a task with the body unread. Then it closes the connection, which the kernel does with a
reset, or it leaves it as it is. What it said is heard all the same, and no rest of one request or answer is taken for
a part of the next (docs/decisions/0009-the-call-to-a-backend.md).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from shared.dispatch.bounded_answers import BoundedAnswers, Turns
from shared.dispatch.guarded_resolver import GuardedResolver
from shared.dispatch.registry import BackendRegistry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

CONNECT_TIMEOUT_S = 5.0
_NO_LIMIT = 0
"""MAX_DISPATCHES is the limit. A call that waited here would count as one that the backend did not answer."""
_MAX_HEADER_BYTES = 8 * 1024
_MAX_HEADERS = 100
CONTINUE_TIMEOUT_S = 1.0
"""How long a server is given to ask for a body that it may refuse before. Then the body is sent all the same: servers
of HTTP/1.0, and some others, never ask."""


def open_session(
    registry: BackendRegistry, turns: Turns, *, reuses_connections: bool = True
) -> aiohttp.ClientSession:
    connector = BoundedConnector(
        resolver=GuardedResolver(registry),
        socket_factory=_socket,
        limit=_NO_LIMIT,
        force_close=not reuses_connections,
    )
    connector.turns = turns
    return aiohttp.ClientSession(
        connector=connector,
        request_class=_Request,
        response_class=Response,
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )


class StaleConnection(aiohttp.ClientConnectionError):
    """Raised if a connection of an earlier call turned out to be closed, and nothing of the answer came. The server
    may have had the request before it closed the connection."""


class Response(aiohttp.ClientResponse):
    """An answer. Its connection serves another call only if the answer accepts the request and came after all of it:
    else, the server may not have read the request."""

    is_on_used_connection = False
    _transport: asyncio.Transport | None = None

    @property
    def is_acceptance(self) -> bool:
        return self.status in range(200, 300)

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        assert protocol is not None
        self._transport = protocol.transport
        asked = self._continue
        try:
            await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if self.is_on_used_connection and not _has_begun(error):
                raise StaleConnection from error
            raise
        except BaseException:
            self.abort()
            raise
        if not self.is_acceptance:
            protocol.force_close()
            if connection.protocol is None:  # The answer has no body, and so the connection was given back at once.
                self.abort()
        elif asked is not None and not asked.done():
            asked.set_result(True)  # It has accepted without asking, and may still read.
        return self

    @property
    def is_request_sent(self) -> bool:
        return self._writer is None

    async def request_sent(self) -> None:
        """Wait until the request is sent, or the server takes no more of it."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def abort(self) -> None:
        """Close the connection, even if the server never reads what is left of the request."""
        if self._transport is not None:
            self._transport.abort()

    def _response_eof(self) -> None:
        # aiohttp would write no more, though a server that has accepted may still read.
        if self._writer is None:
            super()._response_eof()
        elif self._connection is not None and self._connection.protocol is not None:
            self._connection.protocol.force_close()


class _Request(aiohttp.ClientRequest):
    is_on_used_connection = True

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        response = await super().send(conn)
        assert isinstance(response, Response)
        if self._continue is not None:
            _bound(self._continue)
        response.is_on_used_connection = self.is_on_used_connection
        return response


class BoundedConnector(aiohttp.TCPConnector):
    """Reads answers within the bounds of `BoundedAnswers`."""

    turns: Turns

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (the base class has it)
    ) -> ResponseHandler:
        if isinstance(req, _Request):
            req.is_on_used_connection = False
        self._factory = partial(BoundedAnswers, loop=self._loop, turns=self.turns)
        return await super()._create_connection(req, traces, timeout)


class _Socket(socket.socket):
    """Leaves it to the reader to find out that the connection is lost. Else asyncio would close the socket at the
    first write that fails, with the answer still unread in it."""

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except ConnectionError:
            return memoryview(data).nbytes

    def sendmsg(self, buffers: Iterable[ReadableBuffer], /, *others: Any) -> int:
        buffers = list(buffers)
        try:
            return super().sendmsg(buffers, *others)
        except ConnectionError:
            return sum(memoryview(buffer).nbytes for buffer in buffers)


def _bound(asked: asyncio.Future[bool]) -> None:
    timer = asked.get_loop().call_later(CONTINUE_TIMEOUT_S, lambda: asked.done() or asked.set_result(True))
    asked.add_done_callback(lambda _: timer.cancel())


def _socket(address: Sequence[Any]) -> socket.socket:
    family, kind, protocol = address[:3]
    return _Socket(family, kind, protocol)


def _has_begun(error: aiohttp.ClientError) -> bool:
    """Whether something of an answer came before the connection was lost, as far as aiohttp tells."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
