"""Whether Redis makes room by deleting tasks when it is full."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Literal, Protocol

log = logging.getLogger("task_backbone")

ASKED_AGAIN_S: Final = 60.0
"""The policy is a setting that somebody changes once, so it is not asked at each look at health."""
_NONE: Final = "noeviction"

EvictionState = Literal["ok", "unsafe", "unknown"]


class Servers(Protocol):
    """What is asked of the way to Redis."""

    async def eviction_policies(self) -> frozenset[str] | None: ...


class Eviction:
    """The eviction policy of all servers.

    It counts without ``maxmemory`` too: a managed Redis has a bound that it does not tell there.
    """

    def __init__(self, servers: Servers, now_s: Callable[[], float] = time.monotonic) -> None:
        self._servers = servers
        self._now_s = now_s
        self._state: EvictionState = "unknown"
        self._due_s = 0.0

    async def state(self) -> EvictionState:
        """``unsafe``: some server deletes tasks when it is full. ``unknown``: Redis does not say."""
        if self._now_s() < self._due_s:
            return self._state
        policies = await self._servers.eviction_policies()
        state: EvictionState = "unknown" if policies is None else "ok" if policies <= {_NONE} else "unsafe"
        if state == "unsafe" and self._state != state:
            others = ", ".join(sorted((policies or frozenset()) - {_NONE}))
            log.warning("Redis deletes tasks when it is full: its maxmemory-policy is %s, not %s.", others, _NONE)
        self._state, self._due_s = state, self._now_s() + ASKED_AGAIN_S
        return state
