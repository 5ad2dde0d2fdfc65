"""What the random interleavings of schedules (test_schedule_state_machine.py) go by: when a schedule is due, found by
walking through the minutes; and what goes wrong between the app and Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from shared.store import RedisLink, StoreUnavailable
from shared.tasks.schedules import Name

MINUTE_MS = 60_000
LONGEST = timedelta(days=2)

Mishap = Literal["repeated", "request lost", "answer lost"] | None


@cache
def due_times(cron: str, zone: str, start_ms: int) -> Sequence[int]:
    """The due times of the expression in the two days from a moment on, by the rules of Debian's cron."""
    place, found = ZoneInfo(zone), list[int]()
    first = start_ms - start_ms % MINUTE_MS
    for time_ms in range(first, first + round(LONGEST.total_seconds() * 1000), MINUTE_MS):
        at = datetime.fromtimestamp(time_ms / 1000, place)
        before = datetime.fromtimestamp(time_ms / 1000 - 60, place)
        if cron.startswith("*/"):
            is_due = at.minute % int(cron.split()[0][2:]) == 0
        else:
            is_left_out = (before.hour, before.minute) < (2, 30) < (at.hour, at.minute) and before.hour == 1
            is_due = ((at.hour, at.minute) == (2, 30) and not at.fold) or is_left_out
        if is_due:
            found.append(time_ms)
    return found


class Made(NamedTuple):
    """What a task was made for."""

    name: Name
    life: int
    due_ms: int
    """0: somebody has asked for it."""
    key: str = ""


class Waits(NamedTuple):
    """What a queue that takes no task keeps from being started."""

    due_ms: int
    next_ms: int
    """The time behind it; 0: none."""


class MishapLink(RedisLink):
    """Causes one mishap, after so many steps; and from a death on, no step is taken."""

    mishap: Mishap = None
    after = 0
    dies_after: int | None = None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        return await self._step(lambda: super(MishapLink, self).script(name, tag, *args))

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return await self._step(lambda: super(MishapLink, self).combined(name, *args))

    async def _step(self, take: Any) -> Any:
        if self.dies_after is not None:
            if not self.dies_after:
                raise StoreUnavailable("the process is dead")
            self.dies_after -= 1
        mishap, self.after = (None, self.after - 1) if self.after else (self.mishap, 0)
        if mishap is not None:
            self.mishap = None
        if mishap == "request lost":
            raise StoreUnavailable(mishap)
        if mishap == "repeated":
            await take()
        reply = await take()
        if mishap == "answer lost":
            raise StoreUnavailable(mishap)
        return reply


@dataclass
class Known:
    """What the model knows of a schedule."""

    life: int = 0
    """Which schedule of the name it is: a deleted one is forgotten."""
    generations: dict[str, set[int]] = field(default_factory=dict)
    """Its definitions, each with those of the times whose tasks are known."""
    active: set[int] = field(default_factory=set)
    """All times at which it may have been due."""
    latest_ms: int = 0
    """The latest time that it was due for."""
    has_body: bool = True
    body: bytes = b""
    is_paused: bool = False
