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
        self._ask_at_s: dict[str, float] = {}
        self._forget_at_s: dict[str, float] = {}

    async def admit(self, *endpoints: Endpoint) -> None:
        """Take endpoints, to which tasks are to go, among those of their backends.

        Raises:
            TooManyEndpoints: one of the backends has as many as it may.
        """
        for endpoint in endpoints:
            # An operator has chosen how many these are.
            if endpoint.backend.endpoints is None and endpoint.path != endpoint.backend.prefix:
                await self._admit(endpoint.backend.prefix, endpoint.path)

    async def _admit(self, prefix: str, path: str) -> None:
        now_s = time.monotonic()
        if now_s < self._ask_at_s.get(path, 0):
            return
        try:
            if not await self._names.admit(prefix, path, MOST_ENDPOINTS):
                await self._make_room(prefix, path, now_s)
        except StoreUnavailable as error:
            # On a cluster the task's own node may answer, and a bound is no reason to refuse it.
            log.warning("the endpoints of a backend could not be counted: %s", error)
            return
        if len(self._ask_at_s) >= _MOST_KNOWN:
            self._ask_at_s.clear()
        self._ask_at_s[path] = now_s + _ASK_AGAIN_S

    async def _make_room(self, prefix: str, path: str, now_s: float) -> None:
        if now_s >= self._forget_at_s.get(prefix, 0):
            self._forget_at_s[prefix] = now_s + _FORGET_AGAIN_S
            await self._names.forget_unused(prefix)
            if await self._names.admit(prefix, path, MOST_ENDPOINTS):
                return
        raise TooManyEndpoints(f"the backend has tasks at {MOST_ENDPOINTS:,} endpoints, and {path} is none of them")
