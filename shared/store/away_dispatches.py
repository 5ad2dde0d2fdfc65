"""What becomes of a task whose backend was away when it was dispatched: ``docs/queues.md`` says what counts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from shared.store.arguments import Clock
from shared.store.informing import informed
from shared.store.outages import Outages, limit_s_if_over
from shared.store.policy import StorePolicy
from shared.store.queue_steps import Away, QueueEntry, QueueSteps
from shared.store.redis.link import StoreUnavailable
from shared.store.requeue import BackendAway
from shared.store.series import Ended
from shared.store.task_steps import TaskSteps
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Granted, Outcome, SlotGrant
from shared.tasks.task import State, Task

log = logging.getLogger("task_backbone")

MISDIRECTED_ATTEMPTS: Final = 3
"""How often a path is tried that its backend does not know, while it serves others."""


class AwayDispatches:
    """The queue's steps and the task's for a dispatch that found the backend away."""

    def __init__(
        self, tasks: TaskSteps, queues: QueueSteps, outages: Outages, policy: StorePolicy, now_ms: Clock | None
    ) -> None:
        self._tasks = tasks
        self._queues = queues
        self._outages = outages
        self._policy = policy
        self._now_ms = now_ms

    async def requeue(self, task: Task, reason: BackendAway) -> Outcome:
        """Let a claimed task wait at its old place, or for a backoff if the failure counts against it; or fail it if
        it has waited for too long, or failed too often."""
        # The queue comes first: it knows whether the failure counts.
        found = await self._found(task, reason)
        outage = found.outage
        limit_s = limit_s_if_over(outage, self._policy, self._now_ms, task.queued_ms) if outage else None
        if limit_s is not None:
            gave_up = status_texts.gave_up(reason.cause, limit_s)
            outcome = await self._tasks.fail_dispatch(task, status=gave_up, reason=reason.end_reason)
        elif found.what != "away":
            outcome = await self._count(task, reason, found)
        else:
            status = status_texts.awaiting(reason.cause)
            outcome = await self._tasks.requeue(task, status=status, away_ms=found.at_ms)
            if isinstance(outcome, Applied):
                entry = QueueEntry.of(outcome.task)
                granted = await informed(self._queues.enqueue([entry]), task.path)
                return replace(outcome, granted=[found.granted, granted])
        if isinstance(outcome, Applied) and outcome.task.state is State.FAILED and not outcome.granted:
            release = self._queues.release(task.path, SlotGrant.of(task), task.owner, ended=Ended(State.FAILED))
            outcome = replace(outcome, granted=[await informed(release, task.path)])
        return replace(outcome, granted=[found.granted, *outcome.granted])

    async def _found(self, task: Task, reason: BackendAway) -> Away:
        backend = reason.backend
        try:
            elsewhere = reason.not_found and backend is not None and await self._outages.is_answering(backend)
            found = await self._queues.away(task, reason, elsewhere=elsewhere)
            if backend is not None and found.what != "misdirected":
                await self._outages.forget_answer(backend)
        except StoreUnavailable as error:
            log.warning("a queue could not be told of an outage, and will be checked: %s", error)
            return Away("away", None, Granted(task.path, []))
        return found

    async def _count(self, task: Task, reason: BackendAway, found: Away) -> Outcome:
        failures, limit = task.failures + 1, self._policy.max_attempts
        ending, why = status_texts.exhausted(reason.cause, failures, limit), reason.end_reason
        if found.what == "misdirected":
            limit, ending = min(limit, MISDIRECTED_ATTEMPTS), status_texts.NO_SUCH_ENDPOINT
            why = EndReason.REJECTED
        if failures >= limit:
            return await self._tasks.fail_dispatch(task, status=ending, reason=why)
        status = status_texts.retrying(reason.cause)
        return await self._tasks.requeue(task, status=status, failed=True, away_ms=found.at_ms)
