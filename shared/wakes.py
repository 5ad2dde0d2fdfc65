"""Timers of a process, for work that is due at moments that Redis knows. They cost nothing meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

TICKS_PER_S: Final = 10
"""Moments of the same tick share a timer: however many there are, a process wakes no more often. A timer is never
early, and late by a tick at most."""

Work = Callable[[], Coroutine[Any, Any, None]]


class Wakes:
    """One per event loop. Whoever sets a timer must bear its loss: the process may end before.

    Args:
        run: runs the work beside all else, whatever becomes of it.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._run = run
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._due: dict[int, dict[str, Work]] = {}

    def after(self, seconds: float, name: str, work: Work) -> None:
        """Have *work* done after so many seconds, or at once if they are none. Once for all that is due by the same
        *name* at about the same time."""
        loop = asyncio.get_running_loop()
        tick = math.ceil((loop.time() + max(0.0, seconds)) * TICKS_PER_S)
        if tick not in self._due:
            self._due[tick] = {}
            self._timers[tick] = loop.call_at(tick / TICKS_PER_S, self._wake, tick)
        self._due[tick][name] = work

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._due.clear()

    def _wake(self, tick: int) -> None:
        del self._timers[tick]
        for work in self._due.pop(tick).values():
            self._run(work())
