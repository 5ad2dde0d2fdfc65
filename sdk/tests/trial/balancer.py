"""A balancer of TCP connections, as stands before the pods of a cluster."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from contextlib import suppress


class Balancer:
    """Listens on a port, and passes each connection on to the next of the *pods* that takes one."""

    def __init__(self, port: int, pods: Sequence[int]) -> None:
        self._port = port
        self._pods = pods
        self._turns = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._listening = threading.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", self._port))
        self._listening.set()
        self._loop.run_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = next(self._turns)
        for offset in range(len(self._pods)):
            pod = self._pods[(turn + offset) % len(self._pods)]
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", pod)
                await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))
                return
        writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    def __enter__(self) -> Balancer:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
