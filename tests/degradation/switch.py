"""A TCP switch: a port that leads to a server, can be switched to another one, or can fall silent."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

from tests.waiting import PATIENCE_S


class Switch:
    """Relays each connection to the server that is its target at the time of the connection.

    It runs in a thread of its own, so it serves blocking and asynchronous clients; its methods take effect at once.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.accepted = 0
        """The number of connections so far."""
        self._reply_bytes: int | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="switch", daemon=True)

    def silence(self, after_bytes: int = 0) -> None:
        """Go on accepting connections, but relay at most *after_bytes* of one more reply on each, and then nothing.

        A connection that fell silent stays silent after `flow`, until it is cut.
        """
        self._reply_bytes = after_bytes

    def flow(self) -> None:
        self._reply_bytes = None

    def cut(self) -> None:
        """Cut all current connections."""
        self._run(self._cut())

    async def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = asyncio.ensure_future(self._relay(reader, writer))
        self._connections.add(connection)
        with suppress(asyncio.CancelledError, OSError):
            await connection
        self._connections.discard(connection)
        writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target_port)
        silent = False

        async def replies() -> None:
            nonlocal silent
            while data := await from_server.read(2**16):
                if self._reply_bytes is not None and not silent:
                    silent = True
                    writer.write(data[: self._reply_bytes])
                elif not silent:
                    writer.write(data)
            if not silent:
                writer.transport.abort()

        replying = asyncio.ensure_future(replies())
        try:
            while data := await reader.read(2**16):
                to_server.write(data)
                await to_server.drain()
        finally:
            replying.cancel()
            await asyncio.gather(replying, return_exceptions=True)
            to_server.transport.abort()

    def _run(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
