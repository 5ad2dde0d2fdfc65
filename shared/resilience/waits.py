"""The requests of a process that wait for a change, as many as it may hold at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Wait:
    """One request's wait.

    Attributes:
        number: in the order in which the waits of a process began.
        is_cut: whether it had to make room for another one before its time was up.
    """

    def __init__(self, client: str, number: int, timeout: asyncio.Timeout) -> None:
        self.client = client
        self.number = number
        self.is_cut = False
        self._timeout = timeout

    def cut(self) -> None:
        if not self._timeout.expired():
            self.is_cut = True
            self._timeout.reschedule(asyncio.get_running_loop().time())


class Waits:
    """All waits of a process. A new one always has room: if there are *most*, the client that has the most of them
    loses its oldest. Nobody tells the app that a caller has gone, and the oldest is the likeliest to wait for nobody.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._begun = 0
        self._by_client: defaultdict[str, dict[Wait, None]] = defaultdict(dict)
        """Each client's, the oldest first."""

    @asynccontextmanager
    async def hold(self, client: str, seconds: float) -> AsyncGenerator[Wait]:
        """Wait within it: it ends its body, without an error, when the *seconds* are over or the wait is cut."""
        while self._count >= self._most:
            self._remove_oldest()
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                wait = Wait(client, self._begun, timeout)
                self._by_client[client][wait] = None
                self._count += 1
                self._begun += 1
                try:
                    yield wait
                finally:
                    self._remove(wait)
        except TimeoutError:
            if not timeout.expired():
                raise

    def _remove_oldest(self) -> None:
        oldest = max(
            (next(iter(waits)) for waits in self._by_client.values()),
            key=lambda wait: (len(self._by_client[wait.client]), -wait.number),
        )
        self._remove(oldest)
        oldest.cut()

    def _remove(self, wait: Wait) -> None:
        waits = self._by_client.get(wait.client, {})
        if wait not in waits:
            return
        del waits[wait]
        self._count -= 1
        if not waits:
            del self._by_client[wait.client]
