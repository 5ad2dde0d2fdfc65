"""A simulated network: a TCP proxy on the loopback interface that delays each byte, each way.

    python -m bench.delay_proxy --to 6379 --one-way-ms 1

It is a delay line: data leaves a fixed time after its arrival, in order, whatever the amount in flight. It also
counts *turnarounds*: how often a client sent something after an answer, or for the first time on a connection. That
is the number of round trips that the clients waited for; requests that are sent together, or before an answer
arrives, count as one.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Self, cast

_TIMER_SLACK_S = 50e-6


class _Line:
    """Passes everything that is sent to *deliver* after the delay, in order; None stands for the end."""

    def __init__(self, proxy: DelayProxy, loop: asyncio.AbstractEventLoop, deliver: Callable[[bytes | None], None]):
        self._proxy, self._loop, self._deliver = proxy, loop, deliver
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, data: bytes | None) -> None:
        self._waiting.append((self._loop.time() + self._proxy.one_way_s, data))
        if self._timer is None:
            self._timer = self._loop.call_at(self._waiting[0][0], self._ripe)

    def _ripe(self) -> None:
        now_s = self._loop.time() + _TIMER_SLACK_S
        chunks: list[bytes] = []
        ended = False
        while self._waiting and self._waiting[0][0] <= now_s:
            chunk = self._waiting.popleft()[1]
            if chunk is None:
                ended = True
            else:
                chunks.append(chunk)
        self._timer = self._loop.call_at(self._waiting[0][0], self._ripe) if self._waiting else None
        if chunks:
            self._deliver(b"".join(chunks))
        if ended:
            self._deliver(None)


class _End(asyncio.Protocol):
    """One end of a connection: sends the data that it reads through the line to the other end."""

    def __init__(self, proxy: DelayProxy) -> None:
        self._proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.line: _Line | None = None
        self.other: _End | None = None
        self._early: list[bytes | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._proxy.transports.add(self.transport)

    def data_received(self, data: bytes) -> None:
        self._send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.transports.discard(cast("asyncio.Transport", self.transport))
        self._send(None)

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.resume_reading()

    def leads_to(self, line: _Line, other: _End) -> None:
        self.line, self.other = line, other
        for data in self._early:
            line.send(data)
        self._early.clear()

    def deliver(self, data: bytes | None) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if data is None:
            self.transport.close()
        else:
            self.transport.write(data)

    def _send(self, data: bytes | None) -> None:
        if self.line is None:
            self._early.append(data)
        else:
            self.line.send(data)


class _ClientEnd(_End):
    def __init__(self, proxy: DelayProxy) -> None:
        super().__init__(proxy)
        self._may_begin = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._proxy.connect(self)

    def data_received(self, data: bytes) -> None:
        if self._may_begin:
            self._may_begin = False
            self._proxy.turnarounds += 1
        super().data_received(data)

    def deliver(self, data: bytes | None) -> None:
        self._may_begin = self._may_begin or data is not None
        super().deliver(data)


class DelayProxy:
    """Within its context, listens on `port` in a thread of its own and relays everything to `to_port`.

    `turnarounds` is never reset.
    """

    def __init__(self, to_port: int, *, one_way_s: float, port: int = 0) -> None:
        self.turnarounds = 0
        self.port = port
        self.transports: set[asyncio.Transport] = set()
        self.one_way_s = one_way_s
        self._to_port = to_port
        # epoll counts in whole milliseconds and would make 1 ms nearly 2; select does not.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="delay proxy", daemon=True)
        self._connecting: set[asyncio.Task[None]] = set()

    def connect(self, client: _ClientEnd) -> None:
        task = self._loop.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: _ClientEnd) -> None:
        try:
            _, server = await self._loop.create_connection(lambda: _End(self), "127.0.0.1", self._to_port)
        except OSError:
            client.deliver(None)
            return
        client.leads_to(_Line(self, self._loop, server.deliver), server)
        server.leads_to(_Line(self, self._loop, client.deliver), client)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _ClientEnd(self), "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        self._server.close()
        for task in self._connecting:
            task.cancel()
        while self.transports or self._connecting:
            for transport in list(self.transports):
                transport.abort()
            await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.delay_proxy", description="A simulated network in front of a server."
    )
    parser.add_argument("--to", type=int, required=True, help="the server's port on this machine")
    parser.add_argument("--port", type=int, default=0, help="to listen on; 0 takes a free one")
    parser.add_argument("--one-way-ms", type=float, default=1.0)
    options = parser.parse_args()
    with DelayProxy(options.to, one_way_s=options.one_way_ms / 1000, port=options.port) as proxy:
        print(f"READY http://127.0.0.1:{proxy.port}", flush=True)
        printed = -1
        while True:
            time.sleep(1)
            if proxy.turnarounds != printed:
                printed = proxy.turnarounds
                print(f"{printed} turnarounds", flush=True)


if __name__ == "__main__":
    main()
