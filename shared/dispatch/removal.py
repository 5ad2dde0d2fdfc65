"""The removal of tasks that are over and have blobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from shared.bodies import BlobsUnavailable, BodyStore
from shared.store import TaskStore
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

_AT_ONCE: Final = 8
"""Of how many tasks the blobs are deleted at a time."""


async def remove_with_blobs(store: TaskStore, bodies: BodyStore, tasks: Sequence[Task]) -> None:
    """Delete the blobs of tasks, and then what is left of the tasks. What cannot be deleted now is due again later.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    for first in range(0, len(tasks), _AT_ONCE):
        some = tasks[first : first + _AT_ONCE]
        try:
            await asyncio.gather(*map(bodies.delete_all, some))
        except BlobsUnavailable as error:
            log.warning("the blobs of finished tasks could not be deleted, and will be: %s", error)
            return
        await store.purge([task.id for task in some])
