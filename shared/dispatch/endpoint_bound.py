"""How many endpoints a backend may have that takes any path below its prefix."""

from __future__ import annotations

import logging
import time
from typing import Final

from shared.dispatch.registry import Endpoint, UnknownBackend
from shared.store import EndpointNames, StoreUnavailable

log = logging.getLogger("task_backbone")

MOST_ENDPOINTS: Final = 1_000
_ASK_AGAIN_S: Final = 60.0
_FORGET_AGAIN_S: Final = 30.0
_MOST_KNOWN: Final = 10_000
"""How many endpoints a process remembers to have asked for. Then it begins again."""


class TooManyEndpoints(UnknownBackend):
    """Raised when a path would be one more endpoint of a backend than it may have. The message has no secret."""


class EndpointBound:
    """One per event loop. Most calls cost nothing: a process asks for each endpoint once a minute."""

    def __init__(self, names: EndpointNames) -> None:
        self._names = names
        self._ask_at_s: dict[tuple[str, bool], float] = {}
        self._forget_at_s: dict[str, float] = {}

    async def admit(self, endpoint: Endpoint, *later: Endpoint) -> None:
        """Take endpoints among those of their backends: one to which a task goes now, and those that follow.

        Raises:
            TooManyEndpoints: one of the backends has as many as it may.
        """
        await self._admit(endpoint, later=False)
        await self.admit_later(*later)

    async def admit_later(self, *endpoints: Endpoint) -> None:
        """Take endpoints to which a task goes only after something else.

        Raises:
            TooManyEndpoints: one of the backends has as many as it may.
        """
        for endpoint in endpoints:
            await self._admit(endpoint, later=True)

    async def _admit(self, endpoint: Endpoint, *, later: bool) -> None:
        # An operator has chosen how many endpoints there are in a list.
        if endpoint.backend.endpoints is not None or endpoint.path == endpoint.backend.prefix:
            return
        now_s, asked = time.monotonic(), (endpoint.path, later)
        if now_s < self._ask_at_s.get(asked, 0):
            return
        try:
            if not await self._is_taken(endpoint, later=later):
                await self._make_room(endpoint, now_s, later=later)
        except StoreUnavailable as error:
            # On a cluster the task's own node may answer, and a bound is no reason to refuse it.
            log.warning("the endpoints of a backend could not be counted: %s", error)
            return
        if len(self._ask_at_s) >= _MOST_KNOWN:
            self._ask_at_s.clear()
        self._ask_at_s[asked] = now_s + _ASK_AGAIN_S

    async def _make_room(self, endpoint: Endpoint, now_s: float, *, later: bool) -> None:
        prefix = endpoint.backend.prefix
        if now_s >= self._forget_at_s.get(prefix, 0):
            self._forget_at_s[prefix] = now_s + _FORGET_AGAIN_S
            await self._names.forget_unused(prefix)
            if await self._is_taken(endpoint, later=later):
                return
        raise TooManyEndpoints(
            f"the backend has tasks at {MOST_ENDPOINTS:,} endpoints, and {endpoint.path} is none of them"
        )

    async def _is_taken(self, endpoint: Endpoint, *, later: bool) -> bool:
        return await self._names.admit(endpoint.backend.prefix, endpoint.path, MOST_ENDPOINTS, later=later)
