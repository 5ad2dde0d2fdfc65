"""How much of an endpoint one owner may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shared.tasks.value import value


@value
class OwnerBounds:
    """All tasks without an owner count as one owner's.

    Attributes:
        waiting: how many tasks may wait, before new ones are refused; None: any number.
        in_flight: how many tasks the backend is given while others wait that have less there; None: any number.
        is_hard: whether it is given no more than that also if nobody else waits.
    """

    waiting: int | None = None
    in_flight: int | None = None
    is_hard: bool = False


UNBOUNDED: Final = OwnerBounds()

BoundsOf = Callable[[str], OwnerBounds]
"""The bounds of an endpoint path."""
