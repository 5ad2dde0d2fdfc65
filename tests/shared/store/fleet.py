"""A simulated backend, and a dispatcher that follows the grants of its queue, by the tests' clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.tasks.outcomes import Granted, SlotGrant
from shared.tasks.task import Event, Reason, State, Task
from tests.shared.store.conftest import Clock

PATH = "/v1/a"


def new_task(task_id: str, clock: Clock, owner: str = "", priority: int = 5, path: str = PATH) -> Task:
    return Task(
        id=task_id,
        state=State.CREATED,
        path=path,
        query="",
        status="created",
        attempt=1,
        failures=0,
        publishes=1,
        priority=priority,
        dispatch_requested=True,
        version=1,
        created_ms=clock(),
        updated_ms=clock(),
        queued_ms=clock(),
        body=None,
        result=None,
        traceparent="",
        fingerprint="",
        owner=owner,
        away_ms=None,
        completion_unpublished=False,
        history=(),
    )


def completed(task: Task, clock: Clock, *, since_ms: int) -> Task:
    dispatch = Event(since_ms, State.DISPATCHED, task.attempt, "dispatcher", "", task.path, Reason.CLAIM)
    return replace(task, state=State.COMPLETED, updated_ms=clock(), history=(dispatch,))


async def release(queues: QueueSteps, grant: SlotGrant, task: Task | None = None) -> Granted:
    """End an attempt. *task* is the task after it, if that is known."""
    if task is None:
        return await queues.release(PATH, grant)
    began = next((event.at_ms for event in reversed(task.history) if event.state is State.DISPATCHED), None)
    is_served = task.state is State.COMPLETED and began is not None
    return await queues.release(PATH, grant, task.owner, task.updated_ms - (began or 0) if is_served else None)


@dataclass
class Fleet:
    """A backend that holds *slots* tasks at a time, and its dispatchers.

    Attributes:
        release_s: how long after its report of a task's end the backend frees the slot.
        retry_after_s: the Retry-After of its refusals.
        started: the accepted tasks, in order.
        refusals: the time of each refusal, and how many tasks the backend held then.
        most: the highest number of tasks that it held at a time.
    """

    queues: QueueSteps
    clock: Clock
    slots: int
    service_s: Callable[[], float] = lambda: 10.0
    release_s: float = 0
    retry_after_s: float | None = None
    tasks: dict[str, Task] = field(default_factory=dict[str, Task])
    started: list[str] = field(default_factory=list[str])
    ended: list[str] = field(default_factory=list[str])
    refusals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    busy: int = 0
    _timer_ms: int | None = None
    _granted: list[SlotGrant] = field(default_factory=list[SlotGrant])
    most: int = 0
    _events: list[tuple[int, int, Callable[[], Awaitable[None]]]] = field(
        default_factory=list[tuple[int, int, Callable[[], Awaitable[None]]]]
    )
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def submit(self, *tasks: Task) -> None:
        self.tasks |= {task.id: task for task in tasks}
        for task in tasks:
            await self.take(await self.queues.enqueue([QueueEntry.of(task)]))

    async def take(self, granted: Granted) -> None:
        """Dispatch the granted tasks, and set a timer to ask the queue again if it says so."""
        if granted.ask_again_s is not None:
            at_ms = self.clock() + round(granted.ask_again_s * 1000)
            if self._timer_ms is None or self._timer_ms > at_ms:
                self._timer_ms = at_ms
                self._later(granted.ask_again_s, self._on_timer)
        self._granted += granted.grants
        if len(self._granted) == len(granted.grants):
            # Otherwise a caller further out goes on with them, in the order in which they were granted.
            while self._granted:
                await self._dispatch(self._granted[0])
                del self._granted[0]

    async def _on_timer(self) -> None:
        if self._timer_ms == self.clock():
            self._timer_ms = None
            await self.take(await self.queues.grant_free_slots(PATH))

    async def run(self, seconds: float) -> None:
        """Let time pass: tasks end, slots become free, timers fire."""
        until_ms = self.clock() + round(seconds * 1000)
        while self._events and self._events[0][0] <= until_ms:
            at_ms, _, action = heapq.heappop(self._events)
            self.clock.ms = max(self.clock.ms, at_ms)
            await action()
        self.clock.ms = until_ms

    def forget_ends(self) -> None:
        """What it works on does not end any more."""
        self._events.clear()
        self._timer_ms = None

    def _later(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._events, (self.clock() + round(seconds * 1000), next(self._numbers), action))

    async def _dispatch(self, grant: SlotGrant) -> None:
        task = self.tasks[grant.task_id]
        assert grant.attempt == task.attempt, "the granted attempt is not the current one"
        if self.busy >= self.slots:
            self.refusals.append(((self.clock() - Clock().ms) / 1000, self.busy))
            assert len(self.refusals) < 10_000, "the queue asks a full backend without end"
            self.tasks[task.id] = requeued = replace(task, attempt=task.attempt + 1)
            await self.take(await self.queues.refused(task, requeued, after_s=self.retry_after_s))
            return
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.started.append(task.id)
        since_ms = self.clock()
        self._later(self.service_s(), lambda: self._end(task, since_ms))
        await self.take(await self.queues.accepted(task))

    async def _end(self, task: Task, since_ms: int) -> None:
        self.ended.append(task.id)
        if self.release_s:
            self._later(self.release_s, self._release)
        else:
            await self._release()
        grant = SlotGrant.of(task)
        await self.take(await release(self.queues, grant, completed(task, self.clock, since_ms=since_ms)))

    async def _release(self) -> None:
        self.busy -= 1
