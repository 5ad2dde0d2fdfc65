"""How the scripts of queues take settings, and how much one owner may have."""

from __future__ import annotations

from shared.rate import Rate
from shared.store.arguments import HoldingArgument, RefusingArgument
from shared.store.policy import StorePolicy
from shared.tasks.owner_bounds import OwnerBounds


def holding(bounds: OwnerBounds | None) -> HoldingArgument:
    """How many slots an owner's entries may hold; see ``lua/includes/queue/owner_bound.lua``."""
    if bounds is None or bounds.in_flight is None:
        return {}
    return {"bound": -bounds.in_flight if bounds.is_hard else bounds.in_flight}


def refusing(policy: StorePolicy, bounds: OwnerBounds | None) -> RefusingArgument:
    """When a queue refuses a new entry."""
    argument: RefusingArgument = {}
    if policy.max_backlog is not None:
        argument["backlog"] = policy.max_backlog
    if bounds is not None and bounds.waiting is not None:
        argument["own"] = bounds.waiting
    return argument


def packed_setting(name: str, changed: int | bool | Rate | None) -> int | bool | tuple[int, int]:
    """An operator's setting of a queue; false resets it."""
    if isinstance(changed, Rate):
        return changed.packed[:2]
    if name == "burst" and changed is not None:
        return int(changed)  # evenly is a setting too
    return changed or False
