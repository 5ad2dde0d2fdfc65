"""HTTP as ``urllib`` opens it, but with answers that end: one that does not must not hold up the service."""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.request import HTTPHandler, HTTPSHandler

_MOST_BYTES = 16 * 1024 * 1024
"""Of a body: the backbone's documents are much smaller."""
_MOST_BESIDE = 1024 * 1024
"""Of the head, and of the sizes and extensions of chunks."""
_MOST_INTERIM = 8
_CHUNK_BYTES = 64 * 1024


class EndlessAnswer(ConnectionError):
    """A server keeps sending what is no answer, or no part of it, or more than anybody needs."""


class BoundedResponse(HTTPResponse):
    """Its head has the time that the socket's timeout gives to each read, and so has its body."""

    def __init__(self, sock: Any, *rest: Any, **options: Any) -> None:
        self._interim = 0
        self._wire = _Wire(sock)  # type: Any
        super().__init__(self._wire, *rest, **options)

    def _read_status(self) -> Any:
        base = super()  # type: Any
        found = base._read_status()
        self._interim += 100 <= found[1] < 200
        if self._interim > _MOST_INTERIM:
            raise EndlessAnswer("the answer does not end")
        return found

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:  # such as 103, which http.client takes for the answer
            fields = self  # type: Any
            fields.headers = fields.msg = None
            super().begin()

    def whole(self) -> bytes:
        """The body. Raises EndlessAnswer, and what ``http.client`` raises."""
        self._wire.begin()
        body = bytearray()
        while True:
            chunk = self.read1(_CHUNK_BYTES)
            if not chunk:
                return bytes(body)
            body += chunk
            self._wire.taken(len(chunk))
            if len(body) > _MOST_BYTES:
                raise EndlessAnswer("the answer is too large")


class _Wire(io.RawIOBase):
    """The bytes of an answer as they come."""

    def __init__(self, sock: Any) -> None:
        self._raw = sock.makefile("rb", 0)
        self._timeout_s = sock.gettimeout()
        self._left = _MOST_BESIDE
        self.begin()

    def begin(self) -> None:
        """The time begins anew."""
        self._end_s = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s

    def taken(self, size: int) -> None:
        """So many bytes of a body have come."""
        self._left += size + size // 4

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise EndlessAnswer("the answer does not end")
        if time.monotonic() > self._end_s:
            raise socket.timeout("the answer comes too slowly")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection(HTTPConnection):
    response_class = BoundedResponse


class _SecureConnection(HTTPSConnection):
    response_class = BoundedResponse


class BoundedHandler(HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_Connection, req)


class SecureBoundedHandler(HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        handler = self  # type: Any
        return self.do_open(_SecureConnection, req, context=handler._context)
