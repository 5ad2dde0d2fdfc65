"""The dispatcher: claims attempts, calls their backends, and dispatches what a freed slot is granted to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from shared import telemetry
from shared.bodies import BlobsUnavailable, BodyMissing, BodyStore
from shared.dispatch.backend_calls import BackendCalls
from shared.dispatch.backend_client import (
    Accepted,
    BackendTransport,
    Busy,
    Completed,
    Erred,
    NotFound,
    Rejected,
    Unreachable,
    described,
)
from shared.dispatch.batches import Batches
from shared.dispatch.body_reference import TooLarge
from shared.dispatch.registry import BackendRegistry, Endpoint
from shared.dispatch.retry_policy import Fail, after_answer
from shared.events.publisher import Publisher, PublishFailed
from shared.resilience.limits import Limits, Overloaded
from shared.settings import Settings
from shared.store import (
    BackendAway,
    BackendBusy,
    BodyUnavailable,
    DispatcherFull,
    RequeueReason,
    ResultUnstored,
    StoreUnavailable,
    TaskStore,
)
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Granted, Refusal, Refused, SlotGrant
from shared.tasks.task import Task
from shared.tasks.told_slots import ToldSlots

log = logging.getLogger("task_backbone")

COMPLETIONS_BATCH: Final = 256
TASKS_PER_EVENT: Final = 10
"""While events stay unclaimed, one task of so many is published."""
_LONGEST_TIMER_S: Final = 5.0
"""The reconciler takes care of what is further ahead."""
_UNFILLED: Final = "a granted slot could not be filled"


class Dispatched(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    COMPLETED = "completed"
    """The answer was the result."""
    BUSY = "busy"
    RETRIED = "retried"
    FAILED = "failed"
    WAITING = "waiting"
    """The task waits in its endpoint's queue."""
    DROPPED = "dropped"
    """A duplicate, or overtaken by another attempt: there was nothing to do."""


class _ResultRoom(ExitStack):
    """Room for the result in an answer, until it is stored."""

    def __init__(self, path: str, most_bytes: int, limits: Limits) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self._path = path
        self._limits = limits

    def take(self, size_bytes: int) -> None:
        self.enter_context(self._limits.dispatched(self._path, size_bytes))


class Dispatcher:
    """One per event loop.

    Attributes:
        batches: what follows from the steps of batches and their children.
        note_callback: has a task's destination told how the task is now.
    """

    def __init__(
        self,
        settings: Settings,
        registry: BackendRegistry,
        store: TaskStore,
        bodies: BodyStore,
        limits: Limits,
        backend: BackendTransport,
        events: Publisher,
        completions: Publisher | None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._bodies = bodies
        self._limits = limits
        self._backend = backend
        self._calls = BackendCalls(settings, bodies, backend)
        self._events = events
        self._topic = urlsplit(settings.event_grid_topic_uri).hostname or ""
        self._completions = completions
        self._begun = 0
        self._background: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.note_callback: Callable[[Task], object] = lambda task: None
        self.batches = Batches(store, bodies, registry, self)
        store.after_unacknowledged = self._follow_unacknowledged

    async def begin(self, task: Task) -> None:
        """Have new work dispatched that found a slot when it came: by an event, which spreads work over the
        instances.

        This process dispatches it if the event cannot be published, or while events stay unclaimed; then one in ten
        is published all the same, to learn whether events are claimed again.
        """
        if self._store.rounds.events_are_claimed:
            self._begun = 0
        else:
            is_published = self._begun % TASKS_PER_EVENT == 0
            self._begun += 1
            if not is_published:
                self._dispatch_here([task])
                return
        try:
            await self._events.publish_dispatches([task])
        except PublishFailed as error:
            text = "task %s could not be published, and is dispatched at once: %s"
            log.warning(text, task.id, error, extra=telemetry.about(task.id))
            self._dispatch_here([task])

    async def begin_again(self, tasks: Sequence[Task]) -> None:
        """Have tasks dispatched whose events led to no claim: by this process, and by events again, since this
        process may end before that."""
        self._dispatch_here(tasks)
        try:
            await self._events.publish_dispatches(tasks, bypass_circuit=True)
        except PublishFailed as error:
            log.warning("%d unclaimed tasks could not be published again: %s", len(tasks), error)

    async def dispatch(self, task_id: str, attempt: int | None, traceparent: str = "") -> Dispatched:
        """Dispatch the attempt of a task that an event named; None means the current one.

        Raises:
            StoreUnavailable: the claim or the outcome could not be recorded. The attempt's deadline finds the task.
        """
        claimed = await self._store.claim(task_id, attempt)
        if isinstance(claimed, Refused) and claimed.reason is Refusal.SLOTLESS:
            return await self._dispatch_slotless(claimed, traceparent)
        if isinstance(claimed, Claimed):
            if not self._store.rounds.events_are_claimed:
                await self._store.rounds.note_events(are_claimed=True)
            return await self._dispatch(claimed, traceparent)
        log.info("dropped an event for task %s: %s", task_id, claimed.reason, extra=telemetry.about(task_id))
        await self._after_refused_claim(claimed)
        return Dispatched.DROPPED

    def dispatch_granted(self, granted: Iterable[Granted], *, but: SlotGrant | None = None) -> bool:
        """Dispatch the attempts that were granted slots, *but* for one that goes another way, and ask the queues
        again when that may grant more.

        Does not wait: a backend that reports an end may be unable to take the next task before it has its answer.

        Returns:
            Whether that one was granted a slot.
        """
        is_granted = False
        for each in granted:
            for grant in each.grants:
                if grant == but:
                    is_granted = True
                else:
                    self.start(self._dispatch_one_granted(each, grant), _UNFILLED, grant.task_id)
            if each.ask_again_s is not None and each.ask_again_s <= _LONGEST_TIMER_S:
                self._ask_again(each.path, each.ask_again_s)
        return is_granted

    async def take_told(self, path: str, told: ToldSlots) -> None:
        """Inform the queue of what an instance of its backend tells, and dispatch what that grants. If that fails, it
        will be told again."""
        try:
            granted = await self._store.queues.tell(path, told)
        except StoreUnavailable as error:
            log.warning("a queue could not be informed of what its backend tells, and will be: %s", error)
            return
        if granted is not None:
            self.dispatch_granted([granted])

    async def after_transition(self, applied: Applied, *, but: SlotGrant | None = None) -> bool:
        """Do what follows from a step, whatever caused it: report the transition, dispatch what was granted, publish
        a completion, delete the blobs that it has replaced. What fails here is done at the task's deadline.

        Returns:
            Whether *but* was granted a slot, as in :meth:`dispatch_granted`.
        """
        if applied.is_transition:
            telemetry.transition(applied.task, applied.late_ms)
        is_granted = self.dispatch_granted(applied.granted, but=but)
        if applied.is_transition:
            await self.publish_completions([applied.task])
            if applied.task.batch:
                self.batches.note(applied.task)
        if applied.task.callback is not None:
            self.note_callback(applied.task)
        for blob in applied.unnamed_blobs:
            self.start(self._bodies.discard_blob(blob), "an unused blob could not be deleted")
        return is_granted

    def _follow_unacknowledged(self, applied: Applied) -> None:
        """The caller of a step hears that the store does not answer, but the slots are granted and others wait."""
        self.start(self._follow(applied), "what follows from an unacknowledged step could not be done")

    async def _follow(self, applied: Applied) -> None:
        await self.after_transition(applied)

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        """Publish the completions of those of the tasks whose completion is still unpublished."""
        ended = [task for task in tasks if task.completion_unpublished]
        if self._completions is None:
            return
        for start in range(0, len(ended), COMPLETIONS_BATCH):
            batch = ended[start : start + COMPLETIONS_BATCH]
            try:
                await self._completions.publish_completions(batch, bypass_circuit=bypass_circuit)
                await self._store.mark_completions_published(task.id for task in batch)
            except (PublishFailed, StoreUnavailable) as error:
                left = len(ended) - start
                log.warning("the completions of %d tasks could not be published, and will be: %s", left, error)
                return

    async def aclose(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._backend.aclose()
        if self._completions is not None:
            await self._completions.aclose()

    def _dispatch_here(self, tasks: Iterable[Task]) -> None:
        self.dispatch_granted(Granted(task.path, [SlotGrant.of(task)]) for task in tasks)

    async def _dispatch_slotless(self, refused: Refused, traceparent: str) -> Dispatched:
        """An event came for a task that held no slot, and waits for one now like every other, if it has got none."""
        assert refused.task is not None
        (granted,) = refused.granted
        own = SlotGrant.of(refused.task)
        if self.dispatch_granted([granted], but=own):
            claimed = await self._store.claim_granted(granted, own)
        else:
            claimed = await self._store.claim_held(own)  # another event of it may have got the slot
        if isinstance(claimed, Claimed):
            return await self._dispatch(claimed, traceparent)
        await self._after_refused_claim(claimed)
        if claimed.reason is not Refusal.SLOTLESS:
            return Dispatched.DROPPED
        text = "an event came for task %s, which has to wait for a slot"
        log.warning(text, own.task_id, extra=telemetry.about(own.task_id))
        return Dispatched.WAITING

    async def _dispatch_one_granted(self, granted: Granted, grant: SlotGrant) -> None:
        claimed = await self._store.claim_granted(granted, grant)
        if isinstance(claimed, Claimed):
            await self._dispatch(claimed, "", is_delivered=False)
        else:
            await self._after_refused_claim(claimed)

    async def _after_refused_claim(self, refused: Refused) -> None:
        """If the task has expired, its slot must not stand idle until its deadline is looked at: it ends now."""
        if refused.reason is Refusal.EXPIRED and refused.task is not None:
            ended = await self._store.expire(refused.task)
            if isinstance(ended, Applied):
                await self.after_transition(ended)
            else:
                self.dispatch_granted(ended.granted)
        self.dispatch_granted(refused.granted)

    async def _dispatch(self, claimed: Claimed, traceparent: str, *, is_delivered: bool = True) -> Dispatched:
        task = claimed.task
        endpoint = self._registry.endpoint_of(task.path, task.query)
        backend = endpoint.backend.prefix if endpoint is not None else ""
        topic = self._topic if is_delivered else None
        with telemetry.consumer_span(task, SlotGrant.of(task).entry_id, traceparent, topic):
            telemetry.transition(task)
            try:
                passing_bytes = self._calls.passing_bytes(task, endpoint)
                own_path = task.path.removeprefix(backend)
                with (
                    self._limits.dispatches.hold(backend, own_path),
                    self._limits.dispatched(task.path, passing_bytes),
                ):
                    return await self._call_backend(claimed, endpoint)
            except Overloaded:
                return await self._return_to_queue(task, DispatcherFull())

    async def _call_backend(self, claimed: Claimed, endpoint: Endpoint | None) -> Dispatched:
        task = claimed.task
        if endpoint is None or not endpoint.is_registered:
            return await self._return_to_queue(task, BackendAway(status_texts.UNREGISTERED, None))
        with _ResultRoom(task.path, self._settings.largest_body_bytes, self._limits) as room:
            try:
                answer = await self._calls.call(claimed, endpoint, room)
            except TooLarge:
                telemetry.setback(task, status_texts.BODY_TOO_LARGE)
                return await self._fail(task, status_texts.BODY_TOO_LARGE, EndReason.REJECTED)
            except BodyMissing:
                return await self._handle_missing_body(task)
            except BlobsUnavailable:
                return await self._return_to_queue(task, BodyUnavailable())
            if answer.told is not None:
                await self.take_told(task.path, answer.told)
            if isinstance(answer, Completed):
                return await self._complete(task, answer, endpoint.backend.prefix)
        if not isinstance(answer, Accepted):
            telemetry.setback(task, f"the backend {described(answer)}", is_expected=isinstance(answer, Busy))
        return await self._record(task, answer, endpoint.backend.prefix)

    async def _handle_missing_body(self, task: Task) -> Dispatched:
        now = await self._store.get(task.id)
        if now is not None and now.body != task.body:  # a report has replaced it meanwhile
            return await self._return_to_queue(task, BodyUnavailable())
        telemetry.setback(task, status_texts.BODY_GONE)
        return await self._fail(task, status_texts.BODY_GONE, EndReason.REJECTED)

    async def _complete(self, task: Task, answer: Completed, backend: str) -> Dispatched:
        """The answer has the result. If it cannot be stored, the task is worked on again."""
        try:
            content = await self._bodies.put(task.id, answer.content_type, answer.data, answer.encoding)
        except BlobsUnavailable:
            return await self._return_to_queue(task, ResultUnstored())
        outcome = await self._store.complete(task, content, answer.data, status=answer.status, backend=backend)
        if not isinstance(outcome, Applied):
            self.dispatch_granted(outcome.granted)
        elif await self.after_transition(outcome, but=SlotGrant.of(outcome.task)):
            await self.begin(outcome.task)  # in the next step of its pipeline
        # The attempt was overtaken, or its result was stored before the answer to that was lost.
        if outcome.task is None or content not in (outcome.task.result, outcome.task.body):
            await self._bodies.discard(content)
        return Dispatched.COMPLETED

    async def _record(
        self, task: Task, answer: Accepted | Busy | Unreachable | NotFound | Erred | Rejected, backend: str
    ) -> Dispatched:
        # If a step is refused, the backend has reported meanwhile or the attempt was overtaken, and that counts.
        if isinstance(answer, Accepted):
            self.dispatch_granted(await self._store.accept(task, backend))
            return Dispatched.ACCEPTED
        decision = after_answer(answer, backend, task.failures, self._settings.max_attempts)
        if isinstance(decision, Fail):
            return await self._fail(task, decision.status, decision.reason)
        return await self._return_to_queue(task, decision)

    async def _return_to_queue(self, task: Task, reason: RequeueReason) -> Dispatched:
        if isinstance(reason, BodyUnavailable):
            telemetry.setback(task, status_texts.AWAITING_BODY)
        requeued = await self._store.requeue(task, reason)
        if isinstance(requeued, Applied):
            await self.after_transition(requeued)
            if isinstance(reason, DispatcherFull):
                self._ask_again(task.path, self._settings.busy_retry_s)
        else:
            self.dispatch_granted(requeued.granted)
        return Dispatched.BUSY if isinstance(reason, (BackendBusy, DispatcherFull)) else Dispatched.RETRIED

    async def _fail(self, task: Task, status: str, reason: EndReason) -> Dispatched:
        outcome = await self._store.fail(task, status=status, reason=reason)
        if isinstance(outcome, Applied):
            await self.after_transition(outcome)
        return Dispatched.FAILED

    async def _grant_free_slots(self, path: str) -> None:
        self.dispatch_granted([await self._store.queues.grant_free_slots(path)])

    def _ask_again(self, path: str, in_s: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(path)
        if timer is not None and timer.when() <= loop.time() + in_s:
            return
        if timer is not None:
            timer.cancel()

        def ask() -> None:
            del self._timers[path]
            self.start(self._grant_free_slots(path), _UNFILLED)

        self._timers[path] = loop.call_later(in_s, ask)

    def start(self, work: Coroutine[Any, Any, None], failed: str, task_id: str | None = None) -> asyncio.Task[None]:
        """Do *work* in the background. The log says that it *failed* if Redis does not answer, or by a bug.

        Args:
            task_id: of the task that the work is about, if it is another than the one that is being handled.
        """
        extra = None if task_id is None else telemetry.about(task_id)

        async def run() -> None:
            try:
                await work
            except StoreUnavailable as error:
                log.warning("%s, and will be: %s", failed, error, extra=extra)
            except Exception:
                log.exception(failed, extra=extra)

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
