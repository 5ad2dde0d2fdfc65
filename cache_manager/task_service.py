"""The operations behind both APIs. They return outcomes and know no HTTP status."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cache_manager.operation_outcomes import (
    BodyTooLarge,
    IdempotencyKeyReused,
    SubmitOutcome,
    Unacceptable,
    UpsertOutcome,
)
from cache_manager.schemas import Heartbeat, TaskHeartbeat, TaskRelease, TaskUpsert
from shared import step_counts, telemetry
from shared.bodies import BlobsUnavailable, BodyMissing
from shared.dispatch.registry import Endpoint, UnknownBackend
from shared.http.legacy_json import LEGACY_CONTENT_TYPE
from shared.resilience.limits import Overloaded
from shared.services import Services
from shared.store import QueueStatus, SentOn, StoreUnavailable
from shared.tasks import status_texts
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import (
    Applied,
    BatchRefused,
    Created,
    Draining,
    Existing,
    Full,
    Outcome,
    Refusal,
    Refused,
    SlotGrant,
)
from shared.tasks.task import Content, LongStatus, NewTask, State, Task
from shared.tasks.told_slots import ToldSlots
from shared.tasks.value import value

log = logging.getLogger("task_backbone")

STATUS_CONTENT_TYPE: Final = "text/plain; charset=utf-8"


@value
class _Upsert:
    """What a legacy client asks for, with the parts of it that are too large for Redis already stored elsewhere.

    Attributes:
        endpoint: None if it names none, or one that leads nowhere.
        no_endpoint: why there is none, if the task needs one.
        status, long_status: as a record has them.
    """

    request: TaskUpsert
    task_id: str
    endpoint: Endpoint | None
    no_endpoint: str
    body: Content | None
    inline_body: bytes
    status: str | None
    long_status: LongStatus | None


@dataclass(frozen=True, slots=True)
class TaskService:
    """The operations for one caller. A caller with an owner meets only that owner's tasks.

    Attributes:
        client: by which a caller without an owner is told from others, as far as it can be.
        told: what it tells of itself, if it is an instance of a model service.
        by: the operator who asks, empty if nobody knows the name; None: no operator does.
    """

    services: Services
    owner: str | None = None
    client: str = ""
    told: ToldSlots | None = None
    by: str | None = None

    async def submit(self, new: NewTask, content_type: str, body: bytes, encoding: str = "") -> SubmitOutcome:
        """Create a task and have it dispatched."""
        content = await self._store_body(new.id, content_type, body, encoding)
        if isinstance(content, BodyTooLarge):
            return content
        created = await self.create(replace(new, body=content, inline_body=body))
        if not isinstance(created, Created):
            await self._discard_unless_named(content, created.task if isinstance(created, Existing) else None)
        if isinstance(created, Existing) and created.task.fingerprint != new.fingerprint:
            return IdempotencyKeyReused(created.task)
        return created

    async def upsert(self, request: TaskUpsert) -> UpsertOutcome:
        """Create or update a task, as the legacy contract says (A1)."""
        endpoint, no_endpoint = None, "a new task needs one"
        try:
            if request.endpoint is not None:
                endpoint = self.services.registry.resolve(request.endpoint)
                await self.services.endpoint_bound.admit(endpoint)
        except UnknownBackend as error:
            # A task manager sends back what it got as Endpoint, or a fallback of its own: a report must not be lost
            # for that. A next step says where to go.
            if request.task_id is None or request.publish_to_grid:
                return Unacceptable("/Endpoint", str(error))
            endpoint, no_endpoint = None, str(error)
        if request.publish_to_grid and request.state and request.state.is_terminal:
            return Unacceptable("/PublishToGrid", f"a task that is {request.backend_status} cannot be published")
        task_id = request.task_id or new_task_id()
        body = request.body or b""
        content = await self._store_body(task_id, LEGACY_CONTENT_TYPE, body) if body else None
        if isinstance(content, BodyTooLarge):
            return content
        status, is_long = (None, False) if request.status is None else status_texts.beginning(request.status)
        long_status = None
        if is_long:
            assert request.status is not None
            stored = await self._store_status(task_id, request.status)
            if isinstance(stored, BodyTooLarge):
                await self.services.bodies.discard(content)
                return stored
            long_status = stored
        upsert = _Upsert(request, task_id, endpoint, no_endpoint, content, body, status, long_status)
        outcome = await self._upsert(upsert)
        task = outcome if isinstance(outcome, Task) else outcome.task if isinstance(outcome, Refused) else None
        await self._discard_unless_named(content, task)
        if long_status is None:
            return outcome
        if task is None or task.long_status != long_status:
            await self.services.bodies.discard_blob(long_status.blob)
        elif isinstance(outcome, Task):
            return replace(outcome, whole_status=request.status, long_status=None)
        return outcome

    async def put_result(
        self,
        task_id: str,
        attempt: int | None,
        content_type: str,
        data: bytes,
        encoding: str = "",
        completed: str | None = None,
    ) -> Outcome | BodyTooLarge:
        """Keep a model service's result, and complete the task with the text *completed* in the same step."""
        started_ns = telemetry.now_ns()
        content = await self._store_body(task_id, content_type, data, encoding)
        if isinstance(content, BodyTooLarge):
            return content
        outcome = await self.services.store.put_result(
            task_id, content, data, attempt=attempt, completed=completed, owner=self.owner
        )
        if isinstance(outcome, Applied):
            telemetry.join(outcome.task, "store result", started_ns)
        return await self.after_put(content, outcome)

    async def put_checkpoint(
        self, task_id: str, attempt: int | None, content_type: str, data: bytes, encoding: str
    ) -> Outcome | BodyTooLarge:
        """Keep what a model service may go on from at the next attempt."""
        content = await self._store_body(task_id, content_type, data, encoding)
        if isinstance(content, BodyTooLarge):
            return content
        outcome = await self.services.store.put_checkpoint(task_id, content, data, attempt=attempt, owner=self.owner)
        return await self.after_put(content, outcome)

    async def send_on(
        self,
        task_id: str,
        attempt: int,
        endpoint: Endpoint,
        sent_on: SentOn,
        content_type: str,
        data: bytes,
        encoding: str,
    ) -> Outcome | BodyTooLarge:
        """Send a task on to another endpoint, as the model service wishes that has the attempt."""
        content = None
        if sent_on.body == "given":
            content = await self._store_body(task_id, content_type, data, encoding)
            if isinstance(content, BodyTooLarge):
                return content
        outcome = await self.services.store.next_step(
            task_id,
            sent_on=sent_on,
            status=State.CREATED.value,
            attempt=attempt,
            path=endpoint.path,
            query=endpoint.query,
            body=content,
            inline_body=data,
            owner=self.owner,
            bounds=endpoint.backend.bounds,
        )
        return await self.after_put(content, outcome)

    async def find(self, task_id: str) -> Task | None:
        task = await self.services.store.get(task_id)
        return None if task is None or (self.owner is not None and task.owner != self.owner) else task

    async def whole(self, task: Task) -> Task:
        """The task with its whole status text; with the beginning of the text if the rest is gone.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
            Overloaded: too many large bodies are in flight.
        """
        while (long := task.long_status) is not None:
            try:
                with self.services.limits.body(long.size_bytes):
                    text = await self.services.bodies.read(Content(STATUS_CONTENT_TYPE, long.size_bytes, long.blob))
                return replace(task, whole_status=text, long_status=None)
            except BodyMissing:
                again = await self.find(task.id)
                if again is None or again.long_status == long:
                    return replace(task, long_status=None)
                task = again  # another text has replaced it meanwhile
        return task

    async def whole_if_possible(self, task: Task) -> Task:
        """As :meth:`whole`, for the answer to a change: an error would tell the client that it was not made."""
        try:
            return await self.whole(task)
        except (BlobsUnavailable, Overloaded, StoreUnavailable) as error:
            log.warning("task %s was told with half its text: %s", task.id, error, extra=telemetry.about(task.id))
            return task

    async def heartbeat(self, task_id: str, attempt: int | None, beat: Heartbeat) -> Outcome:
        """Renew the lease of a task that a model service works on."""
        outcome = await self.services.store.heartbeat(
            task_id, attempt=attempt, status=beat.status, progress=beat.progress, owner=self.owner
        )
        await self._take_told(outcome)
        return outcome

    async def heartbeats(self, beats: Sequence[TaskHeartbeat]) -> list[Outcome | None]:
        """Each one's outcome; None for a task whose part of Redis does not answer.

        Raises:
            StoreUnavailable: none of it answers.
        """
        outcomes = await asyncio.gather(
            *(self.heartbeat(beat.task_id, beat.attempt, beat) for beat in beats), return_exceptions=True
        )
        unavailable = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]
        if unavailable and len(unavailable) == len(outcomes):
            raise unavailable[0]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, StoreUnavailable):
                raise outcome
        return [None if isinstance(outcome, BaseException) else outcome for outcome in outcomes]

    async def release(self, task_id: str, attempt: int, request: TaskRelease) -> Outcome:
        """Take back an attempt that its model service gives back."""
        outcome = await self.services.store.release(
            task_id,
            attempt=attempt,
            status=request.status,
            failed=bool(request.failed),
            after_s=request.retry_after_seconds or 0,
            told=self.told,
            owner=self.owner,
        )
        await self._take_told(outcome)
        if isinstance(outcome, Applied):
            if outcome.is_transition:
                telemetry.setback(outcome.task, f"the backend gave it back: {outcome.task.status}")
            await self.services.dispatcher.after_transition(outcome)
        return outcome

    async def cancel(self, task_id: str) -> Outcome:
        outcome = await self.services.store.cancel(task_id, owner=self.owner, by=self.by)
        if isinstance(outcome, Applied):
            await self.services.dispatcher.after_transition(outcome)
        return outcome

    async def replay(self, task_id: str, once: str | None = None) -> Outcome:
        outcome = await self.services.store.replay(task_id, owner=self.owner, by=self.by, once=once)
        if isinstance(outcome, Applied):
            await self._publish_if_granted(outcome)
        return outcome

    async def queue_status(self, task: Task) -> QueueStatus | None:
        """How the queue stands in which the task waits, with the task's position; None if it does not wait."""
        if not task.is_queued:
            return None
        return await self.services.store.queues.status(task.path, task)

    async def wait_for_change(self, task: Task, seen: Callable[[Task], bool], seconds: float) -> Task | None:
        """The task once it is no longer as *seen* or has ended; or as it is when the time is up, or when the wait
        makes room for another one. None if it is gone."""
        if task.state.is_terminal or not seen(task):
            return task
        async with self.services.limits.wait(self.owner or self.client, seconds):
            return await self.services.store.wait(task, lambda now: not seen(now))
        return await self.find(task.id)

    async def wait_for_end(self, task: Task, seconds: float, body_size_bytes: int) -> tuple[Task | None, bool]:
        """The task once it has ended; or as it is when the time is up, or when the wait makes room for another one,
        and whether it did. None if the task is gone.

        Raises:
            Overloaded: requests with too large bodies wait already.
        """
        if task.state.is_terminal or not seconds:
            return task, False
        async with self.services.limits.wait(self.owner or self.client, seconds, body_size_bytes) as wait:
            return await self.services.store.wait(task, lambda now: False), False
        return await self.find(task.id), wait.is_cut

    async def _upsert(self, upsert: _Upsert) -> UpsertOutcome:
        request, endpoint = upsert.request, upsert.endpoint
        if request.task_id:
            changed = await self._change(upsert)
            # An owner that chose an id could tell which ids others have, and take one before another does.
            if self.owner is not None or not isinstance(changed, Refused) or changed.reason is not Refusal.UNKNOWN:
                return _task_of(changed)
        if endpoint is None:
            return Unacceptable("/Endpoint", upsert.no_endpoint)
        if request.publish_to_grid and upsert.body is None:
            return Unacceptable("/Body", "a task to be published needs one, and none was kept")
        state = State.CREATED if request.publish_to_grid else request.state or State.CREATED
        created = await self.create(
            NewTask(
                upsert.task_id,
                endpoint.path,
                **endpoint.backend.bounds,
                status=state.value if upsert.status is None else upsert.status,
                long_status=upsert.long_status,
                state=state,
                query=endpoint.query,
                dispatch_requested=request.publish_to_grid,
                body=upsert.body,
                inline_body=upsert.inline_body,
                traceparent=telemetry.traceparent(),
                owner=self.owner or "",
                priority=request.priority,
            )
        )
        match created:
            case Created():
                return created.task
            case Existing():
                # Another call created it between the two steps: now it is an update.
                return _task_of(await self._change(upsert))
            case _:
                return created

    async def _change(self, upsert: _Upsert) -> Outcome:
        started_ns = telemetry.now_ns()
        request, endpoint = upsert.request, upsert.endpoint
        path, query = (endpoint.path, endpoint.query) if endpoint else (None, None)
        store = self.services.store
        if request.publish_to_grid:
            outcome = await store.next_step(
                upsert.task_id,
                status=upsert.status,
                long_status=upsert.long_status,
                attempt=request.attempt,
                path=path,
                query=query,
                body=upsert.body,
                inline_body=upsert.inline_body,
                owner=self.owner,
                bounds=endpoint.backend.bounds if endpoint else None,
            )
        else:
            outcome = await store.update(
                upsert.task_id,
                state=request.state,
                status=upsert.status,
                long_status=upsert.long_status,
                attempt=request.attempt,
                told=request.end_told,
                path=path,
                query=query,
                body=upsert.body,
                inline_body=upsert.inline_body,
                progress=request.progress,
                owner=self.owner,
            )
        await self._take_told(outcome)
        if isinstance(outcome, Applied):
            telemetry.join(outcome.task, f"update {outcome.task.state}", started_ns)
            await self._publish_if_granted(outcome)
        return outcome

    async def create(self, new: NewTask) -> Created | Existing | Full | Draining | BatchRefused:
        """Create a task whose body is stored already if it is large, and have it dispatched."""
        new = self.services.destinations.with_default(new)
        try:
            created = await self.services.store.create(new)
        except StoreUnavailable as error:
            self.services.dispatcher.dispatch_granted(error.granted)
            raise
        if isinstance(created, Existing):
            self.services.dispatcher.dispatch_granted(created.granted)
        elif isinstance(created, Created):
            telemetry.transition(created.task)
            if self.services.dispatcher.dispatch_granted(created.granted, but=SlotGrant.of(created.task)):
                await self.services.dispatcher.begin(created.task)
        return created

    async def _publish_if_granted(self, applied: Applied) -> None:
        """Do what follows from a step. A task that got a slot by it is new work, which goes through Event Grid."""
        if await self.services.dispatcher.after_transition(applied, but=SlotGrant.of(applied.task)):
            await self.services.dispatcher.begin(applied.task)

    async def _store_body(
        self, task_id: str, content_type: str, data: bytes, encoding: str = ""
    ) -> Content | BodyTooLarge:
        if len(data) > (limit_bytes := self.services.settings.largest_body_bytes):
            return BodyTooLarge(limit_bytes)
        return await self.services.bodies.put(task_id, content_type, data, encoding)

    async def _take_told(self, outcome: Outcome) -> None:
        step_counts.report(outcome)
        if self.told is None or outcome.task is None or not outcome.task.dispatch_requested:
            return
        await self.services.dispatcher.take_told(outcome.path, self.told)

    async def after_put(self, content: Content | None, outcome: Outcome) -> Outcome:
        """Do what follows from a step that was to keep the *content*, which was stored for it."""
        await self._take_told(outcome)
        if isinstance(outcome, Applied):
            await self._publish_if_granted(outcome)
        await self._discard_unless_named(content, outcome.task)
        return outcome

    async def _discard_unless_named(self, content: Content | None, task: Task | None) -> None:
        """Delete what was stored for a step that has not kept it. A refused step may have kept it: at an earlier try,
        whose answer was lost."""
        if task is None or content not in (task.body, task.result, task.checkpoint):
            await self.services.bodies.discard(content)

    async def _store_status(self, task_id: str, data: bytes) -> LongStatus | BodyTooLarge:
        content = await self._store_body(task_id, STATUS_CONTENT_TYPE, data)
        if isinstance(content, BodyTooLarge):
            return content
        assert content.blob is not None
        # In a thread: it takes a while for a large text.
        digest = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
        return LongStatus(content.size_bytes, content.blob, digest)


def _task_of(outcome: Outcome) -> Task | Refused:
    return outcome if isinstance(outcome, Refused) else outcome.task
