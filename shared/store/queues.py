"""All queues of one Redis, as operators, autoscalers and the reconciler see them."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.rate import Rate
from shared.store.informing import informed
from shared.store.outages import Outage, Outages
from shared.store.queries import Depth, Queries
from shared.store.queue_status import OwnerShare, QueueStatus
from shared.store.queue_steps import OWNERS_READ, TOLD_KEPT_S, QueueSteps
from shared.store.redis.link import StoreUnavailable
from shared.store.rounds import Rounds
from shared.store.series import Ended
from shared.store.upkeep_steps import UpkeepSteps
from shared.tasks.outcomes import Applied, Granted, Origin, SlotGrant
from shared.tasks.task import State, Task
from shared.tasks.told_slots import ToldSlots

_MOST_TOLD: Final = 10_000
"""Of how many instances a process remembers what they told. Then it begins again."""

_MOST_LOOKS: Final = 100
"""How often a run of the reconciler looks for entries of a queue that wait for nothing, while it finds any."""
_MOST_OWNERS: Final = 10_000
"""Of how many owners of a queue it is counted what they have, so that whoever looks at one costs no more."""
_OWNERS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class QueueChange:
    """What the maintenance of a queue did, and leaves to the caller.

    Attributes:
        granted: slots to dispatch.
        applied: transitions that it made: tasks that were given up.
        unclaimed: tasks that hold a slot and were never claimed: they are to be dispatched, and their events
            published again.
    """

    granted: Sequence[Granted] = ()
    applied: Sequence[Applied] = ()
    unclaimed: Sequence[Task] = ()


class TaskQueues:
    """Raises :class:`StoreUnavailable` from every method if Redis does not answer."""

    def __init__(
        self, upkeep: UpkeepSteps, queues: QueueSteps, queries: Queries, outages: Outages, rounds: Rounds
    ) -> None:
        self._upkeep = upkeep
        self._queues = queues
        self._queries = queries
        self._outages = outages
        self._rounds = rounds
        self._told: dict[tuple[str, str], tuple[int, float]] = {}

    async def depths(self, *paths: str) -> dict[str, Depth]:
        """Queue depths by endpoint path: of these, or of all that have tasks."""
        return await self._queries.depths(*paths)

    async def paths(self, *, has_open: bool = False) -> set[str]:
        """The endpoint paths that have tasks.

        Args:
            has_open: without those that are known to have none but tasks that have ended.
        """
        return await self._queries.paths(has_open=has_open)

    async def paths_to_maintain(self, pipelines: Sequence[str] = ()) -> set[str]:
        """The endpoint paths at which a task waits, a slot is held, or a task is worked on. What is left of tasks
        whose records are gone is removed before.

        Args:
            pipelines: the names of those that have one: they have indexes too.
        """
        lost = await self._upkeep.forget_lost(pipelines)
        for path, entries in lost.delayed.items():
            await self._queues.forget_delayed(path, entries)
        held, is_open = await asyncio.gather(self._queues.held_paths(), self._queries.set_ended_paths_aside())
        return held | is_open | lost.paths

    async def status(self, path: str, task: Task | None = None) -> QueueStatus:
        """How the queue stands, and where the task stands in it if it waits."""
        return await self._queues.status(path, task)

    async def largest_owners(self, path: str) -> list[OwnerShare]:
        """The owners that have most of the queue, the largest first."""
        waiting: dict[str, int] = {}
        holding: list[SlotGrant] = []
        for behind in range(0, _MOST_OWNERS, OWNERS_READ):
            following, grants = await self._queues.owners(path, behind)
            waiting |= following
            holding += grants
            if len(following) < OWNERS_READ:
                break
        held = Counter((await self._queries.owners_of(holding)).values())
        shares = [OwnerShare(owner, waiting.get(owner, 0), held[owner]) for owner in waiting.keys() | held.keys()]
        return heapq.nsmallest(_OWNERS_SHOWN, shares, key=lambda share: (-share.waiting - share.holding, share.owner))

    async def outages(self) -> dict[str, Outage]:
        """By path, the outages for whose end tasks wait now."""
        found = await self._outages.by_path()
        return {path: each for path, each in found.items() if each.ended_ms is None and each.is_waited_for}

    async def answering(self, backends: Iterable[str]) -> set[str]:
        """Which of the backends, by their registered prefixes, have accepted a task within a day, and were not found
        away since."""
        asked = [*backends]
        answers = await asyncio.gather(*map(self._outages.is_answering, asked))
        return {backend for backend, is_answering in zip(asked, answers, strict=True) if is_answering}

    async def paths_with_settings(self) -> set[str]:
        """The endpoint paths for which an operator has changed a setting, and not back."""
        return await self._queries.paths_with_settings()

    async def configure(
        self, path: str, changes: Mapping[str, int | bool | Rate | None], *, by: str | None = None
    ) -> Granted:
        """Change the operator's settings: ``paused``, ``draining``, ``limit``, ``rate``, ``burst``. None resets one.

        Args:
            by: the operator's name; None: nobody knows it.
        """
        return await self._queues.configure(path, changes, by=by)

    async def grant_free_slots(self, path: str) -> Granted:
        return await self._queues.grant_free_slots(path)

    async def tell(self, path: str, told: ToldSlots) -> Granted | None:
        """An instance of the model service at *path* tells how many tasks it holds. None if the queue knows that: a
        process informs it of what is new, and repeats it three times as often as it would be forgotten."""
        now, key = time.monotonic(), (path, told.instance)
        slots, at = self._told.get(key, (None, 0.0))
        if slots == told.slots and now - at < TOLD_KEPT_S / 3:
            return None
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[key] = told.slots, now
        try:
            return await self._queues.tell(path, told)
        except StoreUnavailable:
            self._told.pop(key, None)
            raise

    async def maintain(self, path: str) -> AsyncIterator[QueueChange]:
        """Look after one queue: grant what was left, find slots that are held for nothing, rebuild what was lost."""
        maintained = await self._queues.maintain(path, events_are_claimed=self._rounds.events_are_claimed)
        yield QueueChange(granted=[maintained.granted])
        if maintained.without_owner:
            await self._queues.note_holders(path, await self._queries.owners_of(maintained.without_owner))
        if maintained.doubtful or maintained.unclaimed:
            async for change in self._check(path, [*maintained.doubtful, *maintained.unclaimed]):
                if any(SlotGrant.of(task) in maintained.unclaimed for task in change.unclaimed):
                    await self._rounds.note_events(are_claimed=False)
                yield change
        if maintained.waiting:
            async for granted in self._release_idle(path):
                yield QueueChange(granted=[granted])
        if maintained.loss is not None:
            async for change in self._rebuild(path, maintained.loss):
                yield change

    async def _release_idle(self, path: str) -> AsyncIterator[Granted]:
        """Take out entries that wait for nothing. Where there is one, there may be more."""
        for _ in range(_MOST_LOOKS):
            owners = await self._queues.waiting(path)
            idle = await self._upkeep.idle_entries(path, owners)
            for grant in idle:
                yield await informed(self._queues.release(path, grant, owners[grant]), path)
            if not idle:
                break

    async def _rebuild(self, path: str, loss: int) -> AsyncIterator[QueueChange]:
        for state in (State.RUNNING, State.DISPATCHED):
            async for entries in self._upkeep.queue_entries(path, state):
                await self._queues.mark_held(entries)
                # One may have ended, and released a slot that it did not hold, between the two.
                async for change in self._check(path, [entry.grant for entry in entries]):
                    yield change
        async for entries in self._upkeep.queue_entries(path, State.CREATED):
            yield QueueChange(granted=[await self._queues.enqueue(entries)])
        await self._queues.mark_rebuilt(path, loss)

    async def _check(self, path: str, grants: Sequence[SlotGrant]) -> AsyncIterator[QueueChange]:
        """Check whether attempts that have held a slot for a while still need it."""
        check_again_s: dict[SlotGrant, float] = {}
        unclaimed: list[Task] = []
        for checked in await self._upkeep.check_slots(path, [(grant.task_id, grant.attempt) for grant in grants]):
            grant = SlotGrant(checked.id, checked.attempt)
            if checked.what == "gone":
                yield QueueChange(granted=[await informed(self._queues.release(path, grant), path)])
            elif checked.what == "failed" and checked.task is not None:
                release = self._queues.release(path, grant, checked.task.owner, ended=Ended(State.FAILED))
                granted = [await informed(release, path)]
                yield QueueChange(applied=[Applied(checked.task, Origin(path, checked.attempt), granted)])
            elif checked.task is not None and checked.check_again_s is not None:
                check_again_s[grant] = checked.check_again_s
                unclaimed.append(checked.task)
        if unclaimed:
            yield QueueChange(unclaimed=unclaimed)
            await self._queues.reschedule_check(path, check_again_s)
