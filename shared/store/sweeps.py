"""Sweeps: the search for overdue tasks, with the next step of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from shared.store.informing import informed
from shared.store.outages import Outage, Outages
from shared.store.queue_effects import QueueEffects
from shared.store.queue_steps import QueueEntry, QueueSteps, batches
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import PARTITIONS
from shared.store.swept import Swept
from shared.store.task_steps import TaskSteps
from shared.store.upkeep_steps import SWEEP_LIMIT, Overdue, UpkeepSteps
from shared.tasks.outcomes import Applied, Granted
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

SWEEP_ROUNDS: Final = 50
"""How many batches of each partition one sweep takes at most. The next one goes on."""


class Sweeps:
    def __init__(
        self, upkeep: UpkeepSteps, tasks: TaskSteps, queues: QueueSteps, effects: QueueEffects, outages: Outages
    ) -> None:
        self._upkeep = upkeep
        self._tasks = tasks
        self._queues = queues
        self._effects = effects
        self._outages = outages

    async def sweep(self) -> AsyncGenerator[Swept, None]:
        """Take the next step for every overdue task, batch by batch. Two sweeps at once do no harm: each overdue task
        is handed out once.

        Raises:
            StoreUnavailable: Redis or one of its nodes does not answer. What the other nodes hold was swept before.
        """
        unavailable: StoreUnavailable | None = None
        partitions: Sequence[int] = range(PARTITIONS)
        outages = await self._outages.by_path()
        for _ in range(SWEEP_ROUNDS):
            swept = await asyncio.gather(*(self._sweep(partition, outages) for partition in partitions))
            unavailable = next((found for found in swept if isinstance(found, StoreUnavailable)), unavailable)
            batches = [[] if isinstance(found, StoreUnavailable) else found for found in swept]
            async for settled in self._settle([item for batch in batches for item in batch]):
                yield settled
            partitions = [p for p, batch in zip(partitions, batches, strict=True) if len(batch) >= SWEEP_LIMIT]
            if not partitions:
                break
        if unavailable is not None:
            raise unavailable

    async def _sweep(self, partition: int, outages: Mapping[str, Outage]) -> list[Overdue] | StoreUnavailable:
        # While a node of a cluster is away, what was swept on the others is handled all the same.
        try:
            return await self._upkeep.sweep(partition, outages)
        except StoreUnavailable as error:
            return error

    async def _settle(self, overdue: Sequence[Overdue]) -> AsyncIterator[Swept]:
        """Let the queues learn what a sweep did. Each answer goes on at once: one silent node keeps no slot idle on
        another."""
        for released in asyncio.as_completed([self._released(item.applied) for item in overdue if item.applied]):
            yield Swept(applied=[await released])
        for ended in asyncio.as_completed([self._end_step(item.id) for item in overdue if item.what == "next step"]):
            yield Swept(applied=await ended)
        waiting = [item.task for item in overdue if item.task and item.what in ("waits", "retry")]
        enqueues = [self._enqueue_some(entries) for entries in batches(waiting)]
        # In their order: some of them may get a slot at once.
        due = sorted((item.task for item in overdue if item.task and item.what == "starts"), key=_queued_ms)
        enqueues += [self._enqueue_some(entries, start=True) for entries in batches(due)]
        for granted in asyncio.as_completed(enqueues):
            yield Swept(granted=[await granted])
        yield Swept.left_of(overdue)

    async def _end_step(self, task_id: str) -> Sequence[Applied]:
        try:
            outcome = await self._effects.of(await self._tasks.end_step(task_id))
        except StoreUnavailable as error:
            log.warning("a pipeline's next step could not begin, and will: %s", error)
            return []
        # If it is refused, a report has come in between.
        return [outcome] if isinstance(outcome, Applied) else []

    async def _released(self, applied: Applied) -> Applied:
        return replace(applied, granted=[await self._effects.release_entry(applied)])

    async def _enqueue_some(self, entries: Sequence[QueueEntry], *, start: bool = False) -> Granted:
        return await informed(self._queues.enqueue(entries, start=start), entries[0].path)


def _queued_ms(task: Task) -> int:
    return task.queued_ms
