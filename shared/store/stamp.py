"""What each step that changes something carries."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypedDict

Clock = Callable[[], int]
"""Unix time in ms; for tests. Without one, the Redis server's own clock counts, which all processes share."""
_OPERATION_BITS: Final = 52
"""Lua's numbers hold no more."""


class Stamp(TypedDict):
    now: int
    """0: the Redis server's clock."""
    op: int
    """Drawn once per step. If the client repeats a call whose reply was lost, the script finds the number in the
    record and knows that the step was taken."""


def stamp(now_ms: Clock | None) -> Stamp:
    return {"now": now_of(now_ms), "op": random.getrandbits(_OPERATION_BITS)}


def now_of(now_ms: Clock | None) -> int:
    return now_ms() if now_ms else 0


def seed() -> int:
    """For a script that draws jitter."""
    return random.getrandbits(31)
