"""The limits of the host: host.json's two limits on HTTP requests, and its own limit on the bytes that it buffers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

from local.functions_host.errors import HostError

_UNLIMITED = -1


class TooBusy(Exception):
    """Raised when the host has to answer a request with 429."""


class Throttle:
    """Admits requests to HTTP functions.

    Parameters:
        outstanding: how many requests may be in the host, queued ones included.
        concurrent: how many of these may run. The others are queued, with their bodies unread.
    """

    def __init__(self, outstanding: int = _UNLIMITED, concurrent: int = _UNLIMITED) -> None:
        self._outstanding = outstanding
        self._admitted = 0
        self._running = asyncio.Semaphore(concurrent) if concurrent != _UNLIMITED else None

    @classmethod
    def from_host_json(cls, host_json: Mapping[str, Any]) -> Self:
        http = host_json.get("extensions", {}).get("http", {})
        return cls(_limit(http, "maxOutstandingRequests"), _limit(http, "maxConcurrentRequests"))

    @asynccontextmanager
    async def admit(self) -> AsyncGenerator[None]:
        """Waits until the request may run. Raises `TooBusy` if too many requests are outstanding."""
        if self._admitted == self._outstanding:
            raise TooBusy
        self._admitted += 1
        try:
            if self._running is None:
                yield
            else:
                async with self._running:
                    yield
        finally:
            self._admitted -= 1


class Buffer:
    """Counts the bytes of the bodies that the host holds."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes

    def take(self, size_bytes: int) -> None:
        """Takes room for so many bytes. Raises `TooBusy` if there is none."""
        if size_bytes > self._free_bytes:
            raise TooBusy
        self._free_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self._free_bytes += size_bytes


def _limit(http: Mapping[str, Any], name: str) -> int:
    value = http.get(name, _UNLIMITED)
    if type(value) is not int or (value != _UNLIMITED and value < 1):
        raise HostError(f"host.json: extensions.http.{name} is {value!r}, which is neither positive nor -1.")
    return value
