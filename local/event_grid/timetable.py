"""The deliveries that are due later."""

import asyncio
import heapq
from collections.abc import Callable

from local.event_grid.clock import Clock
from local.event_grid.journal import Delivery


class Timetable:
    """Keeps deliveries until their `due_at_s`, then passes them to `on_due`; sleeps until the first is due."""

    def __init__(self, clock: Clock, on_due: Callable[[Delivery], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._entries: list[tuple[float, int, Delivery]] = []
        self._alarm: asyncio.Task[None] | None = None

    def add(self, delivery: Delivery) -> None:
        heapq.heappush(self._entries, (delivery.due_at_s, delivery.number, delivery))
        if self._entries[0][2] is delivery:
            self._set_alarm()

    def release(self) -> None:
        """Passes on the deliveries that are due now."""
        now_s = self._clock.now()
        while self._entries and self._entries[0][0] <= now_s:
            self._on_due(heapq.heappop(self._entries)[2])

    def discard(self, subscription: str) -> None:
        """Drops the deliveries to `subscription`."""
        self._entries = [entry for entry in self._entries if entry[2].subscription != subscription]
        heapq.heapify(self._entries)

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _set_alarm(self) -> None:
        self.stop()
        self._alarm = asyncio.create_task(self._ring())

    async def _ring(self) -> None:
        while self._entries:
            await self._clock.sleep_until(self._entries[0][0])
            self.release()
