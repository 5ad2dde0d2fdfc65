"""The operations on batches, and the removal of tasks. They return outcomes and know no HTTP status."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache_manager.operation_outcomes import IdempotencyKeyReused
from shared import telemetry
from shared.services import Services
from shared.store import BATCHES, Listing, Page
from shared.tasks.outcomes import Applied, Created, Existing, Outcome, Refusal, Refused
from shared.tasks.task import NewBatch, Task


@dataclass(frozen=True, slots=True)
class BatchService:
    """The operations for one caller. A caller with an owner meets only that owner's batches."""

    services: Services
    owner: str | None
    by: str | None = None
    """The operator who asks, empty if nobody knows the name; None: no operator does."""

    async def create(self, new: NewBatch) -> Created | Existing | IdempotencyKeyReused:
        created = await self.services.store.batches.create(new)
        if isinstance(created, Created):
            telemetry.transition(created.task)
        elif created.task.fingerprint != new.fingerprint:
            return IdempotencyKeyReused(created.task)
        return created

    async def seal(self, batch_id: str) -> Outcome:
        return await self._go_on(await self.services.store.batches.seal(batch_id, self.owner))

    async def cancel(self, batch_id: str) -> Outcome:
        return await self._go_on(await self.services.store.batches.cancel(batch_id, self.owner, self.by))

    async def replay(self, batch_id: str) -> Outcome:
        return await self._go_on(await self.services.store.batches.replay(batch_id, self.owner, self.by))

    async def page(self, listing: Listing) -> Page:
        return await self.services.store.page(replace(listing, path=BATCHES, owner=self.owner))

    async def find_then(self, batch: Task) -> Task | None:
        """The Then task of a batch, if it has one yet."""
        then_id = batch.children.then_id if batch.children else ""
        return await self.services.store.get(then_id) if then_id else None

    async def purge(self, task_id: str) -> Outcome | None:
        """Remove a finished task, or a batch with its children, with all that is kept of it. None if that is done."""
        what = await self.services.dispatcher.batches.remove(task_id, owner=self.owner)
        if what not in ("unfinished", "unknown"):
            return None
        task = await self.services.store.get(task_id) if what == "unfinished" else None
        return Refused(Refusal.UNKNOWN if task is None else Refusal.UNFINISHED, task)

    async def _go_on(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Applied):
            await self.services.dispatcher.batches.go_on(outcome)
        return outcome


def is_of_batch(outcome: Outcome) -> bool:
    """Whether a step was refused because the task is a batch."""
    return isinstance(outcome, Refused) and outcome.reason is Refusal.BATCH
