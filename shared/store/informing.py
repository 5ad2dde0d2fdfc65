"""Informing a queue of a change that was already stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from shared.store.redis.link import StoreUnavailable
from shared.tasks.outcomes import Granted

log = logging.getLogger("task_backbone")


async def informed(change: Awaitable[Granted], path: str) -> Granted:
    """What a change of the queue at *path* grants. If the queue cannot be reached, its maintenance finds the
    change."""
    try:
        return await change
    except StoreUnavailable as error:
        log.warning("a queue could not be informed of a change, and will be checked: %s", error)
        return Granted(path, [])
