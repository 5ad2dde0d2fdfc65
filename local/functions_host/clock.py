"""The clock for timers: the machine's time, or a time that a test moves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The time in UTC."""
        ...

    async def sleep(self, delay_s: float) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


@dataclass(eq=False, slots=True)
class _Sleeper:
    until: datetime
    task: "asyncio.Task[Any]"
    woken: asyncio.Event


class ManualClock:
    """A clock that stands still until a test moves it. Its sleepers wake in order, one at a time."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._sleepers: list[_Sleeper] = []
        self._changed = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    async def sleep(self, delay_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        sleeper = _Sleeper(self._now + timedelta(seconds=max(0.0, delay_s)), task, asyncio.Event())
        self._sleepers.append(sleeper)
        self._changed.set()
        try:
            await sleeper.woken.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def jump(self, delta: timedelta) -> None:
        """Moves the time without waking a sleeper, as when a machine was suspended or a function ran long."""
        self._now += delta

    async def advance(self, delta: timedelta) -> None:
        """Moves the time on. Returns when each sleeper whose time came has ended or sleeps again."""
        end = self._now + delta
        while due := [sleeper for sleeper in self._sleepers if sleeper.until <= end]:
            sleeper = min(due, key=lambda each: each.until)
            self._now = max(self._now, sleeper.until)
            self._sleepers.remove(sleeper)
            sleeper.task.add_done_callback(lambda _: self._changed.set())
            sleeper.woken.set()
            await self._until(
                lambda task=sleeper.task: task.done() or any(each.task is task for each in self._sleepers)
            )
        self._now = max(self._now, end)

    async def until_asleep(self, count: int) -> None:
        """Returns when `count` tasks sleep on this clock."""
        await self._until(lambda: len(self._sleepers) >= count)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()
