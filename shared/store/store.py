"""The face of the store: every task of one Redis, and what each step means to its queue.

Each method returns the whole outcome, with the slots that queues granted by it. On a single server that is one
script; on a cluster a task and its queue may lie on different nodes, and the steps follow one another. What fails
between them is found by the task's deadline or by the maintenance of the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Unpack

from shared.store.arguments import Clock
from shared.store.audit import Audit
from shared.store.away_dispatches import AwayDispatches
from shared.store.batch_steps import BatchSteps
from shared.store.callbacks import Callbacks
from shared.store.changes import Changes, Seen
from shared.store.child_creations import ChildCreations
from shared.store.child_lists import ChildLists
from shared.store.create_steps import CreateSteps
from shared.store.creations_apart import CreationsApart
from shared.store.endpoint_names import EndpointNames
from shared.store.eviction import Eviction
from shared.store.fenced_paths import FencedPaths
from shared.store.informing import informed
from shared.store.joint_creation import JointCreation
from shared.store.keyed_ids import KeyedIds
from shared.store.mending import Mending
from shared.store.outages import Outages
from shared.store.policy import StorePolicy
from shared.store.queries import Listing, Page, Queries
from shared.store.queue_effects import QueueEffects
from shared.store.queue_steps import LimitOf, QueueEntry, QueueSteps, RateOf
from shared.store.queues import TaskQueues
from shared.store.redis.link import RedisLink
from shared.store.reports import NextStep, Report, SentOn
from shared.store.requeue import BackendAway, BackendFailed, BodyUnavailable, RequeueReason, ResultUnstored
from shared.store.rounds import Rounds
from shared.store.schedules import Schedules
from shared.store.series import EndpointSeries
from shared.store.starts import Starts
from shared.store.sweeps import Sweeps
from shared.store.swept import Swept
from shared.store.task_steps import TaskSteps
from shared.store.upkeep_steps import UpkeepSteps
from shared.store.uploads import Uploads
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import (
    Applied,
    BatchRefused,
    Claimed,
    Created,
    Draining,
    Existing,
    Full,
    Granted,
    Outcome,
    Refusal,
    Refused,
    SlotGrant,
    TooLate,
)
from shared.tasks.owner_bounds import UNBOUNDED, BoundsOf
from shared.tasks.task import Content, NewTask, State, Task
from shared.tasks.told_slots import ToldSlots

log = logging.getLogger("task_backbone")

_RECORD_PAUSES_S: Final = (0.02, 0.1, 0.5)
"""On a cluster a task's record and its queue entry are written at the same time on two nodes: a slot may be granted
so long before the record exists."""


class TaskStore:
    """All tasks of one Redis. Raises :class:`StoreUnavailable` from every method if Redis does not answer; whether
    the step was taken is then unknown, and to repeat it is safe.

    Args:
        link: the way to Redis, which may be shared.
        limit_of: the configured limit of an endpoint path.
        now_ms: the clock; None for the Redis server's own, which all processes share.
        rate_of: the configured rate of an endpoint path.
        bounds_of: the owners' bounds of an endpoint path.

    Attributes:
        queues: the queues of the same Redis.
        after_unacknowledged: does what follows from a step that was taken and that its caller hears nothing of.
        batches: its batches.
        rounds: the reconciler's rounds, of all processes.
        mending: what makes keys agree with the records again.
        starts: what starts delayed tasks.
        series: what happened at each endpoint, by time.
        schedules: what is submitted again and again.
        uploads: what clients write to Blob Storage themselves.
        endpoint_names: the endpoints that each backend has.
        eviction: whether Redis deletes tasks when it is full.
        keyed_ids: the ids of what is created with an idempotency key.
        audit: what operators have done.
        callbacks: who is to be told of tasks, and what came of it.
    """

    def __init__(
        self,
        link: RedisLink,
        policy: StorePolicy,
        limit_of: LimitOf = lambda path: None,
        now_ms: Clock | None = None,
        rate_of: RateOf = lambda path: None,
        bounds_of: BoundsOf = lambda path: UNBOUNDED,
    ) -> None:
        self.after_unacknowledged: Callable[[Applied], object] = lambda applied: None
        self._link = link
        self._policy = policy
        self._queues = QueueSteps(link, policy, limit_of, now_ms, rate_of, bounds_of)
        self._creations = CreateSteps(link, policy, now_ms, self._queues)
        self._tasks = TaskSteps(link, policy, now_ms, self._queues)
        self._upkeep = UpkeepSteps(link, policy, now_ms)
        self._queries = Queries(link, now_ms)
        self._changes = Changes(link, self._tasks)
        self._outages = Outages(link, now_ms)
        self._effects = QueueEffects(self._queues, lambda applied: self.after_unacknowledged(applied))
        self.starts = Starts(link, policy, self._queues, now_ms)
        self._upkeep.learned = self.starts.learn
        self._sweeps = Sweeps(self._upkeep, self._tasks, self._queues, self._effects, self._outages)
        self._creations_apart = CreationsApart(self._creations, self._queues)
        self.mending = Mending(link, policy, now_ms)
        self.batches = BatchSteps(link, policy, now_ms)
        self._child_creations = ChildCreations(self.batches, self._creations)
        self._child_lists = ChildLists(self.batches, self._tasks)
        self._away = AwayDispatches(self._tasks, self._queues, self._outages, policy, now_ms)
        self._fenced_paths = FencedPaths(link, now_ms)
        self.rounds = Rounds(link, policy, now_ms)
        self.uploads = Uploads(link, now_ms)
        self.schedules = Schedules(link, now_ms, interval_s=policy.reconciler_interval_s)
        self._upkeep.learned_of_schedules = self.schedules.due.learn
        self.series = EndpointSeries(link, now_ms)
        self.endpoint_names = EndpointNames(link, self._queries, now_ms)
        self.eviction = Eviction(link)
        self.audit = Audit(link, now_ms)
        self.callbacks = Callbacks(link, now_ms, interval_s=policy.reconciler_interval_s)
        self.keyed_ids = KeyedIds(link, policy, self._tasks.get, now_ms)
        self.queues = TaskQueues(self._upkeep, self._queues, self._queries, self._outages, self.rounds)

    async def create(self, new: NewTask) -> Created | Existing | Full | Draining | BatchRefused:
        """Store a new task, and let it wait in its endpoint's queue if it is to be dispatched. A child is registered
        at its batch first."""
        if new.batch:
            created = await self._child_creations.create(new, self._create)
        else:
            created = await self._create(new)
            assert not isinstance(created, TooLate)
        if new.is_delayed:
            self.starts.expect(created)
        return created

    def creation_of(self, news: Sequence[NewTask]) -> JointCreation:
        """To create them together, each as :meth:`create` does it."""
        return JointCreation(news, self._creations, self.starts, self.create)

    async def create_unqueued(self, new: NewTask) -> Created | Existing:
        """Store a new task and leave the queue to :meth:`enqueue`, which no queue refuses."""
        created = await self._creations.create(new)
        assert not isinstance(created, TooLate)
        return created

    async def _create(self, new: NewTask) -> Created | Existing | Full | Draining | TooLate:
        if not new.dispatch_requested:
            return await self._creations.create(new)
        created = await self._creations.create_and_enqueue(new)
        return await self._creations_apart.create(new) if created is None else created

    async def enqueue(self, task: Task) -> Granted:
        """Let a task wait in its endpoint's queue, as new work that is published if it gets a slot now. Nothing
        happens if it waits already or holds a slot."""
        return await self._effects.enqueue(task)

    async def claim(self, task_id: str, attempt: int | None) -> Claimed | Refused:
        """Claim an attempt for which an event has come; None claims the current one. If it is over, its slot is
        released. If it holds no slot, it waits for one in its queue like every other: anybody may send an event, and
        Event Grid may repeat one, but neither passes an operator's pause or limit."""
        claimed = await self._tasks.claim_held(task_id, attempt)
        if isinstance(claimed, Claimed) or claimed.task is None:
            return claimed
        if claimed.reason is Refusal.SLOTLESS:
            granted = await self._queues.enqueue([QueueEntry.of(claimed.task)])
            return replace(claimed, granted=[granted])
        if attempt is None:
            return claimed
        return await self._effects.of_refused_claim(claimed, claimed.task.path, SlotGrant(task_id, attempt))

    async def claim_held(self, grant: SlotGrant) -> Claimed | Refused:
        """Claim an attempt if it holds a slot. Otherwise nothing changes."""
        return await self._tasks.claim_held(grant.task_id, grant.attempt)

    async def claim_granted(self, granted: Granted, grant: SlotGrant) -> Claimed | Refused:
        """Claim an attempt that was granted a slot, if that was not done in the step that granted it. If it is over,
        its slot is released."""
        claimed = granted.claims.get(grant) or await self._tasks.claim(grant.task_id, grant.attempt)
        for pause_s in _RECORD_PAUSES_S:
            if isinstance(claimed, Claimed) or claimed.reason is not Refusal.UNKNOWN:
                break
            await asyncio.sleep(pause_s)
            claimed = await self._tasks.claim(grant.task_id, grant.attempt)
        return (
            claimed
            if isinstance(claimed, Claimed)
            else await self._effects.of_refused_claim(claimed, granted.path, grant)
        )

    async def accept(self, task: Task, backend: str | None = None) -> Sequence[Granted]:
        """The backend accepted the task: from now on it has a lease. Returns what its queue granted.

        A refusal is no error: the backend has reported meanwhile, or the attempt was overtaken.

        Args:
            backend: its registered prefix.
        """
        outcome = await self._tasks.accepted(task)
        if backend is not None:
            await self._outages.note_answer(backend)
        return outcome.granted or [await informed(self._queues.accepted(task), task.path)]

    async def requeue(self, task: Task, reason: RequeueReason) -> Outcome:
        """Let a claimed task wait again as its next attempt."""
        match reason:
            case BackendAway():
                outcome = await self._away.requeue(task, reason)
                if isinstance(outcome, Refused) and outcome.task is not None and outcome.task.holds(task.attempt):
                    await self._effects.hold_again(outcome.task)
                return outcome
            case BackendFailed():
                outcome = await self._tasks.requeue(task, status=reason.status, failed=True)
            case BodyUnavailable() | ResultUnstored():
                pause_s, taken = self._policy.busy_retry_s, isinstance(reason, ResultUnstored)
                outcome = await self._tasks.requeue(task, status=reason.status, apart_s=pause_s, taken=taken)
            case _:
                outcome = await self._tasks.requeue(task, status=reason.status)
        return await self._effects.of_requeue(task, outcome, reason)

    async def complete(self, task: Task, result: Content, data: bytes, *, status: str, backend: str) -> Outcome:
        """The backend answered a claimed task with its result.

        Args:
            backend: its registered prefix.
        """
        outcome = await self._tasks.complete(task, result, data, status=status)
        await self._outages.note_answer(backend)
        return await self._effects.of(outcome)

    async def expire(self, task: Task) -> Outcome:
        """End a task that was found expired when it was to be claimed. No backend has anything to do with it."""
        return await self._effects.of(await self._tasks.expire(task))

    async def fail(self, task: Task, *, status: str, reason: EndReason) -> Outcome:
        """End a claimed task that cannot be dispatched."""
        return await self._effects.of(await self._tasks.fail_dispatch(task, status=status, reason=reason))

    async def update(
        self, task_id: str, *, state: State | None, told: State | None = None, **report: Unpack[Report]
    ) -> Outcome:
        """Take a model service's report. Any report renews the lease.

        Args:
            told: the end that the text of a report without an attempt tells, while its state does not. It takes
                effect a while later, unless another report follows.
        """
        return await self._reported(
            await self._tasks.update(task_id, state=state, told=told, **report), report.get("attempt")
        )

    async def next_step(self, task_id: str, *, sent_on: SentOn | None = None, **report: Unpack[NextStep]) -> Outcome:
        """Send a task to the end of an endpoint's queue, with a new body or its own: a pipeline's next step."""
        outcome = await self._tasks.next_step(task_id, sent_on=sent_on, **report)
        return await self._reported(outcome, report.get("attempt"))

    async def heartbeat(self, task_id: str, **report: Unpack[Report]) -> Outcome:
        """Renew the lease of a task that a backend holds. Its state stays as it is."""
        outcome = await self._tasks.heartbeat(task_id, **report)
        self._note_fenced(outcome)
        return await self._effects.of(outcome)

    async def release(
        self,
        task_id: str,
        *,
        attempt: int,
        status: str | None,
        failed: bool = False,
        after_s: float = 0,
        told: ToldSlots | None = None,
        owner: str | None = None,
    ) -> Outcome:
        """Take back an attempt that its backend gives back. If the backend *failed* at it, that counts, as does the
        twentieth time in a row. Otherwise the task keeps its place.

        Args:
            after_s: how long it waits before that.
            told: how many tasks its instance holds. None: it does not tell, and the queue forgets the slot.
        """
        outcome = await self._tasks.release(
            task_id, attempt=attempt, status=status, failed=failed, after_s=after_s, owner=owner
        )
        self._note_fenced(outcome)
        return await self._effects.of_release(outcome, attempt, told)

    async def cancel(self, task_id: str, *, owner: str | None = None, by: str | None = None) -> Outcome:
        """End a task at its caller's wish: it is not dispatched any more, and reports for it are refused.

        Args:
            by: the operator who wishes it, empty if nobody knows the name; None: no operator does.
        """
        return await self._effects.of(await self._tasks.cancel(task_id, owner=owner, by=by))

    async def replay(
        self,
        task_id: str,
        *,
        owner: str | None = None,
        attempt: int | None = None,
        by: str | None = None,
        once: str | None = None,
    ) -> Outcome:
        """Let a failed task begin again at its endpoint, with the body it has; if an *attempt* is given, after that
        one.

        Args:
            by: as of :meth:`cancel`.
            once: the operation of which the task begins again once only; then it is refused as ``DONE``.
        """
        return await self._effects.of(
            await self._tasks.replay(task_id, owner=owner, attempt=attempt, by=by, once=once)
        )

    async def put_result(
        self,
        task_id: str,
        result: Content,
        data: bytes,
        *,
        attempt: int | None = None,
        completed: str | None = None,
        owner: str | None = None,
    ) -> Outcome:
        """Keep the current attempt's result. Counts as a report.

        Args:
            completed: the status text with which the task is completed in the same step; None: it goes on.
        """
        return await self._reported(
            await self._tasks.put_result(task_id, result, data, attempt=attempt, completed=completed, owner=owner),
            attempt,
        )

    async def put_checkpoint(
        self, task_id: str, checkpoint: Content, data: bytes, *, attempt: int | None = None, owner: str | None = None
    ) -> Outcome:
        """Keep what the next attempt may go on from. Counts as a report."""
        outcome = await self._tasks.put_checkpoint(task_id, checkpoint, data, attempt=attempt, owner=owner)
        return await self._reported(outcome, attempt)

    async def get(self, task_id: str) -> Task | None:
        return await self._tasks.get(task_id)

    async def wait(self, known: Task, is_enough: Callable[[Task], bool]) -> Task | None:
        """Wait, without an end of its own, until the task has ended, or is otherwise than *known* in a way that
        *is_enough*: returns it as it is then, or None if it is gone. A heartbeat is no change. Costs Redis nothing
        meanwhile, and goes on while Redis does not answer.
        """
        return await self._changes.wait(known, is_enough)

    async def wait_since(self, task_id: str, seen: Seen, is_enough: Callable[[Task], bool]) -> Task | None:
        """As :meth:`wait`, for who keeps no more of the task than what it has *seen*."""
        return await self._changes.wait_since(task_id, seen, is_enough)

    async def inline_body(self, task_id: str) -> bytes | None:
        return await self._tasks.inline_body(task_id)

    async def inline_result(self, task_id: str) -> bytes | None:
        return await self._tasks.inline_result(task_id)

    async def inline_checkpoint(self, task_id: str) -> bytes | None:
        return await self._tasks.inline_checkpoint(task_id)

    async def page(self, listing: Listing) -> Page:
        """A page of tasks, newest first. Paging meets every task that exists all the while exactly once, whatever
        else comes, goes or changes meanwhile."""
        return await self._queries.page(listing)

    async def page_of_children(self, batch_id: str, listing: Listing) -> Page | None:
        """A page of a batch's children, the last one first; None if the owner has no such batch."""
        return await self._child_lists.page(batch_id, listing)

    def sweep(self) -> AsyncGenerator[Swept, None]:
        """Take the next step for every overdue task, batch by batch. Two sweeps at once do no harm: each overdue task
        is handed out once.

        Raises:
            StoreUnavailable: Redis or one of its nodes does not answer. What the other nodes hold was swept before.
        """
        return self._sweeps.sweep()

    async def mark_completions_published(self, task_ids: Iterable[str]) -> None:
        await self._upkeep.mark_completions_published(task_ids)

    async def purge(self, task_ids: Iterable[str]) -> int:
        """Remove finished tasks whose blobs were deleted; returns how many there were."""
        return await self._upkeep.purge(task_ids)

    async def ping(self) -> None:
        await self._link.ping()

    async def aclose(self) -> None:
        await self._fenced_paths.aclose()
        await self._link.aclose()

    async def _reported(self, outcome: Outcome, attempt: int | None) -> Outcome:
        if attempt is not None:
            self._note_fenced(outcome)
        return await self._effects.of(outcome)

    def _note_fenced(self, outcome: Outcome) -> None:
        """A model service named its attempt or sent a heartbeat."""
        if isinstance(outcome, Applied):
            self._fenced_paths.note((outcome.origin or outcome.task).path)
