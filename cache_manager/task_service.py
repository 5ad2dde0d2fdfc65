"""The operations behind both APIs. They return outcomes and know no HTTP status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from cache_manager.schemas import TaskUpsert
from shared import telemetry
from shared.dispatch.registry import Endpoint, UnknownBackend
from shared.events.publisher import PublishFailed
from shared.http.legacy_json import LEGACY_CONTENT_TYPE
from shared.resilience.limits import Overloaded
from shared.services import Services
from shared.store import Listing, Page, StoreUnavailable
from shared.tasks import status_texts
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import (
    Applied,
    Created,
    Draining,
    Existing,
    Full,
    Outcome,
    QueuePosition,
    Refusal,
    Refused,
    SlotGrant,
)
from shared.tasks.task import Content, NewTask, State, Task
from shared.tasks.value import value

log = logging.getLogger("task_backbone")

_FIRST_POLL_S: Final = 0.025
_LAST_POLL_S: Final = 0.25


@value
class Unacceptable:
    """A request that makes no sense, though each of its members is valid. ``pointer`` names the member to change."""

    pointer: str
    detail: str


@value
class BodyTooLarge:
    limit_bytes: int


@value
class IdempotencyKeyReused:
    """An earlier request with the same key had another body; it made this task."""

    task: Task


SubmitOutcome = Created | Existing | Full | Draining | BodyTooLarge | IdempotencyKeyReused
UpsertOutcome = Task | Refused | Full | Draining | BodyTooLarge | Unacceptable


@dataclass(frozen=True, slots=True)
class TaskService:
    """The operations for one caller. A caller with an owner meets only that owner's tasks."""

    services: Services
    owner: str | None = None

    async def submit(self, new: NewTask, content_type: str, body: bytes) -> SubmitOutcome:
        """Create a task and have it dispatched."""
        content = await self._store_body(new.id, content_type, body)
        if isinstance(content, BodyTooLarge):
            return content
        created = await self._create(replace(new, body=content, inline_body=body))
        if not isinstance(created, Created):
            await self.services.bodies.discard(content)
        if isinstance(created, Existing) and created.task.fingerprint != new.fingerprint:
            return IdempotencyKeyReused(created.task)
        return created

    async def upsert(self, request: TaskUpsert) -> UpsertOutcome:
        """Create or update a task, as the legacy contract says (A1)."""
        try:
            endpoint = self.services.registry.resolve(request.endpoint) if request.endpoint is not None else None
        except UnknownBackend as error:
            return Unacceptable("/Endpoint", str(error))
        if request.publish_to_grid and request.state and request.state.is_terminal:
            return Unacceptable("/PublishToGrid", f"a task that is {request.backend_status} cannot be published")
        task_id = request.task_id or new_task_id()
        body = request.body.encode() if request.body else b""
        content = await self._store_body(task_id, LEGACY_CONTENT_TYPE, body) if body else None
        if isinstance(content, BodyTooLarge):
            return content
        outcome = await self._upsert(task_id, request, endpoint, content, body)
        if not isinstance(outcome, Task):
            await self.services.bodies.discard(content)
        return outcome

    async def put_result(
        self, task_id: str, attempt: int | None, content_type: str, data: bytes
    ) -> Outcome | BodyTooLarge:
        """Keep a model service's result."""
        started_ns = telemetry.now_ns()
        content = await self._store_body(task_id, content_type, data)
        if isinstance(content, BodyTooLarge):
            return content
        outcome = await self.services.store.put_result(task_id, content, data, attempt=attempt, owner=self.owner)
        if isinstance(outcome, Refused):
            await self.services.bodies.discard(content)
        else:
            telemetry.join(outcome.task, "store result", started_ns)
        return outcome

    async def find(self, task_id: str) -> Task | None:
        task = await self.services.store.get(task_id)
        return None if task is None or (self.owner is not None and task.owner != self.owner) else task

    async def heartbeat(self, task_id: str, attempt: int | None) -> Outcome:
        """Renew the lease of a task that a model service works on."""
        return await self.services.store.heartbeat(task_id, attempt=attempt, owner=self.owner)

    async def cancel(self, task_id: str) -> Outcome:
        outcome = await self.services.store.cancel(task_id, owner=self.owner)
        if isinstance(outcome, Applied):
            await self.services.dispatcher.after_transition(outcome)
        return outcome

    async def replay(self, task_id: str) -> Outcome:
        outcome = await self.services.store.replay(task_id, owner=self.owner)
        if isinstance(outcome, Applied):
            await self._publish_if_granted(outcome)
        return outcome

    async def position(self, task: Task) -> QueuePosition | None:
        """Where the task stands in its endpoint's queue, if it waits there."""
        if task.state is not State.CREATED or not task.dispatch_requested:
            return None
        return (await self.services.store.queues.status(task.path, task)).position

    async def page(self, listing: Listing) -> Page:
        return await self.services.store.page(replace(listing, owner=self.owner))

    async def wait_for_change(self, task: Task, seen: Callable[[Task], bool], seconds: float) -> Task | None:
        """The task once it is no longer as *seen* or has ended, or as it is when the time is up; as it is at once if
        too many requests wait already. None if it is gone."""
        with suppress(Overloaded), self.services.limits.wait():
            return await self._wait(task, seconds, lambda now: not seen(now))
        return task

    async def wait_for_end(self, task: Task, seconds: float, body_size_bytes: int) -> Task | None:
        """The task once it has ended, or as it is when the time is up. None if it is gone.

        Raises:
            Overloaded: too many requests wait already, or with too large bodies.
        """
        with self.services.limits.wait(body_size_bytes):
            return await self._wait(task, seconds, lambda now: False)

    async def _wait(self, task: Task, seconds: float, enough: Callable[[Task], bool]) -> Task | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause_s = _FIRST_POLL_S
        now: Task | None = task
        while now and not now.state.is_terminal and not enough(now) and (left_s := deadline - loop.time()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(_LAST_POLL_S, pause_s * 2)
            now = await self.find(task.id)
        return now

    async def _upsert(
        self, task_id: str, request: TaskUpsert, endpoint: Endpoint | None, content: Content | None, body: bytes
    ) -> UpsertOutcome:
        if request.task_id:
            changed = await self._change(task_id, request, endpoint, content, body)
            if not isinstance(changed, Refused) or changed.reason is not Refusal.UNKNOWN:
                return _task_of(changed)
        if endpoint is None:
            return Unacceptable("/Endpoint", "a new task needs one")
        if request.publish_to_grid and content is None:
            return Unacceptable("/Body", "a task to be published needs one, and none was kept")
        state = State.CREATED if request.publish_to_grid else request.state or State.CREATED
        created = await self._create(
            NewTask(
                task_id,
                endpoint.path,
                endpoint.backend.lease_s,
                status=state.value if request.status is None else request.status,
                state=state,
                query=endpoint.query,
                dispatch_requested=request.publish_to_grid,
                body=content,
                inline_body=body,
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
                return _task_of(await self._change(task_id, request, endpoint, content, body))
            case _:
                return created

    async def _change(
        self, task_id: str, request: TaskUpsert, endpoint: Endpoint | None, content: Content | None, body: bytes
    ) -> Outcome:
        started_ns = telemetry.now_ns()
        path, query = (endpoint.path, endpoint.query) if endpoint else (None, None)
        store = self.services.store
        if request.publish_to_grid:
            outcome = await store.next_step(
                task_id,
                status=request.status,
                lease_s=endpoint.backend.lease_s if endpoint else None,
                attempt=request.attempt,
                path=path,
                query=query,
                body=content,
                inline_body=body,
                owner=self.owner,
            )
        else:
            outcome = await store.update(
                task_id,
                state=request.state,
                status=request.status,
                attempt=request.attempt,
                told=_end_told(request),
                path=path,
                query=query,
                body=content,
                inline_body=body,
                owner=self.owner,
            )
        if isinstance(outcome, Applied):
            telemetry.join(outcome.task, f"update {outcome.task.state}", started_ns)
            await self._publish_if_granted(outcome)
        return outcome

    async def _create(self, new: NewTask) -> Created | Existing | Full | Draining:
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
                await self._publish(created.task)
        return created

    async def _publish_if_granted(self, applied: Applied) -> None:
        """Do what follows from a step. A task that got a slot by it is new work, which goes through Event Grid."""
        if await self.services.dispatcher.after_transition(applied, but=SlotGrant.of(applied.task)):
            await self._publish(applied.task)

    async def _publish(self, task: Task) -> None:
        try:
            await self.services.publisher.publish_dispatches([task])
        except PublishFailed as error:
            log.warning("task %s could not be published, and will be at its deadline: %s", task.id, error)

    async def _store_body(self, task_id: str, content_type: str, data: bytes) -> Content | BodyTooLarge:
        limit_bytes = self.services.settings.max_body_bytes
        if len(data) > limit_bytes:
            return BodyTooLarge(limit_bytes)
        return await self.services.bodies.put(task_id, content_type, data)


def _end_told(report: TaskUpsert) -> State | None:
    """The end that only the report's text tells. A service that sends its attempt says so in ``BackendStatus``."""
    if report.attempt is not None or report.status is None or (report.state and report.state.is_terminal):
        return None
    return status_texts.end_told(report.status)


def _task_of(outcome: Outcome) -> Task | Refused:
    return outcome if isinstance(outcome, Refused) else outcome.task
