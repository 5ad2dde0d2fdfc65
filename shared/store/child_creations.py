"""How a batch's child is created: it is registered at its batch first, so that the batch waits for it from then on.

A server that has all partitions does both in one script. If several have them, whoever creates the child may die
between the two. So a registration counts for a while only, and a create that comes later is refused: the batch
forgets the child, unless it is registered again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from shared.store.batch_steps import BatchSteps, ChildReport
from shared.store.create_steps import CreateSteps
from shared.store.redis.link import StoreUnavailable
from shared.tasks.outcomes import BatchRefused, Created, Draining, Existing, Full, Granted, TooLate
from shared.tasks.task import NewTask

log = logging.getLogger("task_backbone")

_REGISTRATIONS: Final = 3
"""How often one call registers a child, if Redis answers too late to create it each time."""

Create = Callable[[NewTask], Awaitable[Created | Existing | Full | Draining | TooLate]]


class ChildCreations:
    def __init__(self, batches: BatchSteps, creations: CreateSteps) -> None:
        self._batches = batches
        self._creations = creations

    async def create(self, new: NewTask, create: Create) -> Created | Existing | Full | Draining | BatchRefused:
        """Register a child, and create it as *create* does.

        Raises:
            StoreUnavailable: Redis does not answer in time.
        """
        created_at_once = await self._creations.create_child(new, self._batches.registration(new))
        if created_at_once is not None:
            return created_at_once
        if new.fingerprint:
            # Its id may be taken: then nothing is registered. This creates nothing, since it is too late for that.
            lookup = replace(new, create_until_ms=0, body=None, inline_body=b"", steps=())
            existing = await self._creations.create(lookup)
            if isinstance(existing, Existing):
                return existing
        granted: list[Granted] = []
        for _ in range(_REGISTRATIONS):
            registered = await self._batches.register(new.batch, new.id, new.owner)
            if isinstance(registered, BatchRefused):
                return registered
            created = await create(replace(new, create_until_ms=registered.until_ms))
            if isinstance(created, (Full, Draining)):
                await self._drop(new, registered.number)
            if isinstance(created, TooLate):
                granted += created.granted
            elif isinstance(created, (Created, Existing)):
                return replace(created, granted=[*granted, *created.granted]) if granted else created
            else:
                return created
        error = StoreUnavailable("the registration of a child has expired each time")
        error.granted = granted
        raise error

    async def _drop(self, new: NewTask, number: int) -> None:
        """Its queue refused it. If that cannot be told now, the batch will find out."""
        try:
            report = ChildReport(new.id, number, "dropped")
            await self._batches.report(new.batch, [report], is_refused=True)
        except StoreUnavailable as error:
            log.warning("a batch could not be told that a child was not created, and will find out: %s", error)
