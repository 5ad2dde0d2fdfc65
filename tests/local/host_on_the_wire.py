"""Serves a development host on a port, and speaks to it byte by byte."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from local.functions_host import FunctionsHost
from local.functions_host.__main__ import HostServer, listen

HOST = b"Host: localhost\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    """In lower case, as they came."""
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._content)


@dataclass(frozen=True, slots=True)
class Wire:
    port: int

    async def say(self, request_line: str, headers: bytes = HOST, body: bytes = b"") -> Answer:
        """Sends one request as it is written, and reads until the host closes the connection.

        Parameters:
            request_line: without the version.
            headers: their lines, each with its end.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = request_line.encode("latin-1") + b" HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n"
        writer.write(head + body)
        received = await reader.read()
        writer.close()
        response = http.client.HTTPResponse(cast(Any, _Bytes(received)), method=request_line.partition(" ")[0])
        response.begin()
        headers_read = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, headers_read, response.read())


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
