"""What the replies of the scripts on queues mean."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from shared.store.queue_status import position_of
from shared.tasks.outcomes import Draining, Enqueued, Full, Granted, SlotGrant


def enqueued_of(path: str, reply: list[Any]) -> Enqueued | Full | Draining:
    if reply[0] == b"full":
        return Full(_seconds(reply[1]), is_owners=len(reply) > 2)
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
