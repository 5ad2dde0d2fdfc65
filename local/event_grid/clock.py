"""The emulator's time, in seconds since the Unix epoch: real time, faster time, or time moved by hand."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The clock for the retry schedule, the time to live and the dead letters."""

    def now(self) -> float: ...

    async def sleep_until(self, when_s: float) -> None: ...

    def answer_timeout(self, delay_s: float) -> AbstractAsyncContextManager[object]:
        """A block that ends with `TimeoutError` when a subscriber has had `delay_s` to answer.

        Subscribers live in real time, so this is real time too, except under a manual clock.
        """
        ...


class ScaledClock:
    """Runs `scale` times as fast as the wall clock, and starts at the wall clock's time or at a later `start_s`."""

    def __init__(self, scale: float = 1.0, *, start_s: float = 0.0) -> None:
        self._scale = scale
        self._start_s = max(time.time(), start_s)
        self._started_s = time.monotonic()

    def now(self) -> float:
        return self._start_s + (time.monotonic() - self._started_s) * self._scale

    async def sleep_until(self, when_s: float) -> None:
        while (remaining_s := when_s - self.now()) > 0:  # noqa: ASYNC110 - a sleep may end a little early
            await asyncio.sleep(remaining_s / self._scale)

    def answer_timeout(self, delay_s: float) -> asyncio.Timeout:
        return asyncio.timeout(delay_s)


class ManualClock:
    """Stands still until `advance` moves it, so that a day of retries takes a test milliseconds."""

    def __init__(self, start_s: float = 1_767_225_600.0) -> None:
        self._now_s = start_s
        self._alarms: dict[asyncio.Timeout, float] = {}

    def now(self) -> float:
        return self._now_s

    async def sleep_until(self, when_s: float) -> None:
        if when_s > self._now_s:
            with suppress(TimeoutError):
                async with self.answer_timeout(when_s - self._now_s):
                    await asyncio.Event().wait()

    @asynccontextmanager
    async def answer_timeout(self, delay_s: float) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as timeout:
            self._alarms[timeout] = self._now_s + delay_s
            try:
                yield
            finally:
                del self._alarms[timeout]

    def advance(self, seconds: float) -> None:
        """Jumps ahead. Tasks that waited for a moment in between go on in the next rounds of the event loop."""
        self._now_s += seconds
        for timeout, when_s in self._alarms.items():
            if when_s <= self._now_s:
                timeout.reschedule(asyncio.get_running_loop().time())


def to_iso(when_s: float) -> str:
    """Formats the moment as Event Grid does: ISO 8601, UTC, with a Z."""
    return datetime.fromtimestamp(when_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
