"""What the processes of the app agree on for the reconciler: which of them runs its rounds, and whether events still
lead to claims."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from shared.store.arguments import BeginRoundArgument, Clock, now_of
from shared.store.policy import StorePolicy
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, pack, to_ms

log = logging.getLogger("task_backbone")

_TAG: Final = HASH_TAGS[0]


class Rounds:
    """One per event loop.

    Attributes:
        events_are_claimed: whether events lead to claims, as far as this process knows: it asks with each
            :meth:`begin`.
    """

    def __init__(self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None) -> None:
        self._link = link
        self._interval_ms = to_ms(policy.reconciler_interval_s)
        self._now_ms = now_ms
        self._process = secrets.token_hex(8)
        self.events_are_claimed = True

    async def begin(self) -> bool:
        """Begin a round, unless another process has begun one within the interval.

        If the node that knows this does not answer, the round begins: two at once do no harm, and what the other
        nodes of a cluster hold must not wait for this one.
        """
        argument: BeginRoundArgument = {
            "now": now_of(self._now_ms),
            "process": self._process,
            "ms": self._interval_ms,
        }
        try:
            is_mine, is_unclaimed = await self._link.script("reconciler/begin_round", _TAG, pack(argument))
        except StoreUnavailable:
            return True
        self.events_are_claimed = not is_unclaimed
        return bool(is_mine)

    async def note_events(self, *, are_claimed: bool) -> None:
        """An event stayed unclaimed for too long, or one was claimed again. Costs nothing if that is known."""
        if are_claimed is self.events_are_claimed:
            return
        self.events_are_claimed = are_claimed
        try:
            await self._link.script("reconciler/note_events", _TAG, "0" if are_claimed else "1")
        except StoreUnavailable as error:  # a later event is noted
            log.warning("it could not be noted whether events lead to claims: %s", error)
