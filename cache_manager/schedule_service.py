"""The operations on schedules. They return outcomes and know no HTTP status."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cache_manager.operation_outcomes import (
    BodyTooLarge,
    SubmitOutcome,
    TakesNoReference,
    TooManySchedules,
    Unacceptable,
    UploadUnknown,
)
from cache_manager.schedule_runs import MOST_CAUGHT_UP, ScheduleRuns
from cache_manager.task_service import TaskService
from cache_manager.uploads import NotTaken, Uploads
from shared.bodies import BodyMissing
from shared.dispatch.registry import Route
from shared.services import Services
from shared.settings import INLINE_LIMIT_BYTES
from shared.store import Looked, SchedulePage
from shared.tasks.cron import DueTimes
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Created, Existing
from shared.tasks.schedules import Definition, Name, Schedule
from shared.tasks.task import Content, Task
from shared.tasks.uploads import Taken, Upload

NEXT_TIMES: Final = 5

NotPut = BodyTooLarge | TakesNoReference | TooManySchedules | Unacceptable | NotTaken


@dataclass(frozen=True, slots=True)
class ScheduleService:
    """The operations for one caller. A caller with an owner meets only that owner's schedules."""

    tasks: TaskService

    @property
    def services(self) -> Services:
        return self.tasks.services

    async def put(
        self, name: Name, definition: Definition, due: DueTimes, body: bytes | Upload, route: Route
    ) -> tuple[Schedule, bool] | NotPut:
        """Store a schedule, or put another definition in the place of the one that it has; and whether it is new.

        Args:
            definition: its body is described as far as it is known.
            route: where its tasks go as things are.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        looked = await self._seen_to(name)
        after_ms = looked.schedule.goes_on_after(looked.now_ms) if looked.schedule else looked.now_ms
        next_ms = await asyncio.to_thread(due.after, after_ms)
        if next_ms is None:
            return Unacceptable("/Cron", "it is never due")
        if definition.until_ms is not None and next_ms > definition.until_ms:
            return Unacceptable("/Until", "it is not due before")
        taken = None
        if isinstance(body, Upload):
            taken = await self._take(name, body, route)
            if not isinstance(taken, Taken):
                return taken
            content, inline = taken.upload.content, b""
        else:
            limit_bytes = self.services.settings.largest_body_bytes
            if len(body) > limit_bytes:
                return BodyTooLarge(limit_bytes)
            content, inline = definition.body, body
        stored = await self._stored(name, content, inline)
        if stored is None:
            return UploadUnknown()
        put = await self.services.store.schedules.put(name, replace(definition, body=stored), inline, next_ms)
        if put is None:
            if taken is not None:
                await self.services.store.uploads.give_back(taken)
            return TooManySchedules()
        self._expect(put, looked.now_ms)
        return put, looked.schedule is None

    async def find(self, name: Name) -> Schedule | None:
        return (await self.services.store.schedules.get(name)).schedule

    async def page(self, owner: str | None, limit: int, behind: Name | None) -> SchedulePage:
        return await self.services.store.schedules.page(owner, limit, behind)

    async def tasks_of(self, schedule: Schedule) -> Mapping[str, Task | None]:
        """The tasks of its last runs, as far as they are known."""
        ids = [run.task_id for run in schedule.runs if run.task_id]
        tasks = await asyncio.gather(*map(self.services.store.get, ids))
        return dict(zip(ids, tasks, strict=True))

    async def next_times(self, schedule: Schedule) -> Sequence[int]:
        first_ms, definition = schedule.next_ms, schedule.definition
        if first_ms is None:
            return []
        due = DueTimes.parse(definition.cron, definition.zone)
        # In a thread: the last of them may be decades ahead.
        more = await asyncio.to_thread(due.following, first_ms, NEXT_TIMES - 1, definition.until_ms)
        return [first_ms, *more]

    async def remove(self, name: Name) -> bool:
        """Whether there is such a schedule. Its tasks stay."""
        return await self.services.store.schedules.remove(name)

    async def set_paused(self, name: Name, *, paused: bool) -> Schedule | None:
        """Pause a schedule, or let it go on from now. None if there is none."""
        schedules = self.services.store.schedules
        while True:
            looked = await self._seen_to(name)
            schedule = looked.schedule
            if schedule is None:
                return None
            if paused:
                outcome = await schedules.pause(schedule)
            else:
                outcome = await schedules.resume(schedule, await self._next_of(schedule, looked.now_ms))
            if outcome == "unknown":
                return None
            if isinstance(outcome, Schedule):
                self._expect(outcome, looked.now_ms)
                return outcome
            # It was defined anew meanwhile.

    async def run(self, name: Name, key: str | None) -> SubmitOutcome | None:
        """Create a task now, whether the schedule is due, paused or at work. None if there is none.

        Args:
            key: by which a repetition is known.

        Raises:
            UnknownBackend: its path leads nowhere by now.
            BodyMissing: the body is gone.
            BlobsUnavailable: Blob Storage does not answer.
        """
        store = self.services.store
        looked = await store.schedules.get(name, with_body=True)
        if looked.schedule is None:
            return None
        task_id = (
            await store.keyed_ids.unguessable_id_of(name.owner, f"schedules\n{name.name}\nrun", key)
            if key
            else new_task_id()
        )
        created = await ScheduleRuns(self.services).start(looked, task_id, self.tasks.by)
        if isinstance(created, Created | Existing):
            await store.schedules.settle(name, task_id, created.task.created_ms, "started", is_asked=True)
        return created

    async def _seen_to(self, name: Name) -> Looked:
        """The schedule, after all that it was due for."""
        schedules = self.services.store.schedules
        looked = await schedules.get(name)
        for _ in range(MOST_CAUGHT_UP):
            schedule = looked.schedule
            if schedule is None or schedule.is_held_up or looked.now_ms < (schedule.next_ms or looked.now_ms + 1):
                break
            # It leaves the rest to another process that is at it, too.
            await ScheduleRuns(self.services).see_to(name)
            looked = await schedules.get(name)
        return looked

    def _expect(self, schedule: Schedule, now_ms: int) -> None:
        if schedule.next_ms is not None:
            self.services.store.schedules.due.expect(schedule.name, (schedule.next_ms - now_ms) / 1000)

    async def _next_of(self, schedule: Schedule, now_ms: int) -> int | None:
        definition = schedule.definition
        due = DueTimes.parse(definition.cron, definition.zone)
        times = await asyncio.to_thread(due.following, schedule.goes_on_after(now_ms), 1, definition.until_ms)
        return times[0] if times else None

    async def _take(self, name: Name, upload: Upload, route: Route) -> Taken | NotTaken | TakesNoReference:
        limit_bytes = self.services.settings.largest_body_bytes
        for endpoint in route.endpoints if upload.size_bytes > limit_bytes else ():
            if not endpoint.backend.takes_reference:
                return TakesNoReference(endpoint.path, limit_bytes)
        # No task has it: it begins with a blank.
        return await Uploads(self.tasks).take(upload, f" schedule {name.name}")

    async def _stored(self, name: Name, content: Content, body: bytes) -> Content | None:
        """The content as the schedule is to have it. None if what was uploaded is gone."""
        if content.blob is None and len(body) <= INLINE_LIMIT_BYTES:
            return content
        blob = await self.services.store.schedules.expect_blob(name.owner)
        if content.blob is None:
            await self.services.bodies.put_blob(blob, body)
            return content._replace(blob=blob)
        try:
            return await self.services.bodies.copy(content, blob)
        except BodyMissing:
            return None
