"""What a step of a task means to queues: a slot is freed, the task waits elsewhere, or a slot counts again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from shared.store.informing import informed
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import StoreUnavailable
from shared.store.requeue import BackendBusy, BackendFailed, BodyUnavailable, RequeueReason, ResultUnstored
from shared.store.series import Ended
from shared.tasks.ending import has_expired
from shared.tasks.outcomes import Applied, Granted, Origin, Outcome, Refused, SlotGrant, Unacknowledged
from shared.tasks.task import Reason, State, Task
from shared.tasks.told_slots import ToldSlots

log = logging.getLogger("task_backbone")


class QueueEffects:
    """Lets queues learn of steps that were taken, unless the step's own script did that, and adds to each outcome
    what they grant. A queue that cannot be reached fails no step: its maintenance finds the change.

    Args:
        after_unacknowledged: does what follows from a step that was taken and that its caller hears nothing of.
    """

    def __init__(self, queues: QueueSteps, after_unacknowledged: Callable[[Applied], object]) -> None:
        self._queues = queues
        self._after_unacknowledged = after_unacknowledged

    async def enqueue(self, task: Task) -> Granted:
        """Let a task wait in its endpoint's queue, as new work that is published if it gets a slot now. Nothing
        happens if it waits already or holds a slot."""
        return await informed(self._queues.enqueue([QueueEntry.of(task)], are_published=True, arrive=True), task.path)

    async def of(self, outcome: Outcome) -> Outcome:
        """What any step means, but a requeue or a release.

        Raises:
            StoreUnavailable: not acknowledged. What follows from it is done all the same.
        """
        if isinstance(outcome, Refused):
            return outcome
        task = outcome.task
        if outcome.slot == "held":
            await self.hold_again(task)
        if outcome.origin is None and outcome.slot != "freed":
            return self._told(outcome)
        origin = outcome.origin or Origin(task.path, task.attempt)
        waits = task.is_queued
        if outcome.granted and not waits:
            return self._told(outcome)
        granted = [*outcome.granted]
        is_over = task.state.is_terminal or outcome.slot == "freed"
        if not granted and (is_over or task.attempt != origin.attempt or task.path != origin.path):
            granted.append(await self.release_entry(outcome))
        if waits:
            granted.append(await self.enqueue(task))
        return self._told(replace(outcome, granted=granted))

    async def of_requeue(self, task: Task, outcome: Outcome, reason: RequeueReason) -> Outcome:
        """What it means that a claimed task waits again, for any *reason* but that its backend was away."""
        if isinstance(outcome, Refused):
            return outcome
        granted = await informed(self._return_entry(task, outcome.task, reason), task.path)
        return replace(outcome, granted=[granted])

    async def of_release(self, outcome: Outcome, attempt: int, told: ToldSlots | None) -> Outcome:
        """What it means that a backend gave an attempt back.

        Args:
            told: how many tasks its instance holds. None: it does not tell, and the queue forgets the slot.

        Raises:
            StoreUnavailable: not acknowledged. What follows from it is done all the same.
        """
        if not isinstance(outcome, Refused) and outcome.is_transition:
            if outcome.slot == "forgotten":
                granted = await informed(self._queues.released(outcome.task, attempt, told), outcome.task.path)
            else:
                granted = await self.release_entry(outcome)
            outcome = replace(outcome, granted=[granted])
        return self._told(outcome)

    async def of_refused_claim(self, refused: Refused, path: str, grant: SlotGrant) -> Refused:
        """What it means that a slot's attempt could not be claimed: if it is over, the slot is free."""
        task = refused.task
        if task is not None and not task.state.is_terminal and task.attempt == grant.attempt:
            return refused
        owner = task.owner if task is not None else ""
        return replace(refused, granted=[await informed(self._queues.release(path, grant, owner), path)])

    async def hold_again(self, task: Task) -> None:
        """A task whose slot was freed goes on."""
        try:
            await self._queues.mark_held([QueueEntry.of(task)])
        except StoreUnavailable as error:
            log.warning("the queue of a task that goes on does not count it: %s", error)

    async def release_entry(self, applied: Applied) -> Granted:
        """Release the queue entry that a step ended."""
        origin = applied.origin or Origin(applied.task.path, applied.task.attempt)
        task = applied.task
        entry, later = SlotGrant(task.id, origin.attempt), task.start is not None
        release = self._queues.release(
            origin.path, entry, task.owner, applied.service_ms, _ended(applied), later=later
        )
        return await informed(release, origin.path)

    async def _return_entry(self, task: Task, requeued: Task, reason: RequeueReason) -> Granted:
        match reason:
            case BackendBusy():
                return await self._queues.refused(task, requeued, after_s=reason.retry_after_s)
            case BackendFailed():
                return await self._queues.failed(task)
            case BodyUnavailable() | ResultUnstored():
                return await self._queues.release(task.path, SlotGrant.of(task), task.owner, ended=Ended("retried"))
            case _:
                await self._queues.return_entry(task, requeued)
                return Granted(task.path, [])

    def _told(self, outcome: Outcome) -> Outcome:
        """The outcome, if its caller may hear of it."""
        if isinstance(outcome, Unacknowledged):
            self._after_unacknowledged(outcome)
            raise StoreUnavailable("the write was not acknowledged in time")
        return outcome


def _waited_ms(task: Task) -> int | None:
    """How long a task that its backend ended had waited when it was dispatched; None if it had been taken before."""
    if task.failures or task.was_returned or task.history[-1].reason not in (Reason.REPORT, Reason.ANSWER):
        return None
    return next((e.at_ms - task.queued_ms for e in reversed(task.history) if e.state is State.DISPATCHED), None)


def _ended(applied: Applied) -> Ended | None:
    """How a task ended at an endpoint by a step, or that it waits there again; None if neither is known yet, or it
    is none that the queue has counted."""
    task = applied.task
    if not task.dispatch_requested:
        return None
    if task.state.is_terminal:
        # That a task has expired says nothing of its backend.
        return None if has_expired(task) else Ended(task.state, _waited_ms(task))
    if applied.slot == "freed":  # another report may take this end back
        return None
    match task.history[-1].reason:
        case Reason.NEXT_STEP:
            return Ended(State.COMPLETED)
        case Reason.SILENCE | Reason.OVERRUN | Reason.RELEASE | Reason.REQUEUE:
            return Ended("retried")
        case _:
            return None
