"""What becomes of the times at which schedules are due: with processes that die at any step, with several at the same
time, with queues that are full, and with clocks that change. One server, and several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from cache_manager.schedule_runs import (
    GIVE_UP_S,
    LATE_S,
    MOST_CAUGHT_UP,
    ScheduleRuns,
    run_due,
    wake_for_schedules,
)
from cache_manager.schedule_service import ScheduleService
from cache_manager.task_service import TaskService
from local.redis_server import RedisServer
from shared.bodies import BlobsUnavailable, BodyMissing
from shared.store import Listing, RedisLink, StoreUnavailable
from shared.store.due_schedules import START_GRACE_S
from shared.store.redis.partitions import PARTITIONS
from shared.store.schedules import BLOB_PREFIX
from shared.tasks.cron import DueTimes
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, RunOutcome, Schedule
from shared.tasks.task import Content, State, Task
from tests.cache_manager.process import Process
from tests.cache_manager.timers import Timers
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, nodes

NAME = Name("ann", "nightly")
PATH = "/v1/test"
MINUTELY = Definition(PATH, "a=1", Content("text/plain", 2), "* * * * *", "UTC")
MINUTE_S = 60.0


class LinkToSeveralServers(RedisLink):
    """As on a cluster: no server has all partitions."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None


class DyingLink(RedisLink):
    """A link to Redis of a process that dies when it has taken so many more steps."""

    left: int | None = None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        self._step()
        return await super().script(name, tag, *args)

    async def combined(self, name: str, *args: bytes) -> Any | None:
        self._step()
        return await super().combined(name, *args)

    def _step(self) -> None:
        if self.left is not None:
            if not self.left:
                raise StoreUnavailable("the process is dead")
            self.left -= 1


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, link=request.param(opener(redis_url)))
    yield process
    await process.dispatcher.aclose()
    await process.services.store.aclose()


async def put(process: Process, name: Name = NAME, **change: Any) -> Schedule:
    definition = replace(MINUTELY, **change)
    due = DueTimes.parse(definition.cron, definition.zone)
    service = ScheduleService(TaskService(process.services, name.owner or None))
    route = process.services.registry.route(definition.path, definition.query)
    outcome = await service.put(name, definition, due, b"hi", route)
    assert isinstance(outcome, tuple), outcome
    return outcome[0]


async def found(process: Process, name: Name = NAME) -> Schedule:
    schedule = (await process.store.schedules.get(name)).schedule
    assert schedule is not None
    return schedule


async def tasks(process: Process, owner: str = "ann") -> list[Task]:
    """The oldest first."""
    page = await process.store.page(Listing(limit=200, path=PATH, owner=owner))
    return sorted(page.tasks, key=lambda task: task.created_ms)


async def end(process: Process, task: Task) -> None:
    await process.backend_accepts_all()
    await process.store.update(task.id, state=State.COMPLETED, status="done")


def outcomes(schedule: Schedule) -> list[str]:
    """The oldest first."""
    return [f"{run.outcome}: {run.why}" if run.why else run.outcome.value for run in reversed(schedule.runs)]


async def test_a_due_time_makes_one_task_and_the_schedule_goes_on(process: Process, clock: Clock) -> None:
    schedule = await put(process, priority=7)
    first_ms = schedule.next_ms
    assert first_ms is not None
    await reconcile(process.services)
    assert await tasks(process) == [], "it is not due yet"

    clock.ms = first_ms
    await reconcile(process.services)
    await reconcile(process.services)

    [task] = await tasks(process)
    assert (task.path, task.query, task.owner, task.priority) == (PATH, "a=1", "ann", 7)
    assert task.body == Content("text/plain", 2)
    schedule = await found(process)
    assert schedule.next_ms == first_ms + 60_000
    assert [(run.due_ms, run.outcome, run.task_id) for run in schedule.runs] == [(first_ms, "started", task.id)]


async def test_two_owners_may_have_schedules_of_one_name(process: Process, clock: Clock) -> None:
    for owner in ("ann", "bob", ""):
        await put(process, Name(owner, "nightly"))
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    everybody = await process.store.page(Listing(limit=10, path=PATH))
    assert sorted(task.owner for task in everybody.tasks) == ["", "ann", "bob"]


@pytest.mark.parametrize("steps", range(12))
async def test_a_process_that_dies_at_any_step_leaves_one_task(
    redis_url: str, clock: Clock, process: Process, steps: int
) -> None:
    await put(process)
    clock.advance(MINUTE_S)
    link = DyingLink(opener(redis_url))
    dying = Process.start(redis_url, clock, link=link)
    link.left = steps
    await run_due(dying.services, [NAME])
    link.left = None

    clock.advance(START_GRACE_S)
    await reconcile(process.services)

    [task] = await tasks(process)
    schedule = await found(process)
    assert [(run.outcome, run.task_id) for run in schedule.runs] == [("started", task.id)]
    assert schedule.pending is None
    await dying.link.aclose()


async def test_many_processes_at_once_make_one_task(redis_url: str, clock: Clock, process: Process) -> None:
    others = [Process.start(redis_url, clock) for _ in range(4)]
    await put(process, overlap=Overlap.QUEUE)
    for number in range(1, 6):
        clock.advance(MINUTE_S)
        await asyncio.gather(*(ScheduleRuns(other.services).see_to(NAME) for other in [process, *others]))
        assert len(await tasks(process)) == number
    assert outcomes(await found(process)) == ["started"] * 5
    for other in others:
        await other.link.aclose()


async def test_a_redis_that_forgets_its_last_second_makes_no_second_task(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await put(process)
    clock.advance(MINUTE_S)
    kept: list[tuple[RedisServer, bytes, bytes]] = []
    for node in nodes(redis_server):
        with node.connect() as client:
            client.connection_pool.connection_kwargs["decode_responses"] = False
            kept += [(node, key, client.dump(key)) for key in client.scan_iter("*schedule*")]
    await run_due(process.services, [NAME])
    assert len(await tasks(process)) == 1
    for node, key, value in kept:
        with node.connect() as client:
            client.restore(key, 0, value, replace=True)
    assert (await found(process)).runs == []

    await run_due(process.services, [NAME])

    [task] = await tasks(process)
    assert [run.task_id for run in (await found(process)).runs] == [task.id]


# At the moment itself


@pytest.fixture
async def timers(process: Process) -> Timers:
    """Of a process that has looked whether anything is due."""
    timers = Timers()
    wake_for_schedules(replace(process.services, wakes=timers))
    assert len(await timers.go_off()) == PARTITIONS
    assert timers.set == []
    return timers


async def test_a_schedule_is_seen_to_when_it_is_due_and_not_by_the_next_round(
    process: Process, clock: Clock, timers: Timers
) -> None:
    schedule = await put(process, cron="* * * * * *", overlap=Overlap.QUEUE)
    assert schedule.next_ms is not None
    assert await timers.go_off() == [(schedule.next_ms - clock.ms) / 1000]
    assert await tasks(process) == [], "it is not due yet"
    for number in range(1, 6):
        in_s = max(seconds for seconds, _, _ in timers.set)
        assert 0 < in_s <= 1
        clock.advance(in_s)
        await timers.go_off()  # it starts the run
        await timers.go_off()  # it learns when it is due next
        assert [task.created_ms for task in await tasks(process)] == [
            schedule.next_ms + 1000 * past for past in range(number)
        ]


async def test_a_run_that_could_not_be_started_is_tried_again_at_its_moment(
    process: Process, clock: Clock, timers: Timers
) -> None:
    await put(process)
    await process.queues.configure(PATH, {"draining": True})
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    assert await tasks(process) == []
    await timers.go_off()
    assert 5.0 in [seconds for seconds, _, _ in timers.set]
    await process.queues.configure(PATH, {"draining": False})
    clock.advance(5)
    await timers.go_off()
    assert len(await tasks(process)) == 1


async def test_a_process_that_begins_sees_to_what_is_due(process: Process, clock: Clock) -> None:
    await put(process)
    clock.advance(MINUTE_S)
    timers = Timers()
    wake_for_schedules(replace(process.services, wakes=timers))
    await timers.go_off()
    assert len(await tasks(process)) == 1


async def test_a_blob_that_no_schedule_has_is_deleted_at_its_moment(
    process: Process, timers: Timers, blobs: Blobs
) -> None:
    await put_large(process)
    await ScheduleService(TaskService(process.services, NAME.owner)).remove(NAME)
    process.store.schedules.due.look()
    await timers.go_off()
    assert blobs.deleted == blobs.written


# While the task of the last run has not ended


async def test_a_run_is_skipped_while_the_last_one_goes_on(process: Process, clock: Clock) -> None:
    await put(process)
    for _ in range(3):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    [task] = await tasks(process)
    assert outcomes(await found(process)) == ["started"] + ["skipped: the task of the last run had not ended"] * 2

    await end(process, task)
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    assert len(await tasks(process)) == 2


async def test_a_run_waits_beside_the_last_one(process: Process, clock: Clock) -> None:
    await put(process, overlap=Overlap.QUEUE)
    for _ in range(3):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    assert [task.state for task in await tasks(process)] == ["created"] * 3


async def test_a_run_cancels_the_last_one(process: Process, clock: Clock) -> None:
    await put(process, overlap=Overlap.CANCEL_RUNNING)
    for _ in range(3):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    assert [task.state for task in await tasks(process)] == ["cancelled", "cancelled", "created"]


# After a time in which nothing could be started


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [(CatchUp.NONE, 2), (CatchUp.LAST, 1), (CatchUp.ALL, 10)],
)
async def test_it_is_caught_up_with_as_the_schedule_says(
    process: Process, clock: Clock, catch_up: CatchUp, made_up_for: int
) -> None:
    schedule = await put(process, overlap=Overlap.QUEUE, catch_up=catch_up)
    first_ms = schedule.next_ms
    assert first_ms is not None
    clock.ms = first_ms + 9 * 60_000
    await reconcile(process.services)
    started = [run.due_ms for run in (await found(process)).runs if run.outcome is RunOutcome.STARTED]
    # What is less than a minute late is not late.
    assert started == [first_ms + (9 - back) * 60_000 for back in range(made_up_for)]
    assert len(await tasks(process)) == made_up_for
    assert (await found(process)).next_ms == first_ms + 10 * 60_000


async def test_a_hundred_times_are_caught_up_with_at_most(process: Process, clock: Clock) -> None:
    schedule = await put(process, cron="* * * * * *", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    first_ms = schedule.next_ms
    assert first_ms is not None
    clock.ms = first_ms + 365 * 86_400_000
    await reconcile(process.services)
    page = await process.store.page(Listing(limit=200, path=PATH, owner="ann"))
    assert len(page.tasks) == MOST_CAUGHT_UP
    assert (await found(process)).next_ms == clock.ms + 1000


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"), [(CatchUp.NONE, 0), (CatchUp.LAST, 1), (CatchUp.ALL, MOST_CAUGHT_UP)]
)
async def test_the_last_times_before_its_end_are_caught_up_with_after_it(
    process: Process, clock: Clock, catch_up: CatchUp, made_up_for: int
) -> None:
    until_ms = clock.ms + 3 * 3_600_000
    await put(process, overlap=Overlap.QUEUE, catch_up=catch_up, until_ms=until_ms)
    clock.ms = until_ms + 24 * 3_600_000
    await reconcile(process.services)
    page = await process.store.page(Listing(limit=200, path=PATH, owner="ann"))
    assert len(page.tasks) == made_up_for
    schedule = await found(process)
    assert schedule.next_ms is None
    if made_up_for:
        assert schedule.runs[0].due_ms == until_ms - until_ms % 60_000
        assert schedule.runs[0].outcome is RunOutcome.STARTED


@pytest.mark.parametrize("what", ["put", "pause and resume"])
async def test_a_clock_that_is_set_back_makes_no_time_due_anew(process: Process, clock: Clock, what: str) -> None:
    """Whoever puts a schedule with each deployment may do so just then."""
    await put(process, overlap=Overlap.QUEUE)
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    due_ms = (await found(process)).runs[0].due_ms
    clock.ms = due_ms - 30_000
    if what == "put":
        await put(process, overlap=Overlap.QUEUE)
    else:
        for paused in (True, False):
            await ScheduleService(TaskService(process.services, "ann")).set_paused(NAME, paused=paused)
    assert (await found(process)).next_ms == due_ms + 60_000
    clock.ms = due_ms
    await reconcile(process.services)
    assert len(await tasks(process)) == 1


async def test_a_night_on_which_the_clocks_change_is_neither_left_out_nor_done_twice(
    process: Process, clock: Clock
) -> None:
    for day in ("2026-03-28T12:00", "2026-10-24T12:00"):
        clock.ms = round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000
        await put(process, cron="30 2 * * *", zone="Europe/Berlin", overlap=Overlap.QUEUE)
        before = len(await tasks(process))
        for _ in range(24 * 12):
            clock.advance(300)
            await run_due(process.services, [NAME])
        assert len(await tasks(process)) - before == 1


# What a task may take


async def test_a_run_has_the_bounds_of_its_schedule_and_of_its_backend(process: Process, clock: Clock) -> None:
    await put(process, start_before_ms=300_000, max_run_ms=60_000)
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    [task] = await tasks(process)
    assert (task.expires_ms, task.max_run_ms) == (clock.ms + 300_000, 60_000)


# When the task cannot be created


async def test_a_run_that_its_queue_refuses_is_tried_again_until_the_next_time(
    process: Process, clock: Clock
) -> None:
    await put(process, cron="*/10 * * * *")
    await process.queues.configure(PATH, {"draining": True})
    schedule = await found(process)
    assert schedule.next_ms is not None
    clock.ms = schedule.next_ms
    await reconcile(process.services)
    assert outcomes(await found(process)) == ["starting: The queue takes no new tasks."]
    clock.advance(4)
    await reconcile(process.services)
    assert (await found(process)).pending == (
        schedule.next_ms,
        (await found(process)).runs[0].task_id,
        1,
        schedule.next_ms,
    )

    await process.queues.configure(PATH, {"draining": False})
    clock.advance(1)
    await reconcile(process.services)
    [task] = await tasks(process)
    assert [(run.outcome, run.task_id, run.why) for run in (await found(process)).runs] == [("started", task.id, "")]


async def test_a_run_that_could_not_be_started_before_the_next_time_is_skipped_with_the_reason(
    process: Process, clock: Clock
) -> None:
    await put(process)
    await process.queues.configure(PATH, {"draining": True})
    for _ in range(3):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    why = "The queue takes no new tasks."
    assert outcomes(await found(process)) == [f"skipped: {why}"] * 2 + [f"starting: {why}"]


async def test_a_run_is_given_up_after_a_day(process: Process, clock: Clock) -> None:
    await put(process, cron="0 0 1 * *")
    await process.queues.configure(PATH, {"draining": True})
    schedule = await found(process)
    assert schedule.next_ms is not None
    clock.ms = schedule.next_ms
    await reconcile(process.services)
    clock.advance(GIVE_UP_S + 1)
    await reconcile(process.services)
    assert outcomes(await found(process)) == ["skipped: The queue takes no new tasks."]
    assert (await found(process)).pending is None


async def test_a_backend_that_is_not_registered_any_more_is_told(
    process: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = await put(process)
    gone = replace(schedule.definition, path="/v9/gone")
    await process.store.schedules.put(NAME, gone, b"hi", schedule.next_ms)
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    [told] = outcomes(await found(process))
    assert told.startswith("starting: there is no such endpoint")


# Bodies in Blob Storage


class Blobs:
    """In the place of Blob Storage."""

    def __init__(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copied: list[tuple[str | None, str]] = []
        self.written: list[str] = []
        self.deleted: list[str] = []
        self.error: Exception | None = None
        bodies = type(process.services.bodies)

        async def put_blob(_: Any, blob: str, data: bytes) -> None:
            self.written.append(blob)

        async def copy(_: Any, content: Content, blob: str) -> Content:
            if self.error:
                raise self.error
            self.copied.append((content.blob, blob))
            return content._replace(blob=blob)

        async def delete(_: Any, blob: str) -> None:
            if self.error:
                raise self.error
            self.deleted.append(blob)

        monkeypatch.setattr(bodies, "put_blob", put_blob)
        monkeypatch.setattr(bodies, "copy", copy)
        monkeypatch.setattr(bodies, "delete", delete)


@pytest.fixture
def blobs(process: Process, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    return Blobs(process, monkeypatch)


async def put_large(process: Process, **change: Any) -> Schedule:
    definition = replace(MINUTELY, body=Content("text/plain", 70_000), **change)
    due = DueTimes.parse(definition.cron, definition.zone)
    service = ScheduleService(TaskService(process.services, NAME.owner))
    route = process.services.registry.route(definition.path)
    outcome = await service.put(NAME, definition, due, b"x" * 70_000, route)
    assert isinstance(outcome, tuple), outcome
    return outcome[0]


async def test_each_run_gets_a_copy_of_a_body_that_is_a_blob(process: Process, clock: Clock, blobs: Blobs) -> None:
    schedule = await put_large(process, overlap=Overlap.QUEUE)
    [blob] = blobs.written
    assert blob.startswith(BLOB_PREFIX)
    assert schedule.definition.body == Content("text/plain", 70_000, blob)
    for _ in range(2):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    made = await tasks(process)
    assert [source for source, _ in blobs.copied] == [blob] * 2
    assert sorted(task.body.blob for task in made if task.body and task.body.blob) == sorted(
        c for _, c in blobs.copied
    )
    assert all(copy.startswith(f"t-{task.id}/") for task, (_, copy) in zip(made, blobs.copied, strict=True))


async def test_a_blob_that_no_schedule_has_any_more_is_deleted(process: Process, clock: Clock, blobs: Blobs) -> None:
    await put_large(process)
    await put_large(process)
    first, second = blobs.written
    await reconcile(process.services)
    assert blobs.deleted == [first]
    await ScheduleService(TaskService(process.services, NAME.owner)).remove(NAME)
    blobs.error = BlobsUnavailable("TimeoutError")
    await reconcile(process.services)
    blobs.error = None
    clock.advance(START_GRACE_S)
    await reconcile(process.services)
    assert blobs.deleted == [first, second]
    clock.advance(100_000)
    await reconcile(process.services)
    assert blobs.deleted == [first, second], "it is forgotten"


async def test_a_blob_of_a_put_that_failed_half_way_is_deleted(process: Process, clock: Clock, blobs: Blobs) -> None:
    blob = await process.store.schedules.expect_blob("ann")
    clock.advance(LATE_S)
    await reconcile(process.services)
    assert blobs.deleted == []
    clock.advance(3600)
    await reconcile(process.services)
    assert blobs.deleted == [blob]


async def test_a_run_waits_while_blob_storage_is_silent_and_is_skipped_if_the_body_is_gone(
    process: Process, clock: Clock, blobs: Blobs
) -> None:
    await put_large(process)
    clock.advance(MINUTE_S)
    blobs.error = BlobsUnavailable("TimeoutError")
    await reconcile(process.services)
    assert outcomes(await found(process)) == ["starting: Blob Storage does not answer"]
    blobs.error = BodyMissing("gone")
    clock.advance(5)
    await reconcile(process.services)
    assert outcomes(await found(process)) == ["skipped: the body of the schedule is gone"]


async def test_a_body_that_redis_has_lost_is_not_taken_for_an_empty_one(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await put(process)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*schedule_body*"):
                client.delete(key)
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    assert await tasks(process) == []
    assert outcomes(await found(process)) == ["skipped: the body of the schedule is gone"]


# What operators and owners do


async def test_a_paused_schedule_is_not_due_and_goes_on_from_the_time_at_which_it_is_resumed(
    process: Process, clock: Clock
) -> None:
    await put(process)
    service = ScheduleService(TaskService(process.services, "ann"))
    paused = await service.set_paused(NAME, paused=True)
    assert paused is not None
    assert (paused.is_paused, paused.next_ms) == (True, None)
    clock.advance(600)
    await reconcile(process.services)
    assert await tasks(process) == []
    resumed = await service.set_paused(NAME, paused=False)
    assert resumed is not None
    assert resumed.next_ms is not None
    assert clock.ms < resumed.next_ms <= clock.ms + 60_000
    clock.advance(MINUTE_S)
    await reconcile(process.services)
    assert len(await tasks(process)) == 1


@pytest.mark.parametrize("what", ["put", "put another expression", "pause"])
async def test_a_time_that_is_due_when_the_schedule_is_changed_is_not_lost(
    process: Process, clock: Clock, what: str
) -> None:
    await put(process)
    clock.advance(MINUTE_S)
    if what == "pause":
        await ScheduleService(TaskService(process.services, "ann")).set_paused(NAME, paused=True)
    else:
        await put(process, **({} if what == "put" else {"cron": "0 0 * * *"}))
    await reconcile(process.services)
    assert len(await tasks(process)) == 1


async def test_a_pause_while_another_process_sees_to_the_schedule_loses_no_time(
    redis_url: str, process: Process, clock: Clock
) -> None:
    await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    other = Process.start(redis_url, clock)
    clock.advance(30 * MINUTE_S)
    pausing = ScheduleService(TaskService(process.services, "ann"))
    await asyncio.gather(ScheduleRuns(other.services).see_to(NAME), pausing.set_paused(NAME, paused=True))
    await reconcile(process.services)
    assert len(await tasks(process)) == 30
    await other.link.aclose()


async def test_it_is_due_until_its_end(process: Process, clock: Clock) -> None:
    schedule = await put(process, overlap=Overlap.QUEUE)
    assert schedule.next_ms is not None
    await put(process, overlap=Overlap.QUEUE, until_ms=schedule.next_ms + 60_000)
    for _ in range(5):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
    assert len(await tasks(process)) == 2
    assert (await found(process)).next_ms is None
