"""HTTP load through persistent connections, each with one request in flight; it costs little beside the server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from bench.plausibility import require

_SLACK = 1.02


@dataclass(slots=True)
class Load:
    """The answers within the time."""

    seconds: float = 0
    client_cpu_s: float = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.seconds

    def require(self, status: int) -> None:
        """
        Raises:
            AssertionError: there were other answers, too.
        """
        if set(self.statuses) != {status}:
            raise AssertionError(f"not all answers were {status}: {dict(self.statuses)}")

    def require_plausible(self, connections: int) -> None:
        """
        Raises:
            ImplausibleFigure: there were more answers than the connections can have received, one after the other.
        """
        require(bool(self.latencies_s), f"no request was answered within {self.seconds:g} s")
        waited_s, had_s = sum(self.latencies_s), connections * self.seconds
        require(
            waited_s <= had_s * _SLACK,
            f"{self.rate:,.0f} requests a second: {connections} connections waited for {waited_s:,.3f} s in all, "
            f"within {had_s:,.3f} s",
        )


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    head = [
        f"{method} {target} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body or method == "POST":
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def hammer(url: str, next_request: Callable[[], bytes], *, connections: int, seconds: float) -> Load:
    """Send requests for some seconds."""
    return asyncio.run(_hammer(url, next_request, connections, seconds))


async def _hammer(url: str, next_request: Callable[[], bytes], connections: int, seconds: float) -> Load:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    load = Load()
    cpu_s, started_s = time.process_time(), time.perf_counter()
    until_s = started_s + seconds
    assert address.hostname
    assert address.port
    clients = [_Client(load, next_request, until_s) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, address.hostname, address.port)
    await asyncio.gather(*(client.done for client in clients))
    load.seconds, load.client_cpu_s = seconds, time.process_time() - cpu_s
    return load


class _Client(asyncio.Protocol):
    def __init__(self, load: Load, next_request: Callable[[], bytes], until_s: float) -> None:
        self._load = load
        self._next_request = next_request
        self._until_s = until_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        at_s = time.perf_counter()
        if at_s > self._until_s:  # a late answer does not count, but must be awaited
            self.done.set_result(None)
            self._transport.close()
            return
        self._load.latencies_s.append(at_s - self._sent_s)
        self._load.statuses[self._parser.get_status_code()] += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent_s = time.perf_counter()
        self._transport.write(self._next_request())
