"""Serves a development host on a port, and speaks to it byte by byte."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from local.functions_host import FunctionsHost
from local.functions_host.__main__ import HostServer, listen
from tests.waiting import PATIENCE_S

HOST = b"Host: localhost\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    """In lower case, as they came."""
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class _Received(io.BytesIO):
    """Answers in a row, of which `HTTPResponse` takes one after another."""

    def makefile(self, *_: object) -> _Received:
        return self

    def close(self) -> None:
        """Not after one answer."""


@dataclass(frozen=True, slots=True)
class Wire:
    port: int

    async def say(self, request_line: str, headers: bytes = HOST, body: bytes = b"") -> Answer:
        """Sends one request as it is written, and reads until the host closes the connection.

        Parameters:
            request_line: without the version.
            headers: their lines, each with its end.
        """
        head = request_line.encode("latin-1") + b" HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n"
        [answer] = await self.say_in_a_row(head + body, methods=[request_line.partition(" ")[0]])
        return answer

    async def say_in_a_row(
        self, requests: bytes, *, methods: Sequence[str] = ("GET",), when_asked: bytes = b""
    ) -> list[Answer]:
        """Sends requests in one piece, of which the last one closes the connection.

        Parameters:
            methods: those of the requests that are to be answered.
            when_asked: sent when the host has answered `Expect: 100-continue`.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(requests)
        async with asyncio.timeout(PATIENCE_S):
            if when_asked:
                assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
                writer.write(when_asked)
            received = _Received(await reader.read())
        writer.close()
        return [_next_answer(received, method) for method in methods]


def _next_answer(received: _Received, method: str) -> Answer:
    response = http.client.HTTPResponse(cast(Any, received), method=method)
    response.begin()
    headers = [(name.lower(), value) for name, value in response.getheaders()]
    return Answer(response.status, headers, response.read())


class _Server(HostServer):
    def __init__(self, host: FunctionsHost) -> None:
        super().__init__(host)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@asynccontextmanager
async def on_the_wire(host: FunctionsHost) -> AsyncIterator[Wire]:
    with listen(0) as listener:
        server = _Server(host)
        serving = asyncio.create_task(server.serve([listener]))
        await server.is_up.wait()
        try:
            yield Wire(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving
