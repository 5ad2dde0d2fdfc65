"""Informing a queue of a change that was already stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from shared.store.redis.link import StoreUnavailable
from shared.tasks.outcomes import Granted

log = logging.getLogger("task_backbone")


async def informed(change: Awaitable[Granted], path: str) -> Granted:
    """What a change of the queue at *path* grants. If the queue cannot be reached, or cannot be read as somebody else
    wrote into it, its maintenance finds the change: the other queues' go on."""
    try:
        return await change
    except StoreUnavailable as error:
        log.warning("a queue could not be informed of a change, and will be checked: %s", error)
    except Exception:  # whatever it is, the change itself is stored
        log.exception("a queue could not be informed of a change, and will be checked")
    return Granted(path, [])
