"""The runs of schedules: what becomes of each time at which one is due.

Any process may see to any of them, and several to the same: the store says once what becomes of a time, and the
task's id follows from the time (:meth:`Schedules.begin`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cache_manager.operation_outcomes import SubmitOutcome
from cache_manager.outcome_problems import task_of
from cache_manager.task_service import TaskService
from shared import telemetry
from shared.bodies import BlobsUnavailable, BodyMissing
from shared.dispatch.registry import UnknownBackend
from shared.http.problems import Problem
from shared.services import Services
from shared.store import Looked, StoreUnavailable
from shared.tasks.cron import DueTimes
from shared.tasks.outcomes import Created, Existing
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, Pending, Run, RunOutcome, Schedule
from shared.tasks.task import NewTask, PipelineStep
from shared.tasks.timing import Moment, Timing

log = logging.getLogger("task_backbone")

LATE_S: Final = 60.0
"""How long after a due time nothing was late. Later, it is caught up with, or skipped."""
MOST_CAUGHT_UP: Final = 100
GIVE_UP_S: Final = 86_400.0
"""For how long a run is tried to be started, unless it makes way for the next one before."""
_FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
_AT_ONCE: Final = 8
_MOST_STEPS: Final = 2 * MOST_CAUGHT_UP + 10
"""How many steps of one schedule are taken at a time. Then others have their turn."""

OVERLAPPED: Final = "the task of the last run had not ended"
MISSED: Final = "the time had passed, and so had later ones, when the app could see to it"
_BODY_GONE: Final = "the body of the schedule is gone"


def wake_for_schedules(services: Services) -> None:
    """See to each schedule when it is due, from now on."""

    async def see_to_due(partition: int) -> None:
        due = await services.store.schedules.due.take(partition)
        if due.names:
            await run_due(services, due.names)
        if due.blobs:
            await delete_blobs(services, due.blobs)

    services.store.schedules.due.wake = lambda partition, in_s: services.wakes.after(
        in_s, f"schedules {partition}", partial(see_to_due, partition)
    )
    services.store.schedules.due.look()


async def run_due(services: Services, names: Sequence[Name]) -> None:
    """See to schedules that are due, a few at a time."""
    runs, left = ScheduleRuns(services), iter(names)

    async def see_to_some() -> None:
        for name in left:
            try:
                await runs.see_to(name)
            except StoreUnavailable as error:
                log.warning("a schedule that is due could not be seen to, and will be: %s", error)
            except Exception:  # one keeps no other from its time
                log.exception("A schedule that is due could not be seen to")

    await asyncio.gather(*(see_to_some() for _ in range(_AT_ONCE)))
    services.store.schedules.due.seen_to(names)


async def delete_blobs(services: Services, blobs: Sequence[str]) -> None:
    """Delete blobs that no schedule has."""
    deleted: list[str] = []
    for blob in blobs:
        try:
            await services.bodies.delete(blob)
        except BlobsUnavailable as error:
            log.warning("the former bodies of schedules could not be deleted, and will be: %s", error)
            break
        deleted.append(blob)
    await services.store.schedules.forget_blobs(deleted)


@dataclass(frozen=True, slots=True)
class ScheduleRuns:
    services: Services

    async def see_to(self, name: Name) -> None:
        """Do what is to be done of a schedule now.

        Raises:
            StoreUnavailable: Redis does not answer. It is seen to again.
        """
        schedules = self.services.store.schedules
        for _ in range(_MOST_STEPS):
            looked = await schedules.get(name, with_body=True)
            schedule = looked.schedule
            if schedule is None:
                break
            pending, is_due = schedule.pending, schedule.next_ms is not None and schedule.next_ms <= looked.now_ms
            if pending is not None and not (is_due and await self._is_outdated(schedule, pending, looked.now_ms)):
                if await self._start(schedule, pending, looked):
                    continue
                if not is_due or schedule.definition.catch_up is CatchUp.ALL:
                    return  # it is tried again later
            if schedule.next_ms is None or not is_due:
                break
            if not await self._take(schedule, schedule.next_ms, looked.now_ms):
                return  # another process sees to it
        await schedules.look_later(name)

    async def start(self, looked: Looked, task_id: str, by: str | None = None) -> SubmitOutcome:
        """Create a task by a schedule's definition, with a copy of its body.

        Raises:
            UnknownBackend: its path leads nowhere by now.
            BodyMissing: the body is gone.
            BlobsUnavailable: Blob Storage does not answer.
        """
        schedule, services = looked.schedule, self.services
        assert schedule is not None
        definition = schedule.definition
        route = services.registry.route(definition.path, definition.query)
        await services.endpoint_bound.admit(*route.endpoints)
        body = definition.body
        if body.blob is not None:
            body = await services.bodies.copy_for(task_id, body)
        elif looked.body is None:
            raise BodyMissing("Redis has lost it")
        first, destination = route.endpoints[0], None
        if definition.callback:  # one that is not there any more is no reason not to start
            destination = services.destinations.find(definition.callback, schedule.name.owner or None)
        steps = route.endpoints if route.is_pipeline else ()
        new = NewTask(
            task_id,
            first.path,
            **first.backend.bounds,
            query=first.query,
            body=body,
            inline_body=looked.body or b"",
            traceparent=telemetry.traceparent(),
            owner=schedule.name.owner,
            priority=definition.priority,
            steps=[PipelineStep(step.path, step.query, **step.backend.bounds) for step in steps],
            pipeline=route.name,
            by=by,
            timing=Timing(
                expiry=None if definition.start_before_ms is None else Moment("create", definition.start_before_ms),
                max_run_ms=definition.max_run_ms,
            ),
            callback=destination.wanted if destination else None,
        )
        created = await TaskService(services).create(new)
        if not isinstance(created, Created) and not (isinstance(created, Existing) and created.task.body == body):
            await services.bodies.discard(body)
        return created

    async def _start(self, schedule: Schedule, pending: Pending, looked: Looked) -> bool:
        """Try to start a run. Returns whether it is over and done with."""
        why, is_final = await self._why_not_started(looked, pending.task_id)
        schedules = self.services.store.schedules
        if why is None:
            await schedules.settle(schedule.name, pending.task_id, pending.due_ms, "started")
            return True
        is_over = is_final or looked.now_ms > pending.since_ms + GIVE_UP_S * 1000
        await schedules.settle(
            schedule.name,
            pending.task_id,
            pending.due_ms,
            "skipped" if is_over else "waiting",
            why=why,
            again_s=min(LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(pending.tries, 10)),
        )
        return is_over

    async def _is_outdated(self, schedule: Schedule, pending: Pending, now_ms: int) -> bool:
        """Whether so many times wait behind a run that could not be started that it is not made up for any more."""
        if not schedule.is_held_up or schedule.next_ms is None:
            return False
        definition = schedule.definition
        due = DueTimes.parse(definition.cron, definition.zone)
        last_ms = definition.last_until(now_ms)
        behind = await asyncio.to_thread(due.passed, schedule.next_ms, last_ms, MOST_CAUGHT_UP)
        # It may have been started all the same, if an answer was lost.
        return len(behind) == MOST_CAUGHT_UP and await self.services.store.get(pending.task_id) is None

    async def _why_not_started(self, looked: Looked, task_id: str) -> tuple[str | None, bool]:
        """None if it is started; and whether it never can be."""
        try:
            task_of(await self.start(looked, task_id))
        except Problem as problem:  # such as that the queue is full
            return str(problem.document["title"]), False
        except UnknownBackend as error:
            return f"there is no such endpoint: {error}", False
        except BlobsUnavailable:
            return "Blob Storage does not answer", False
        except BodyMissing:
            # It may have another body by now.
            return _BODY_GONE, not await self._has_changed(looked)
        return None, False

    async def _has_changed(self, looked: Looked) -> bool:
        assert looked.schedule is not None
        now = (await self.services.store.schedules.get(looked.schedule.name)).schedule
        return now is None or now.generation != looked.schedule.generation

    async def _take(self, schedule: Schedule, due_ms: int, now_ms: int) -> bool:
        """Say what becomes of the time at which a schedule is due. False if another process has said so."""
        due = DueTimes.parse(schedule.definition.cron, schedule.definition.zone)
        goes_on_ms = _caught_up_from(schedule.definition, due, due_ms, now_ms)
        if goes_on_ms != due_ms:
            run = Run(due_ms, RunOutcome.SKIPPED, why=MISSED)
        elif schedule.definition.overlap is Overlap.SKIP and await self._is_last_unfinished(schedule):
            run = Run(due_ms, RunOutcome.SKIPPED, why=OVERLAPPED)
        else:
            if schedule.definition.overlap is Overlap.CANCEL_RUNNING and schedule.last is not None:
                service = TaskService(self.services, schedule.name.owner or None)
                await service.cancel(schedule.last.task_id)
            run = Run(due_ms, RunOutcome.STARTING, await self._task_id(schedule, due_ms))
        next_ms = due.after(due_ms) if goes_on_ms == due_ms else goes_on_ms
        if next_ms is not None and next_ms > (schedule.definition.until_ms or next_ms):
            next_ms = None
        return await self.services.store.schedules.begin(schedule, run, next_ms) is not None

    async def _is_last_unfinished(self, schedule: Schedule) -> bool:
        task = await self.services.store.get(schedule.last.task_id) if schedule.last is not None else None
        return task is not None and not task.state.is_terminal

    async def _task_id(self, schedule: Schedule, due_ms: int) -> str:
        scope = f"schedules\n{schedule.name.name}\n{schedule.generation}"
        return await self.services.store.keyed_ids.unguessable_id_of(schedule.name.owner, scope, str(due_ms))


def _caught_up_from(definition: Definition, due: DueTimes, due_ms: int, now_ms: int) -> int | None:
    """With which of the due times, from the one at *due_ms* on, a schedule goes on. None: it is never due again."""
    if now_ms <= due_ms + LATE_S * 1000:
        return due_ms
    match definition.catch_up:
        case CatchUp.ALL:
            return due.passed(due_ms, definition.last_until(now_ms), MOST_CAUGHT_UP)[0]
        case CatchUp.LAST:
            return due.passed(due_ms, definition.last_until(now_ms), 1)[0]
        case CatchUp.NONE:
            return due.after(now_ms - round(LATE_S * 1000) - 1)
