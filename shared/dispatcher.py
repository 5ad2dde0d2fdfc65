"""Dispatch: claim an attempt, hand its body to the backend, record the outcome, hand free slots on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from opentelemetry.trace import StatusCode

from shared import telemetry
from shared.backend_client import Accepted, Answer, BackendClient, Busy, Unreachable
from shared.backends import BackendRegistry, Endpoint, UnknownBackend
from shared.bodies import BlobStream, BlobsUnavailable, BodyMissing, BodyStore
from shared.events import PublishFailed, Topic
from shared.limits import Limits, Overloaded
from shared.settings import Settings
from shared.task import Task
from shared.task_store import (
    BACKOFF_CAP_S,
    Claimed,
    Created,
    Draining,
    Existing,
    Full,
    Grant,
    Granted,
    Moved,
    NewTask,
    QueuePlace,
    Refusal,
    Refused,
    StoreUnavailable,
    Taken,
    TaskQueues,
    TaskStore,
    Turn,
)

log = logging.getLogger("task_backbone")

ANNOUNCE_BATCH = 256
_LONGEST_TIMER_S = 5.0
"""What is further ahead than this, the reconciler sees to."""
_CREATE_PAUSES_S = (0.02, 0.1, 0.5)
"""How long a slot may be granted before the task's record is there, where one server has the one and another the
other: they are written at the same time."""


class Dispatched(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    BUSY = "busy"
    RETRIED = "retried"
    FAILED = "failed"
    WAITING = "waiting"
    """It has its place in the queue of its endpoint."""
    DROPPED = "dropped"
    """A duplicate, or overtaken by another attempt: nothing was to be done."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A new task has a place in its queue, or holds a slot already, and is to be dispatched now."""

    task: Task
    granted: bool
    place: QueuePlace | None


class Dispatcher:
    """One for an event loop. Calls the backends, and sees to it that a slot that gets free is handed on at once."""

    def __init__(
        self,
        settings: Settings,
        backends: BackendRegistry,
        store: TaskStore,
        queues: TaskQueues,
        bodies: BodyStore,
        limits: Limits,
        completions: Topic | None,
    ) -> None:
        self._settings = settings
        self._backends = backends
        self._store = store
        self._queues = queues
        self._bodies = bodies
        self._limits = limits
        self._completions = completions
        self._client: BackendClient | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def dispatch(self, task_id: str, attempt: int | None, traceparent: str = "") -> Dispatched:
        """Dispatch one attempt of a task; None is whichever is current.

        Raises:
            StoreUnavailable: the claim or the outcome could not be recorded. The attempt's deadline finds the task.
        """
        claimed = await self._store.claim(task_id, attempt)
        if isinstance(claimed, Claimed):
            return await self._dispatch(claimed, traceparent)
        log.info("dropped an event for task %s: %s", task_id, claimed.reason)
        task = claimed.task
        if task is not None and attempt is not None and (task.state.is_terminal or task.attempt != attempt):
            await self.leave(task.path, Grant(task_id, attempt))
        return Dispatched.DROPPED

    async def create(self, new: NewTask) -> Entered | Existing | Full | Draining:
        """Store a new task and let it wait in its endpoint's queue, unless that takes none.

        Raises:
            StoreUnavailable: whether the task is stored is unknown. If it is, its deadline finds it.
        """
        created = await self._store.create_waiting(new)
        if created is None:
            return await self._create_apart(new)
        if isinstance(created, Created):
            granted = self.hand_on(new.path, created.granted, but=Grant(new.id, 1))
            return Entered(created.task, granted, created.place)
        return created

    async def _create_apart(self, new: NewTask) -> Entered | Existing | Full | Draining:
        """The task on one server and its turn on another, at the same time: nobody can claim the turn of a task that
        does not come to be."""
        grant = Grant(new.id, 1)
        turn = Turn(new.path, grant, new.owner, 0, new.priority)
        created, taken = await asyncio.gather(
            self._store.create(new), self._queues.offer_new(turn), return_exceptions=True
        )
        is_granted = isinstance(taken, Taken) and self.hand_on(new.path, taken.granted, but=grant)
        if isinstance(created, BaseException):
            if isinstance(taken, Taken):  # if the task is there after all, its deadline finds it
                await self.leave(new.path, grant)
            raise created
        if isinstance(created, Existing):
            if isinstance(taken, Taken):
                await self._step_back(new, created.task, is_granted=is_granted)
            return created
        if isinstance(taken, Taken):
            return Entered(created.task, is_granted, taken.place)
        if not isinstance(taken, StoreUnavailable) and await self._store.withdraw(new.id):
            if isinstance(taken, BaseException):
                raise taken
            return taken
        # A repetition was answered with the task already, or the queue is out of reach: see the record's deadline.
        log.warning("task %s waits for its deadline, not in its queue", new.id)
        return Entered(created.task, granted=False, place=None)

    async def _step_back(self, new: NewTask, existing: Task, *, is_granted: bool) -> None:
        """The id that took a turn was taken: the turn is that of the task that has it, or one for nothing."""
        turn = Grant(new.id, 1)
        if existing.attempt != 1 or existing.state.is_terminal or existing.path != new.path or not existing.wanted:
            await self.leave(new.path, turn, existing)
        elif is_granted:
            self.hand_on(new.path, Granted([turn], None))

    async def enter(self, task: Task) -> bool:
        """Let a task wait in its endpoint's queue. Returns whether it holds a slot, and is to be dispatched now."""
        granted = await self._asked(self._queues.offer([Turn.of(task)]))
        return self.hand_on(task.path, granted, but=Grant(task.id, task.attempt))

    async def leave(self, path: str, grant: Grant, task: Task | None = None) -> None:
        """A turn is over: whoever comes next gets its slot. *task* is what became of it, if there is something to
        learn from it."""
        self.hand_on(path, await self._asked(self._queues.leave(path, grant, task)))

    async def follow(self, moved: Moved) -> None:
        """What follows from a transition, whoever caused it: it is told, the turn is over and its slot handed on, an
        end is announced. What fails here is done at the task's deadline."""
        task, left = moved.task, moved.left
        if left is None:
            return
        telemetry.transition(task)
        if moved.granted is not None:
            self.hand_on(left.path, moved.granted)
        elif task.state.is_terminal or task.attempt != left.attempt or task.path != left.path:
            await self.leave(left.path, Grant(task.id, left.attempt), task)
        await self.announce([task])

    async def announce(self, tasks: Sequence[Task], *, insist: bool = False) -> None:
        """Announce the ends of those of these tasks whose ends are not announced yet."""
        ended = [task for task in tasks if task.unannounced]
        if self._completions is None:
            return
        for start in range(0, len(ended), ANNOUNCE_BATCH):
            batch = ended[start : start + ANNOUNCE_BATCH]
            try:
                await self._completions.announce(batch, insist=insist)
                await self._store.announced(task.id for task in batch)
            except (PublishFailed, StoreUnavailable) as error:
                left = len(ended) - start
                log.warning("the ends of %d tasks could not be announced, and will be: %s", left, error)
                return

    def hand_on(self, path: str, granted: Granted, *, but: Grant | None = None) -> bool:
        """Dispatch what was granted, *but* for one that somebody else dispatches, and ask again when that may bring
        more. Does not wait: who reports an end may be unable to take the next task before it has its answer.

        Returns:
            Whether that one was among them.
        """
        for grant in granted.grants:
            if grant != but:
                self._start(self._dispatch_granted(path, grant, granted.claims.get(grant)))
        if granted.again_s is not None and granted.again_s <= _LONGEST_TIMER_S:
            self._ask_again(path, granted.again_s)
        return but in granted.grants

    async def aclose(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _dispatch_granted(self, path: str, grant: Grant, claimed: Claimed | Refused | None) -> None:
        claimed = claimed or await self._store.claim(grant.task_id, grant.attempt)
        for pause_s in _CREATE_PAUSES_S:
            if isinstance(claimed, Claimed) or claimed.reason is not Refusal.UNKNOWN:
                break
            await asyncio.sleep(pause_s)
            claimed = await self._store.claim(grant.task_id, grant.attempt)
        if isinstance(claimed, Claimed):
            await self._dispatch(claimed, "")
        elif claimed.task is None or claimed.task.state.is_terminal or claimed.task.attempt != grant.attempt:
            await self.leave(path, grant)

    async def _dispatch(self, claimed: Claimed, traceparent: str) -> Dispatched:
        task = claimed.task
        with telemetry.consumer_span(task, traceparent):
            telemetry.transition(task)
            try:
                with self._limits.dispatches.hold(), self._limits.body(task.body.size_bytes if task.body else 0):
                    return await self._hand_over(claimed)
            except Overloaded:
                return await self._put_back(task)

    async def _hand_over(self, claimed: Claimed) -> Dispatched:
        task, timeout_s = claimed.task, self._settings.dispatch_timeout_s
        try:
            endpoint = self._backends.endpoint(task.path, task.query)
        except UnknownBackend as error:
            return await self._fail(task, f"Failed - {error}.")
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                body = await self._body(claimed)
        except BodyMissing:
            return await self._fail(task, "Failed - the request body is gone.")
        except (BlobsUnavailable, TimeoutError):
            return await self._await_body(task)
        left_s = max(1.0, deadline - asyncio.get_running_loop().time())
        answer = await self._post(task, endpoint, body, left_s)
        if isinstance(answer, Unreachable) and isinstance(body, BlobStream) and body.is_broken:
            return await self._await_body(task)
        return await self._record(task, answer)

    async def _await_body(self, task: Task) -> Dispatched:
        # No fault of the backend's, so no failed attempt.
        after_s = self._settings.busy_retry_s
        requeued = await self._store.requeue(task, status="Awaiting the request body", apart_s=after_s)
        if isinstance(requeued, Moved):
            await self.follow(requeued)
        return Dispatched.RETRIED

    async def _body(self, claimed: Claimed) -> bytes | BlobStream:
        if claimed.inline_body is not None:
            return claimed.inline_body
        assert claimed.task.body is not None
        assert claimed.task.body.blob is not None
        return await self._bodies.stream(claimed.task.body.blob)

    async def _post(self, task: Task, endpoint: Endpoint, body: bytes | BlobStream, timeout_s: float) -> Answer:
        assert task.body is not None
        with telemetry.client_span(task, endpoint.url) as span:
            headers = {
                "taskId": task.id,
                "X-Task-Attempt": str(task.attempt),
                "Content-Type": task.body.content_type,
                "Content-Length": str(task.body.size_bytes),
                **telemetry.outgoing(task),
            }
            if self._client is None:
                self._client = BackendClient(self._backends)
            answer = await self._client.post(endpoint, headers, body, timeout_s)
            span.set_attribute("task.dispatch.answer", type(answer).__name__)
            if not isinstance(answer, Accepted):
                span.set_status(StatusCode.ERROR)
            return answer

    async def _record(self, task: Task, answer: Answer) -> Dispatched:
        # Where a step is refused, the backend has reported meanwhile, or the attempt was overtaken: that counts.
        settings, queues = self._settings, self._queues
        if isinstance(answer, Accepted):
            granted = (await self._store.accepted(task)).granted
            if granted is None:
                granted = await self._asked(queues.accepted(task))
            self.hand_on(task.path, granted)
            return Dispatched.ACCEPTED
        if isinstance(answer, Busy):
            requeued = await self._store.requeue(task, status="Awaiting service availability")
            if isinstance(requeued, Moved):
                telemetry.transition(requeued.task)
                refused = queues.refused(task, requeued.task, after_s=answer.retry_after_s)
                self.hand_on(task.path, await self._asked(refused))
            return Dispatched.BUSY
        failures = task.failures + 1
        if isinstance(answer, Unreachable) and failures < settings.max_attempts:
            delay_s = backoff_s(settings.backoff_base_s, failures, random.random())
            status = f"Retrying - the backend {answer.reason}"
            requeued = await self._store.requeue(task, status=status, apart_s=delay_s, failed=True)
            if isinstance(requeued, Moved):
                telemetry.transition(requeued.task)
                self.hand_on(task.path, await self._asked(queues.failed(task, answered=answer.answered)))
            return Dispatched.RETRIED
        tried = f" (attempt {failures} of {settings.max_attempts})" if isinstance(answer, Unreachable) else ""
        return await self._fail(task, f"Failed - the backend {answer.reason}{tried}.")

    async def _put_back(self, task: Task) -> Dispatched:
        requeued = await self._store.requeue(task, status="Awaiting a free dispatcher")
        if isinstance(requeued, Moved):
            telemetry.transition(requeued.task)
            await self._queues.put_back(task, requeued.task)
            self._ask_again(task.path, self._settings.busy_retry_s)
        return Dispatched.BUSY

    async def _fail(self, task: Task, status: str) -> Dispatched:
        outcome = await self._store.fail_dispatch(task, status=status)
        if isinstance(outcome, Moved):
            await self.follow(outcome)
        return Dispatched.FAILED

    async def _asked(self, change: Awaitable[Granted]) -> Granted:
        """What a change of a queue grants. Where it cannot be told of the change, that is found when it is tended."""
        try:
            return await change
        except StoreUnavailable as error:
            log.warning("a queue could not be told of a change, and will be looked at: %s", error)
            return Granted([], None)

    async def _pump(self, path: str) -> None:
        self.hand_on(path, await self._queues.pump(path))

    def _ask_again(self, path: str, in_s: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(path)
        if timer is not None and timer.when() <= loop.time() + in_s:
            return
        if timer is not None:
            timer.cancel()

        def ask() -> None:
            del self._timers[path]
            self._start(self._pump(path))

        self._timers[path] = loop.call_later(in_s, ask)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except StoreUnavailable as error:
                log.warning("a slot could not be handed on, and will be: %s", error)
            except Exception:
                log.exception("A slot could not be handed on")

        task = asyncio.get_running_loop().create_task(run())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


def backoff_s(base_s: float, failures: int, jitter: float) -> float:
    """Delay before the next attempt: doubles with each failure to ten minutes at most; *jitter* in [0, 1) takes up
    to half of it away, so that tasks that failed together do not come back together."""
    return min(BACKOFF_CAP_S, base_s * 2.0 ** min(failures - 1, 30)) * (1 - jitter / 2)
