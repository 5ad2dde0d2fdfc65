"""What follows from every transition of a task, whoever caused it: it is told, and an end is announced."""

from __future__ import annotations

import logging

from shared import telemetry
from shared.events import PublishFailed
from shared.services import Services
from shared.task import Task
from shared.task_store import StoreUnavailable

log = logging.getLogger("task_backbone")

ANNOUNCE_BATCH = 256


async def after_transition(services: Services, task: Task) -> None:
    """One custom event, and the task's end is announced. What fails here is done at the task's deadline."""
    telemetry.transition(task)
    await announce(services, [task])


async def announce(services: Services, tasks: list[Task], *, insist: bool = False) -> None:
    """Announce the ends of those of these tasks whose ends are not announced yet."""
    ended = [task for task in tasks if task.unannounced]
    if services.completions is None:
        return
    for start in range(0, len(ended), ANNOUNCE_BATCH):
        batch = ended[start : start + ANNOUNCE_BATCH]
        try:
            await services.completions.announce(batch, insist=insist)
            await services.store.announced(task.id for task in batch)
        except (PublishFailed, StoreUnavailable) as error:
            log.warning("the ends of %d tasks could not be announced, and will be: %s", len(ended) - start, error)
            return
