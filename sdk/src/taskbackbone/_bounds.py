"""What of an answer is read at most, beside its body, and for how long: one without an end holds nobody up.

An answer that only comes late, or has a large body, is no such one.
"""

from __future__ import annotations

import io
import math
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse, IncompleteRead
from typing import Any, Callable

_MOST_INTERIM = 8
_MOST_BESIDE = 1 << 20
"""Of a head, and of the sizes and extensions of chunks; to these, a quarter of the body is added."""
_CHUNK_BYTES = 64 * 1024


class EndlessAnswer(ConnectionError):
    """A server keeps sending what is no answer, or no part of it."""

    def __init__(self, what: str = "the answer does not end") -> None:
        super().__init__(what)


class BoundedResponse(HTTPResponse):
    """What ``http.client`` has for an answer. Its body is read by ``read1``, and by nothing else.

    The head, and each ``read1``, have the time that a socket's timeout gives to each of its reads. Interim answers
    are passed over, all of them: ``http.client`` would take a 103 for the answer, and the answer for the next one.
    """

    def __init__(self, sock: Any, *rest: Any, **options: Any) -> None:
        self._interim = 0
        self._wire: Any = _Wire(sock)
        super().__init__(self._wire, *rest, **options)

    def _read_status(self) -> Any:
        base: Any = super()
        found = base._read_status()
        self._interim += 100 <= found[1] < 200
        if self._interim > _MOST_INTERIM:
            raise EndlessAnswer
        return found

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:
            fields: Any = self
            fields.headers = fields.msg = None
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        self._wire.go_on(0)
        chunk = super().read1(n)
        self._wire.go_on(len(chunk))
        return chunk


class _Wire(io.RawIOBase):
    """The bytes of an answer as they come."""

    def __init__(self, sock: Any) -> None:
        self._raw = sock.makefile("rb", 0)
        self._timeout_s = sock.gettimeout()
        self._left = _MOST_BESIDE
        self.go_on(0)

    def go_on(self, taken: int) -> None:
        """The time begins anew. *taken* is how many bytes of a body have come."""
        self._left += taken + taken // 4
        self._end_s = math.inf if self._timeout_s is None else time.monotonic() + self._timeout_s

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise EndlessAnswer
        if time.monotonic() > self._end_s:
            raise socket.timeout("the answer comes too slowly")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def chunks_of(response: HTTPResponse) -> Iterator[bytes]:
    """The body. Raises what ``http.client`` raises, also if it breaks off, which that takes for an end."""
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk
    if response.length:
        raise IncompleteRead(b"", response.length)


def pools(base_of: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """urllib3's pools of connections, whose answers are bounded; *base_of* makes another class of a connection's."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

    def pool(base: Any) -> Any:
        kind = base_of(base.ConnectionCls) if base_of is not None else base.ConnectionCls
        connection = type(kind.__name__, (kind,), {"response_class": BoundedResponse})
        return type(base.__name__, (base,), {"ConnectionCls": connection})

    return {"http": pool(HTTPConnectionPool), "https": pool(HTTPSConnectionPool)}


def connector() -> Any:
    """aiohttp's connections, whose answers are bounded."""
    import asyncio
    from functools import partial

    import aiohttp
    from aiohttp.client_proto import ResponseHandler

    class Handler(ResponseHandler):
        _answer: Any = None
        """The body of the final answer, once that has come."""
        _came = _interim = 0
        _is_cut = False

        def set_response_params(self, **params: Any) -> None:
            self._answer, self._came, self._interim = None, 0, 0
            super().set_response_params(**params)

        def data_received(self, data: bytes) -> None:
            if self._is_cut:
                return
            super().data_received(data)
            self._came += len(data)
            taken = getattr(self._answer, "total_bytes", 0)  # older versions count none where there is no body
            if self._came > _MOST_BESIDE + taken + taken // 4:
                self._cut()

        def feed_data(self, data: Any, size: int = 0) -> None:
            if self._is_cut:
                return
            if 100 <= data[0].code < 200 and data[0].code != 101:
                self._interim += 1
                if self._interim > _MOST_INTERIM:
                    self._cut()
                    return
            elif self._answer is None:
                self._answer, self._came = data[1], 0
            super().feed_data(data, size)

        def _cut(self) -> None:
            self._is_cut, error = True, EndlessAnswer()
            self.set_exception(error)
            if self._answer is not None and not self._answer.is_eof():
                self._answer.set_exception(error)
            self._payload = None  # else it would be told that the connection was lost
            if self.transport is not None:
                self.transport.abort()

    made: Any = aiohttp.TCPConnector()
    made._factory = partial(Handler, loop=asyncio.get_running_loop())
    return made
