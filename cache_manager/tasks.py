"""What can be done with a task: the operations behind both APIs."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from cache_manager.wire import TaskUpsert, TaskView
from shared import telemetry
from shared.backends import Endpoint, UnknownBackend
from shared.dispatcher import Entered
from shared.events import PublishFailed
from shared.limits import Overloaded
from shared.problems import Problem, invalid, no_such_task, too_large
from shared.services import Services
from shared.task import Content, State, Task
from shared.task_id import new_task_id
from shared.task_store import (
    Created,
    Draining,
    Existing,
    Full,
    Listing,
    Moved,
    NewTask,
    Outcome,
    Page,
    QueuePlace,
    Refusal,
    Refused,
)

log = logging.getLogger("task_backbone")

LEGACY_CONTENT_TYPE = "application/json; charset=utf-8"
_FIRST_POLL_S = 0.025
_LAST_POLL_S = 0.25
_UNKNOWN_WAIT_S = 10


@dataclass(frozen=True, slots=True)
class Tasks:
    """The operations, for a caller that has or has not an owner: who has one meets only the owner's tasks."""

    services: Services
    owner: str | None = None

    async def submit(self, new: NewTask, content_type: str, body: bytes) -> Created | Existing:
        """Create a task and have it dispatched.

        Raises:
            Problem: 413 if the body is too large, 429 or 503 if the queue does not take the task.
        """
        content = await self._store_body(new.id, content_type, body)
        try:
            created = await self._create(replace(new, body=content, inline_body=body))
        except Problem:
            await self.services.bodies.discard(content)
            raise
        if isinstance(created, Existing):
            await self.services.bodies.discard(content)
        return created

    async def upsert(self, request: TaskUpsert) -> Task:
        """Create or update a task as the existing contract says (A1).

        Raises:
            Problem: the request makes no sense, or the task's state or attempt forbids it.
        """
        endpoint = self._endpoint(request)
        if request.publish_to_grid and request.state and request.state.is_terminal:
            raise invalid("/PublishToGrid", f"a task that is {request.backend_status} cannot be published")
        task_id = request.task_id or new_task_id()
        body = request.body.encode() if request.body else b""
        content = await self._store_body(task_id, LEGACY_CONTENT_TYPE, body) if body else None
        try:
            return await self._upsert(task_id, request, endpoint, content, body)
        except Problem:
            await self.services.bodies.discard(content)
            raise

    async def put_result(self, task_id: str, attempt: int | None, content_type: str, data: bytes) -> Task:
        """Keep what a model service made.

        Raises:
            Problem: 404, 409 or 413.
        """
        started_ns = telemetry.now_ns()
        content = await self._store_body(task_id, content_type, data)
        outcome = await self.services.store.put_result(task_id, content, data, attempt=attempt, owner=self.owner)
        if isinstance(outcome, Refused):
            await self.services.bodies.discard(content)
            raise self._refusal(outcome)
        telemetry.join(outcome.task, "store result", started_ns)
        return outcome.task

    async def get(self, task_id: str) -> Task:
        """
        Raises:
            Problem: 404.
        """
        task = await self.find(task_id)
        if task is None:
            raise no_such_task()
        return task

    async def find(self, task_id: str) -> Task | None:
        task = await self.services.store.get(task_id)
        return None if task is None or (self.owner is not None and task.owner != self.owner) else task

    async def beat(self, task_id: str, attempt: int | None) -> Task:
        """A sign of life of who works on the task.

        Raises:
            Problem: 404, 409.
        """
        return self._taken(await self.services.store.beat(task_id, attempt=attempt, owner=self.owner))

    async def cancel(self, task_id: str) -> Task:
        """
        Raises:
            Problem: 404, 409.
        """
        outcome = await self.services.store.cancel(task_id, owner=self.owner)
        task = self._taken(outcome)
        if isinstance(outcome, Moved):
            await self.services.dispatcher.follow(outcome)
        return task

    async def replay(self, task_id: str) -> Task:
        """
        Raises:
            Problem: 404, 409.
        """
        outcome = await self.services.store.replay(task_id, owner=self.owner)
        task = self._taken(outcome)
        if isinstance(outcome, Moved):
            await self._go_on(outcome)
        return task

    async def place(self, task: Task) -> QueuePlace | None:
        """Where the task stands in its endpoint's queue, if it waits there."""
        if task.state is not State.CREATED or not task.wanted:
            return None
        return (await self.services.queues.status(task.path, task)).place

    async def page(self, listing: Listing) -> Page:
        return await self.services.store.page(replace(listing, owner=self.owner))

    async def wait_for_change(self, task: Task, seen: Callable[[Task], bool], seconds: float) -> Task:
        """The task once it is no longer as *seen* or it is finished; as it is when the time is up, which is at once
        where too many wait already."""
        return await self._wait(task, seconds, lambda now: not seen(now)) or task

    async def wait_for_end(self, task: Task, seconds: float, body_size_bytes: int) -> Task | None:
        """The task once it is finished, or as it is when the time is up; None where too many wait already, or with
        too large bodies."""
        return await self._wait(task, seconds, lambda now: False, body_size_bytes)

    async def _wait(
        self, task: Task, seconds: float, enough: Callable[[Task], bool], body_size_bytes: int = 0
    ) -> Task | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause_s = _FIRST_POLL_S
        with suppress(Overloaded), self.services.limits.wait(body_size_bytes):
            while not task.state.is_terminal and not enough(task) and (left_s := deadline - loop.time()) > 0:
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(_LAST_POLL_S, pause_s * 2)
                task = await self.get(task.id)
            return task
        return None

    async def _upsert(
        self, task_id: str, request: TaskUpsert, endpoint: Endpoint | None, content: Content | None, body: bytes
    ) -> Task:
        if request.task_id:
            outcome = await self._change(task_id, request, endpoint, content, body)
            if isinstance(outcome, Moved):
                return outcome.task
            if outcome.reason is not Refusal.UNKNOWN:
                raise self._refusal(outcome)
        if endpoint is None:
            raise invalid("/Endpoint", "a new task needs one")
        if request.publish_to_grid and content is None:
            raise invalid("/Body", "a task to be published needs one, and none was kept")
        state = State.CREATED if request.publish_to_grid else request.state or State.CREATED
        created = await self._create(
            NewTask(
                task_id,
                endpoint.path,
                endpoint.backend.lease_s,
                status=state.value if request.status is None else request.status,
                state=state,
                query=endpoint.query,
                wanted=request.publish_to_grid,
                body=content,
                inline_body=body,
                traceparent=telemetry.traceparent(),
                owner=self.owner or "",
                priority=request.priority,
            )
        )
        if isinstance(created, Created):
            return created.task
        # Somebody else created it between the two steps: now it is an update.
        return self._taken(await self._change(task_id, request, endpoint, content, body))

    async def _change(
        self, task_id: str, request: TaskUpsert, endpoint: Endpoint | None, content: Content | None, body: bytes
    ) -> Outcome:
        started_ns = telemetry.now_ns()
        path, query = (endpoint.path, endpoint.query) if endpoint else (None, None)
        store = self.services.store
        if request.publish_to_grid:
            outcome = await store.hop(
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
                path=path,
                query=query,
                body=content,
                inline_body=body,
                owner=self.owner,
            )
        if isinstance(outcome, Moved):
            telemetry.join(outcome.task, f"update {outcome.task.state}", started_ns)
            await self._go_on(outcome)
        return outcome

    async def _go_on(self, moved: Moved) -> None:
        await self.services.dispatcher.follow(moved)
        task = moved.task
        waits = moved.transition and task.state is State.CREATED and task.wanted
        if waits and await self.services.dispatcher.enter(task):
            await self._publish(task)

    async def _create(self, new: NewTask) -> Created | Existing:
        if not new.wanted:
            created = await self.services.store.create(new)
            if isinstance(created, Created):
                telemetry.transition(created.task)
            return created
        entered = await self.services.dispatcher.create(new)
        if isinstance(entered, Existing):
            return entered
        if not isinstance(entered, Entered):
            raise _not_taken(entered)
        telemetry.transition(entered.task)
        if entered.granted:
            await self._publish(entered.task)
        return Created(entered.task, entered.place)

    async def _publish(self, task: Task) -> None:
        try:
            await self.services.events.publish([task])
        except PublishFailed as error:
            log.warning("task %s could not be published and will be, at its deadline: %s", task.id, error)

    async def _store_body(self, task_id: str, content_type: str, data: bytes) -> Content:
        limit_bytes = self.services.settings.max_body_bytes
        if len(data) > limit_bytes:
            raise too_large(limit_bytes)
        return await self.services.bodies.put(task_id, content_type, data)

    def _endpoint(self, request: TaskUpsert) -> Endpoint | None:
        if request.endpoint is None:
            return None
        try:
            return self.services.backends.resolve(request.endpoint)
        except UnknownBackend as error:
            raise invalid("/Endpoint", str(error)) from None

    def _taken(self, outcome: Outcome) -> Task:
        if isinstance(outcome, Refused):
            raise self._refusal(outcome)
        return outcome.task

    def _refusal(self, refused: Refused) -> Problem:
        if refused.task is None:
            return no_such_task()
        if refused.reason is Refusal.BODILESS:
            return invalid("/Body", "a task to be published needs one, and none was kept")
        detail = {
            Refusal.FINISHED: f"The task is {refused.task.state} and stays so.",
            Refusal.STALE: f"The update speaks for another attempt than the current one, {refused.task.attempt}.",
        }.get(refused.reason, "The task's state does not allow it.")
        return Problem(
            409,
            "conflict",
            "The task does not take this change.",
            detail,
            members=TaskView.of(refused.task, self.services.backends).document(),
        )


def _not_taken(why: Full | Draining) -> Problem:
    if isinstance(why, Full):
        return Problem(
            429,
            "queue-full",
            "The queue is full.",
            "As many tasks wait at this endpoint as may. Try again.",
            headers={"Retry-After": str(retry_after_s(why.room_in_s))},
        )
    return Problem(
        503,
        "queue-draining",
        "The queue takes no new tasks.",
        "The endpoint is being drained: tasks that wait there are still done.",
        headers={"Retry-After": str(retry_after_s(None))},
    )


def retry_after_s(wait_s: float | None) -> int:
    """When to ask again, for who has *wait_s* to wait, as far as that is known."""
    return _UNKNOWN_WAIT_S if wait_s is None else max(1, math.ceil(wait_s))
