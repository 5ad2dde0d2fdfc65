"""How a queue stands, as ``lua/queue/status.lua`` tells it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from shared.rate import Rate
from shared.store.outages import Outage
from shared.tasks.outcomes import QueuePosition

_PAUSED: Final = -2
"""In a position, in place of the service time; see ``lua/includes/queue/position.lua``."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How a queue stands."""

    waiting: int
    holding: int
    """How many tasks hold a slot: granted, dispatched or running."""
    slots: int
    """The capacity estimate: how many tasks the backend is known to hold at a time."""
    limit: int | None
    """How many it is given at most."""
    paused: bool
    draining: bool
    position: QueuePosition | None = None
    outage: Outage | None = None
    """Of the backend, if it is away now."""
    is_down: bool = field(default=False, compare=False)
    """Whether the backend is away, or has failed again and again. This and what follows is told without a position
    only."""
    paused_until_ms: int | None = field(default=None, compare=False)
    """Before when nothing is dispatched to a backend that is down. None: one task tries it now, or none waits."""
    is_full: bool = field(default=False, compare=False)
    """Whether tasks wait that the backend takes no slot for at present, as far as is known."""
    mean_ms: int | None = field(default=None, compare=False)
    """How long a slot is held per task that ends, of late. None: none has ended."""
    settings_at_ms: int | None = field(default=None, compare=False)
    """When an operator changed a setting last. None: none is changed, or it is not known."""
    settings_by: str | None = field(default=None, compare=False)
    """Which operator that was. None: it is not known."""
    rate: Rate | None = field(default=None, compare=False)
    """How often a slot is granted at most."""
    rate_wait_ms: int = field(default=0, compare=False)
    """How long until the rate allows the next grant."""

    @classmethod
    def unpacked(cls, reply: list[Any]) -> Self:
        waiting, holding, slots, limit, paused, draining, position, outage, *more = reply
        status = cls(
            waiting,
            holding,
            slots,
            limit if limit >= 0 else None,
            bool(paused),
            bool(draining),
            position_of(position),
            Outage.unpacked(outage) if outage else None,
        )
        if not more:
            return status
        is_down, until_ms, is_full, mean_ms, at_ms, by, rate, rate_wait_ms = more
        return replace(
            status,
            is_down=bool(is_down),
            paused_until_ms=until_ms or None,
            is_full=bool(is_full),
            mean_ms=mean_ms if mean_ms >= 0 else None,
            settings_at_ms=at_ms or None,
            settings_by=by.decode() or None,
            rate=Rate.unpacked(rate) if rate else None,
            rate_wait_ms=rate_wait_ms,
        )


@dataclass(frozen=True, slots=True)
class OwnerShare:
    """What an owner has of a queue."""

    owner: str
    """Empty: of all tasks without one."""
    waiting: int
    holding: int
    """How many of its tasks hold a slot."""


def position_of(reply: list[Any] | None) -> QueuePosition | None:
    if not reply:
        return None
    ahead, slots, mean_ms, *more = reply
    service_s = None if mean_ms < 0 else mean_ms / 1000
    return QueuePosition(ahead, slots, service_s, mean_ms == _PAUSED, more[0] / 1000 if more else 0)
