"""A model service whose every byte a test decides, in the test's own event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

ACCEPTANCE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Talk:
    """One connection."""

    number: int
    """1 for the first connection of the server."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> str:
        """Read the head of the next request."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def request(self) -> tuple[str, bytes]:
        """Read the next request: its head and its body."""
        head = await self.head()
        return head, await self.reader.readexactly(content_length(head))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


def content_length(head: str) -> int:
    length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
    return int(length[1]) if length else 0


@asynccontextmanager
async def talking_server(script: Callable[[Talk], Awaitable[None]]) -> AsyncIterator[str]:
    """Run *script* for each connection, which is closed after it. Yields the server's URL."""
    talks: set[asyncio.Task[None]] = set()
    count = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(Talk(count, reader, writer))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


class Pieces:
    """A body as it comes from Blob Storage: pieces of 4 MiB, in slices."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = self._size_bytes
        while left_bytes:
            for _ in range(min(16, -(-left_bytes // 262_144))):
                yield bytes(min(262_144, left_bytes))
                left_bytes -= min(262_144, left_bytes)
            await asyncio.sleep(0)
