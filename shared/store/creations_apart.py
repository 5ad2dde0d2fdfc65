"""How a task is created if several servers have the partitions: its record and its queue entry lie apart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace

from shared import telemetry
from shared.store.create_steps import CreateSteps
from shared.store.informing import informed
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import NotAcknowledged, StoreUnavailable
from shared.tasks.outcomes import Created, Draining, Enqueued, Existing, Full, Granted, SlotGrant, TooLate
from shared.tasks.task import NewTask, Task

log = logging.getLogger("task_backbone")


class CreationsApart:
    def __init__(self, creations: CreateSteps, queues: QueueSteps) -> None:
        self._creations = creations
        self._queues = queues

    async def create(self, new: NewTask) -> Created | Existing | Full | Draining | TooLate:
        """Write the record on one node and the queue entry on another, at the same time. Nothing can claim the entry
        of a task that does not come to be."""
        grant = SlotGrant(new.id, 1)
        entry = QueueEntry(new.path, grant, new.owner, 0, new.priority)
        created, enqueued = await asyncio.gather(
            self._creations.create(new),
            self._queues.enqueue_new(entry, start=new.timing.start),
            return_exceptions=True,
        )
        granted = [enqueued.granted] if isinstance(enqueued, Enqueued) else []
        if isinstance(created, NotAcknowledged):  # stored, so what was granted is to be dispatched
            if isinstance(created.outcome, Created) and isinstance(enqueued, (Full, Draining)):
                await self._withdraw_unacknowledged(new)
                raise created
            if isinstance(created.outcome, Existing):
                granted = await self._undo_enqueue(new, created.outcome.task, granted)
            if not isinstance(created.outcome, TooLate):
                created.granted = granted
                raise created
            created = created.outcome
        if isinstance(created, BaseException):
            if granted:  # if the task is stored after all, its deadline finds it
                granted = _without(granted, grant)
                granted.append(await informed(self._release(new), new.path))
            if isinstance(created, StoreUnavailable):
                created.granted = granted
            raise created
        if isinstance(created, TooLate):
            if not granted:
                return created
            release = self._release(new)
            return TooLate([*_without(granted, grant), await informed(release, new.path)])
        if isinstance(created, Existing):
            return Existing(created.task, await self._undo_enqueue(new, created.task, granted))
        if isinstance(enqueued, Enqueued):
            return Created(created.task, enqueued.position, granted)
        if not isinstance(enqueued, StoreUnavailable) and await self._creations.withdraw(new.id):
            if isinstance(enqueued, BaseException):
                raise enqueued
            return enqueued
        # A repetition was answered with the task already, or the queue is out of reach: the record's deadline helps.
        text = "task %s waits for its deadline, not in its queue"
        log.warning(text, new.id, extra=telemetry.about(new.id))
        return created

    async def _withdraw_unacknowledged(self, new: NewTask) -> None:
        """The queue refused a task whose creation was not acknowledged. Kept, it would come to the queue at its
        deadline all the same, however full that is."""
        try:
            await self._creations.withdraw(new.id)
        except NotAcknowledged:
            return

    def _release(self, new: NewTask) -> Awaitable[Granted]:
        return self._queues.release(new.path, SlotGrant(new.id, 1), new.owner, later=new.is_delayed)

    async def _undo_enqueue(self, new: NewTask, existing: Task, granted: Sequence[Granted]) -> Sequence[Granted]:
        """The id was taken. The entry is that of the task that has it, or one for nothing."""
        if not granted:
            return granted
        if (
            existing.attempt != 1
            or existing.state.is_terminal
            or existing.path != new.path
            or not existing.dispatch_requested
        ):
            release = self._release(new)
            return [*_without(granted, SlotGrant(new.id, 1)), await informed(release, new.path)]
        return granted


def _without(granted: Sequence[Granted], grant: SlotGrant) -> list[Granted]:
    return [replace(each, grants=[other for other in each.grants if other != grant]) for each in granted]
