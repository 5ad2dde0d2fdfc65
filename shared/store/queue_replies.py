"""What the replies of the scripts on queues mean."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from shared.store.outages import Outage
from shared.store.queue_status import position_of
from shared.tasks.outcomes import Draining, Enqueued, Full, Granted, SlotGrant


@dataclass(frozen=True, slots=True)
class Maintained:
    """What the maintenance of a queue found."""

    granted: Granted
    doubtful: list[SlotGrant]
    """Attempts that have held their slot for so long that it is to be checked whether they still need it."""
    unclaimed: list[SlotGrant]
    """The same of attempts whose event was published, if the queue has not heard of a claim."""
    loss: int | None
    """Something of the queue is missing; the number tells this loss from a later one."""
    waiting: int
    """How many entries wait."""
    without_owner: list[SlotGrant]
    """Attempts that hold a slot, and the queue does not know whose they are, though an owner's may hold only so
    many."""


@dataclass(frozen=True, slots=True)
class Away:
    """What a queue concludes from a dispatch that found the backend away.

    Attributes:
        at_ms: the queue's clock; None if the queue could not be asked.
    """

    what: Literal["away", "counts", "misdirected"]
    at_ms: int | None
    granted: Granted
    outage: Outage | None = None


def enqueued_of(path: str, reply: list[Any]) -> Enqueued | Full | Draining:
    if reply[0] == b"full":
        return Full(_seconds(reply[1]), is_owners=b"owner" in reply, is_delayed=b"delayed" in reply)
    if reply[0] == b"draining":
        return Draining()
    return Enqueued(granted_of(path, reply[1:]), position_of(reply[3]))


def granted_of(path: str, reply: list[Any]) -> Granted:
    grants: list[SlotGrant] = []
    for entry in reply[0]:
        with suppress(ValueError):  # one whose name is none was written by somebody else, and loses its slot again
            grants.append(SlotGrant.parse(entry.decode()))
    return Granted(path, grants, _seconds(reply[1]))


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000
