"""Who wakes for what is due in a partition. Nothing is asked for while nothing is: a process learns from the
reconciler's rounds, or because it has stored something itself, when to look.

A round finds all that is due, too, so what is missed here is late, not lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared.store.redis.partitions import PARTITIONS

_AGAIN_S: Final = 1.0
"""After how long Redis is asked again that did not answer."""


class Following:
    """One per event loop, and kind of what is due.

    Args:
        interval_s: between the reconciler's rounds.

    Attributes:
        wake: has a partition looked at after so many seconds.
    """

    def __init__(self, interval_s: float) -> None:
        self.wake: Callable[[int, float], object] = lambda number, in_s: None
        # By then, a later round of this process or another one has learned of all that follows.
        self._horizon_s = 2 * interval_s + 1
        self._followed_until_s = [0.0] * PARTITIONS

    def learn(self, number: int, in_s: float | None) -> None:
        """This process has found when the next one of a partition is due, if any is. It follows what is due from
        there, until a round has told another process."""
        self._followed_until_s[number] = asyncio.get_running_loop().time() + self._horizon_s
        self._wake(number, in_s)

    def look(self) -> None:
        """Look in all partitions, now: this process has just begun, and may be the first one after an outage."""
        for number in range(PARTITIONS):
            self.wake(number, 0)

    def _go_on(self, number: int, next_in_s: float | None) -> None:
        """Wake for the next one, unless others do. At once if there is more that is due now."""
        if next_in_s == 0 or asyncio.get_running_loop().time() < self._followed_until_s[number]:
            self._wake(number, next_in_s)

    def _look_again(self, number: int) -> None:
        """Redis did not answer."""
        self.wake(number, _AGAIN_S)

    def _wake(self, number: int, in_s: float | None) -> None:
        if in_s is not None and in_s <= self._horizon_s:
            self.wake(number, in_s)
