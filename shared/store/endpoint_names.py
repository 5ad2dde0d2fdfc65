"""The endpoints that each backend has, of those backends that take any path below their prefix. Callers choose these
paths, and each costs the timers something while it has tasks."""

from __future__ import annotations

from typing import Final

from shared.store.arguments import AdmitArgument, Clock, EndpointsArgument, now_of
from shared.store.queries import Queries
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import pack, tag_of, texts, to_ms

UNASKED_S: Final = 120.0
"""After so long without a submit, an endpoint without tasks makes room for another one. A process asks again for an
endpoint in use within half that time."""
AHEAD_S: Final = 86_400.0
"""For how long an endpoint is kept to which a task is to go later: until then it has no task that shows it."""


class EndpointNames:
    def __init__(self, link: RedisLink, queries: Queries, now_ms: Clock | None = None) -> None:
        self._link = link
        self._queries = queries
        self._now_ms = now_ms

    async def admit(self, prefix: str, path: str, most: int, *, later: bool = False) -> bool:
        """Take an endpoint among the *most* that its backend may have; False if there is no room.

        Args:
            later: whether the task goes there only after something else.
        """
        argument: AdmitArgument = {
            "now": now_of(self._now_ms),
            "prefix": prefix,
            "path": path,
            "most": most,
            "ahead": to_ms(AHEAD_S) if later else 0,
        }
        return bool(await self._link.script("backend/admit", tag_of(prefix), pack(argument)))

    async def forget_unused(self, prefix: str) -> int:
        """Make room: forget the endpoints that have no tasks and get none, and for which an operator has set nothing.
        Returns how many."""
        argument: EndpointsArgument = {"now": now_of(self._now_ms), "prefix": prefix, "ms": to_ms(UNASKED_S)}
        unasked = texts(await self._link.script("backend/endpoints", tag_of(prefix), pack(argument)))
        # In this order: a task that comes meanwhile has asked first.
        used = await self._queries.paths() | await self._queries.paths_with_settings()
        argument["unused"] = [*unasked - used]
        return await self._link.script("backend/endpoints", tag_of(prefix), pack(argument))
