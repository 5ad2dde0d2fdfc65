"""The steps of a task's life, each one script and one round trip. What they mean to a queue is the store's business.

``lua/task/`` has the scripts, with what they take and return.
"""

from __future__ import annotations

import hashlib
from typing import Final, Unpack

from shared.store.arguments import (
    ApplyArgument,
    ApplyStep,
    Backoff,
    ClaimArgument,
    Clock,
    TaskReleaseArgument,
    seed,
    stamp,
)
from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueSteps
from shared.store.record_codec import BRIEF_CHARS, pack_content, readable_task
from shared.store.redis.link import NotAcknowledged, RedisLink
from shared.store.redis.partitions import pack, tag_of, to_ms
from shared.store.replies import claimed_of, combined_outcome_of, outcome_of
from shared.store.reports import NextStep, Report, SentOn, next_step_of, report_step, token_of
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import (
    Applied,
    Claimed,
    Outcome,
    Refusal,
    Refused,
    SlotGrant,
    Unacknowledged,
)
from shared.tasks.task import Actor, Content, Reason, State, Task

BACKOFF_CAP_S: Final = 600.0
_MARK_CHARS: Final = 10
"""Of the digest of an operation's id: among the few that a record keeps, no two are the same by chance."""


def record_key(task_id: str) -> str:
    """The key of a task's record, and the channel on which its changes are published."""
    return f"{tag_of(task_id)}t:{task_id}"


def mark_of(operation_id: str) -> str:
    """By which a record knows an operation that has let its task begin again."""
    return hashlib.sha256(operation_id.encode()).hexdigest()[:_MARK_CHARS]


class TaskSteps:
    """The scripts on tasks.

    Args:
        queues: the queues that are informed in the same script, if one server has all partitions. Outcomes then have
            what they granted; they have nothing if no queue was informed.
    """

    def __init__(
        self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None, queues: QueueSteps | None = None
    ) -> None:
        self._link = link
        self._policy = policy
        self._now_ms = now_ms
        self._queues = queues
        self._window_ms = to_ms(policy.dispatch_window_s)
        self._retention_ms = to_ms(policy.retention_s)
        self._completion_ms = to_ms(policy.completion_s)
        self._republish_ms = to_ms(policy.republish_s)

    async def claim(self, task_id: str, attempt: int | None) -> Claimed | Refused:
        """Claim a waiting task's attempt for a dispatcher; None claims the current one."""
        return await self._apply_claim(task_id, self._claim(task_id, attempt))

    async def claim_held(self, task_id: str, attempt: int | None) -> Claimed | Refused:
        """Claim an attempt if it holds a slot of its queue; None claims the current one."""
        if self._queues is None:
            return await self.claim(task_id, attempt)
        argument = self._claim(task_id, attempt)
        reply = await self._link.combined("claim", tag_of(task_id).encode(), pack(argument))
        if reply is not None:
            return claimed_of(task_id, reply)
        task = await self.get(task_id)
        if task is None:
            return Refused(Refusal.UNKNOWN, None)
        argument["attempt"] = task.attempt if attempt is None else attempt
        if not await self._queues.holds(task.path, SlotGrant(task_id, argument["attempt"])):
            argument["slotless"] = True
        return await self._apply_claim(task_id, argument)

    def _claim(self, task_id: str, attempt: int | None) -> ClaimArgument:
        argument: ClaimArgument = {"id": task_id, "claim": True, "window": self._window_ms, **stamp(self._now_ms)}
        if attempt is not None:
            argument["attempt"] = attempt
        return argument

    async def _apply_claim(self, task_id: str, argument: ClaimArgument) -> Claimed | Refused:
        try:
            reply = await self._link.script("task/apply", tag_of(task_id), pack(argument), b"")
        except NotAcknowledged as error:  # nobody is told of a claim, and given up it would cost the task an attempt
            reply = error.reply
        return claimed_of(task_id, reply)

    async def accepted(self, task: Task) -> Outcome:
        """The backend accepted the task: from now on it has a lease."""
        step: ApplyStep = {
            "actor": Actor.DISPATCHER,
            "attempt": task.attempt,
            "allowed_from": (State.DISPATCHED,),
            "accepted": True,
        }
        return await self._apply(task.id, step, accepted=task)

    async def requeue(
        self,
        task: Task,
        *,
        status: str,
        apart_s: float | None = None,
        failed: bool = False,
        away_ms: int | None = None,
        taken: bool = False,
    ) -> Outcome:
        """Let a claimed task wait again at its old place, or first apart from the queue: for *apart_s*, or if its
        attempt *failed* for a backoff by its failures. *away_ms* is when its backend was away for it. If the backend
        had *taken* it, it does not expire any more."""
        step: ApplyStep = {
            "actor": Actor.DISPATCHER,
            "attempt": task.attempt,
            "allowed_from": (State.DISPATCHED,),
            "to": State.CREATED,
            "new_attempt": True,
            "status": status,
        }
        if away_ms is not None:
            step["away"] = away_ms
        if taken:
            step["accepted"] = True
        if failed:
            step["failed"] = True
        if failed or apart_s is not None:
            step["apart"] = True
        if apart_s is not None:
            step["due_in"] = to_ms(apart_s)
        elif failed:
            step["backoff"] = self._backoff()
        else:
            step["due_in"] = self._republish_ms
        return await self._apply(task.id, step)

    async def complete(self, task: Task, result: Content, data: bytes, *, status: str) -> Outcome:
        """The backend answered a claimed task with its result, which ends it."""
        step: ApplyStep = {
            "actor": Actor.DISPATCHER,
            "attempt": task.attempt,
            "allowed_from": (State.DISPATCHED, State.RUNNING),
            "to": State.COMPLETED,
            "status": status,
            "result": pack_content(result),
        }
        return await self._apply(task.id, step, result, data)

    async def fail_dispatch(self, task: Task, *, status: str, reason: EndReason) -> Outcome:
        """End a claimed task that cannot be dispatched."""
        step: ApplyStep = {
            "actor": Actor.DISPATCHER,
            "attempt": task.attempt,
            "allowed_from": (State.DISPATCHED,),
            "to": State.FAILED,
            "failed": True,
            "status": status,
            "reason": reason,
        }
        return await self._apply(task.id, step)

    async def expire(self, task: Task) -> Outcome:
        """End a task that was found expired when it was to be claimed. No backend has anything to do with it."""
        assert task.expires_ms is not None
        step: ApplyStep = {
            "actor": Actor.DISPATCHER,
            "attempt": task.attempt,
            "allowed_from": (State.CREATED,),
            "to": State.FAILED,
            "status": status_texts.expired(max(0, task.expires_ms - task.queued_ms) / 1000),
            "reason": EndReason.EXPIRED,
        }
        return await self._apply(task.id, step)

    async def update(
        self, task_id: str, *, state: State | None, told: State | None = None, **report: Unpack[Report]
    ) -> Outcome:
        """Take a model service's report. Any report renews the lease; only :meth:`next_step` returns a task to a
        queue.

        Args:
            told: the end that the text of a report without an attempt tells, while its state does not. It takes
                effect a while later, unless another report follows.
        """
        step = report_step(report)
        if report.get("attempt") is None:
            step["unfenced"] = True
        if told is not None:
            step["told"] = told
            step["to"] = State.RUNNING
        elif state is not None and state is not State.CREATED:
            step["to"] = state
        return await self._apply(task_id, step, report.get("body"), report.get("inline_body", b""))

    async def next_step(self, task_id: str, *, sent_on: SentOn | None = None, **report: Unpack[NextStep]) -> Outcome:
        """Send a task to the end of an endpoint's queue, with a new body or its own: a pipeline's next step.

        Args:
            sent_on: of a request that is taken once, and only for an attempt that a backend has.
        """
        step = next_step_of(report)
        step["needs_body"] = report.get("body") is None
        if sent_on is not None:
            step["allowed_from"] = (State.DISPATCHED, State.RUNNING)
            step["token"] = sent_on.token
            step["takes_result"] = sent_on.body == "result"
            step["needs_body"] = sent_on.body == "current"
        step["publishes"] = 1
        step["due_in"] = self._republish_ms
        return await self._apply(task_id, step, report.get("body"), report.get("inline_body", b""))

    async def end_step(self, task_id: str) -> Outcome:
        """Let the deferred end of a pipeline's step take effect: the next step begins."""
        step: ApplyStep = {
            "actor": Actor.CLIENT,
            "allowed_from": (State.DISPATCHED, State.RUNNING),
            "to": State.COMPLETED,
            "deferred": True,
        }
        return await self._apply(task_id, step)

    async def heartbeat(self, task_id: str, **report: Unpack[Report]) -> Outcome:
        """Renew the lease of a task that a backend holds. Its state stays as it is."""
        step = report_step(report)
        step["allowed_from"] = (State.DISPATCHED, State.RUNNING)
        return await self._apply(task_id, step)

    async def cancel(self, task_id: str, *, owner: str | None = None, by: str | None = None) -> Outcome:
        """End a task at its caller's wish: it is not dispatched any more, and reports for it are refused.

        Args:
            by: the operator who wishes it, empty if nobody knows the name; None: no operator does.
        """
        step = report_step({"status": status_texts.CANCELLED, "owner": owner})
        step["to"] = State.CANCELLED
        if by is not None:
            step["by"] = by
        return await self._apply(task_id, step)

    async def replay(
        self,
        task_id: str,
        *,
        owner: str | None = None,
        attempt: int | None = None,
        by: str | None = None,
        once: str | None = None,
    ) -> Outcome:
        """Let a failed task begin again at its endpoint, with the body it has; if an *attempt* is given, only after
        that one.

        Args:
            by: as of :meth:`cancel`.
            once: the operation of which the task begins again once only, see :func:`mark_of`.
        """
        step = report_step({"status": State.CREATED.value, "owner": owner, "attempt": attempt})
        if by is not None:
            step["by"] = by
        if once is not None:
            step["once"] = mark_of(once)
        step["allowed_from"] = (State.FAILED,)
        step["to"] = State.CREATED
        step["revive"] = True
        step["reason"] = Reason.REPLAY
        step["next_step"] = True
        step["needs_body"] = True
        step["publishes"] = 1
        step["due_in"] = self._republish_ms
        return await self._apply(task_id, step)

    async def release(
        self,
        task_id: str,
        *,
        attempt: int,
        status: str | None,
        failed: bool = False,
        after_s: float = 0,
        owner: str | None = None,
    ) -> Outcome:
        """Take back an attempt that its backend gives back. It waits again at its old place, after *after_s* if that
        is given; if the backend *failed* at it, that counts, and it waits after a backoff, *after_s* at least."""
        default = status_texts.RELEASED_FAILED if failed else status_texts.RELEASED
        status_now = default if status is None else status
        step = report_step({"status": status_now, "attempt": attempt, "owner": owner})
        step["allowed_from"] = (State.DISPATCHED, State.RUNNING)
        step["to"] = State.CREATED
        step["reason"] = Reason.RELEASE
        step["new_attempt"] = True
        step["due_in"] = self._republish_ms
        step["backoff"] = self._backoff()
        if failed:
            step["failed"] = True
        argument: TaskReleaseArgument = {
            **self._argument(task_id, step),
            "after": to_ms(after_s),
            "most": self._policy.max_attempts,
            "exhausted": status_texts.released_exhausted(status),
        }
        try:
            reply = await self._link.script("task/release", tag_of(task_id), pack(argument))
        except NotAcknowledged as error:
            return _unacknowledged(outcome_of(task_id, error.reply), step)
        return outcome_of(task_id, reply)

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
        step = report_step({"status": completed, "attempt": attempt, "owner": owner})
        step["result"] = pack_content(result)
        if completed is not None:
            step["to"] = State.COMPLETED
        return await self._apply(task_id, step, result, data)

    async def put_checkpoint(
        self, task_id: str, checkpoint: Content, data: bytes, *, attempt: int | None = None, owner: str | None = None
    ) -> Outcome:
        """Keep what the next attempt may go on from. Counts as a report."""
        step = report_step({"attempt": attempt, "owner": owner})
        step["allowed_from"] = (State.DISPATCHED, State.RUNNING)
        step["checkpoint"] = pack_content(checkpoint)
        return await self._apply(task_id, step, checkpoint, data)

    async def get(self, task_id: str) -> Task | None:
        raw = await self._link.get(tag_of(task_id), record_key(task_id))
        task = readable_task(task_id, raw) if raw else None
        return None if task is None or task.is_removed else task

    async def inline_body(self, task_id: str) -> bytes | None:
        tag = tag_of(task_id)
        return await self._link.get(tag, f"{tag}b:{task_id}")

    async def inline_result(self, task_id: str) -> bytes | None:
        tag = tag_of(task_id)
        return await self._link.get(tag, f"{tag}r:{task_id}")

    async def inline_checkpoint(self, task_id: str) -> bytes | None:
        tag = tag_of(task_id)
        return await self._link.get(tag, f"{tag}k:{task_id}")

    async def _apply(
        self,
        task_id: str,
        step: ApplyStep,
        content: Content | None = None,
        data: bytes = b"",
        *,
        accepted: Task | None = None,
    ) -> Outcome:
        outcome = await self._take(task_id, step, content, data, accepted)
        if isinstance(outcome, Refused) and outcome.reason is Refusal.STALE:
            return _as_first_time(outcome, step, data)
        return outcome

    async def _take(
        self, task_id: str, step: ApplyStep, content: Content | None, data: bytes, accepted: Task | None
    ) -> Outcome:
        argument = pack(self._argument(task_id, step))
        inline = data if content and not content.blob else b""
        ends = "told" in step or ("to" in step and step["to"].is_terminal)
        if self._queues is not None and (accepted is not None or ends):
            then = self._queues.release_argument(accepted)
            try:
                reply = await self._link.combined(
                    "apply_and_release", tag_of(task_id).encode(), argument, inline, then
                )
            except NotAcknowledged as error:
                return _unacknowledged(combined_outcome_of(task_id, error.reply, accepted), step)
            if reply is not None:
                return combined_outcome_of(task_id, reply, accepted)
        try:
            reply = await self._link.script("task/apply", tag_of(task_id), argument, inline)
        except NotAcknowledged as error:
            return _unacknowledged(outcome_of(task_id, error.reply), step)
        return outcome_of(task_id, reply)

    def _backoff(self) -> Backoff:
        return {"base": to_ms(self._policy.backoff_base_s), "cap": to_ms(BACKOFF_CAP_S), "seed": seed()}

    def _argument(self, task_id: str, step: ApplyStep) -> ApplyArgument:
        if "status" in step and len(step["status"]) > BRIEF_CHARS:
            step["brief"] = step["status"][:BRIEF_CHARS]
        return {
            **step,
            "id": task_id,
            "retention": self._retention_ms,
            "completion": self._completion_ms,
            **stamp(self._now_ms),
        }


def _unacknowledged(outcome: Outcome, step: ApplyStep) -> Outcome:
    """The outcome of a step whose write has not arrived. Nobody is told what a dispatcher records, and what is lost
    of it, its deadline finds; a refusal has written nothing."""
    if isinstance(outcome, Refused) or step.get("actor") == Actor.DISPATCHER:
        return outcome
    return Unacknowledged(
        outcome.task, outcome.origin, outcome.granted, outcome.service_ms, outcome.slot, outcome.unnamed_blobs
    )


def _as_first_time(refused: Refused, step: ApplyStep, data: bytes) -> Outcome:
    """A backend that has lost the answer to a step which sent its task on repeats the step, while another attempt has
    the task. It is answered as the first time, by the task as it is now."""
    task = refused.task
    if task is None or not task.sent_on:
        return refused
    sent_on = step.get("attempt"), token_of(step, data)
    return Applied(task) if sent_on in task.sent_on else refused
