"""How the scripts of queues take settings, and how much one owner may have."""

from __future__ import annotations

from typing import NamedTuple, Self

from shared.rate import Rate
from shared.store.arguments import EnqueueArgument, GrantingArgument, RefusingArgument
from shared.store.policy import StorePolicy
from shared.store.redis.partitions import pack, to_ms
from shared.tasks.owner_bounds import OwnerBounds


class Configured(NamedTuple):
    """What scripts take of an endpoint's settings, which stay the same for as long as the process lives."""

    granting: GrantingArgument
    refusing: RefusingArgument
    """When its queue refuses a new entry."""
    enqueue: bytes
    """The queue's part of the script that creates a task and enqueues it, which takes the rest from the record."""

    @classmethod
    def of(cls, policy: StorePolicy, limit: int | None, rate: Rate | None, bounds: OwnerBounds) -> Self:
        granting: GrantingArgument = {"cap": limit or False, "claim": to_ms(policy.slot_claim_s)}
        if rate is not None:
            granting["rate"] = rate.packed
        if bounds.in_flight is not None:  # as lua/includes/queue/owner_bound.lua has it
            granting["bound"] = -bounds.in_flight if bounds.is_hard else bounds.in_flight
        refusing: RefusingArgument = {}
        if policy.max_backlog is not None:
            refusing["backlog"] = policy.max_backlog
        if bounds.waiting is not None:
            refusing["own"] = bounds.waiting
        enqueue: EnqueueArgument = {"now": 0, **granting, **refusing}
        return cls(granting, refusing, pack(enqueue))


def packed_setting(name: str, changed: int | bool | Rate | None) -> int | bool | tuple[int, int]:
    """An operator's setting of a queue; false resets it."""
    if isinstance(changed, Rate):
        return changed.packed[:2]
    if name == "burst" and changed is not None:
        return int(changed)  # evenly is a setting too
    return changed or False
