"""Mends what does not fit together in Redis: after its clock was set back, after keys were lost, and where somebody
else wrote into the app's keys. What the records say is right."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from shared.store.arguments import Clock, MendArgument, now_of
from shared.store.policy import StorePolicy
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, pack, to_ms

log = logging.getLogger("task_backbone")

_PAUSE_S: Final = 60.0
"""How long a process waits at least between two times that it mends as a step failed: it looks through all keys."""
_SET_BACK: Final = 1
_AT_ONCE: Final = 256
"""How many keys of a partition a script looks at."""


class Mending:
    """One per event loop."""

    def __init__(self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None) -> None:
        self._link = link
        self._policy = policy
        self._now_ms = now_ms
        self._not_before_s = 0.0

    async def tend(self) -> None:
        """Mend all keys if a partition's clock was set back, or if its deadlines are lost. Costs little otherwise.

        Partitions whose node does not answer are left for later.
        """
        found = await asyncio.gather(*(self._watch(tag) for tag in HASH_TAGS))
        wanting = [tag for tag, is_wanting in zip(HASH_TAGS, found, strict=True) if is_wanting]
        if not wanting:
            return
        if _SET_BACK in found:
            log.warning("Redis' clock was set back: the deadlines of tasks are set anew")
        else:
            log.info("no deadlines, or none that were seen before, are in %d partitions: records tell", len(wanting))
        await self._mend_all()
        await asyncio.gather(*(self._watch(tag, is_mended=True) for tag in wanting))

    async def after_failures(self) -> None:
        """Mend all keys if a step of this process has met one that cannot be the app's."""
        if not self._link.has_met_foreign_keys or time.monotonic() < self._not_before_s:
            return
        self._not_before_s = time.monotonic() + _PAUSE_S
        self._link.has_met_foreign_keys = False
        removed = await self._mend_all()
        log.warning("a step failed as somebody else wrote into the app's keys; %d of them were removed", removed)

    async def _watch(self, tag: str, *, is_mended: bool = False) -> int:
        try:
            return await self._link.script("task/watch_clock", tag, str(now_of(self._now_ms)), str(int(is_mended)))
        except StoreUnavailable:
            return 0

    async def _mend_all(self) -> int:
        return await self._mend(foreign=True) + await self._mend(foreign=False)

    async def _mend(self, *, foreign: bool) -> int:
        argument: MendArgument = {
            "now": now_of(self._now_ms),
            "retention": to_ms(self._policy.retention_s),
            "foreign": foreign,
        }
        packed, removed = pack(argument), 0
        async for keys in self._link.keys():
            for tag, names in keys.items():
                for begin in range(0, len(names), _AT_ONCE):
                    removed += await self._link.script("task/mend", tag, packed, *names[begin : begin + _AT_ONCE])
        return removed
