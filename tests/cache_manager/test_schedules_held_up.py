"""A schedule that makes up for all its times, and a queue that takes no task: what is due waits, in order."""

from __future__ import annotations

import pytest

from cache_manager.reconciler import reconcile
from cache_manager.schedule_runs import GIVE_UP_S, MOST_CAUGHT_UP
from cache_manager.schedule_service import ScheduleService
from cache_manager.task_service import TaskService
from shared.store import Listing
from shared.tasks.schedules import CatchUp, Name, Overlap, RunOutcome
from shared.tasks.task import State
from tests.cache_manager.process import Process
from tests.cache_manager.test_schedules import MINUTE_S, NAME, PATH, found, outcomes, process, put, tasks
from tests.shared.store.conftest import Clock

__all__ = ["process"]

WHY = "The queue takes no new tasks."
LONGEST_PAUSE_S = 300


async def all_ids(process: Process) -> list[str]:
    page = await process.store.page(Listing(limit=300, path=PATH, owner="ann"))
    return [task.id for task in page.tasks]


async def drain(process: Process, *, draining: bool) -> None:
    await process.queues.configure(PATH, {"draining": draining})


async def pass_time(process: Process, clock: Clock, seconds: float, step_s: float = 20) -> None:
    end_ms = clock.ms + round(seconds * 1000)
    while clock.ms < end_ms:
        clock.advance(step_s)
        await reconcile(process.services)


async def test_all_times_of_an_hour_are_made_up_for_when_there_is_room(process: Process, clock: Clock) -> None:
    schedule = await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    await pass_time(process, clock, 3600)
    assert await tasks(process) == []
    assert outcomes(await found(process)) == [f"starting: {WHY}"], "the others are still to come"

    await drain(process, draining=False)
    began_ms = clock.ms
    await pass_time(process, clock, LONGEST_PAUSE_S)
    made = await tasks(process)
    assert schedule.next_ms is not None
    assert len(made) == 60 + (clock.ms - began_ms) // 60_000
    runs = (await found(process)).runs
    assert {run.outcome for run in runs} == {RunOutcome.STARTED}
    last_ms = clock.ms - clock.ms % 60_000
    assert [run.due_ms for run in runs] == [last_ms - back * 60_000 for back in range(10)]


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.CANCEL_RUNNING])
async def test_a_hundred_are_made_up_for_if_more_were_due(process: Process, clock: Clock, overlap: Overlap) -> None:
    await put(process, cron="*/10 * * * * *", overlap=overlap, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    await pass_time(process, clock, 3600, step_s=60)
    held_ms = clock.ms
    await drain(process, draining=False)
    clock.advance(LONGEST_PAUSE_S)
    await reconcile(process.services)
    assert len(await all_ids(process)) == MOST_CAUGHT_UP
    schedule = await found(process)
    assert schedule.runs[0].due_ms == clock.ms - clock.ms % 10_000
    assert schedule.next_ms is not None
    assert schedule.next_ms > clock.ms > held_ms


async def test_each_room_takes_the_next_of_them(redis_url: str, clock: Clock) -> None:
    process = Process.start(redis_url, clock, per_owner={"waiting": 2})
    schedule = await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    first_ms = schedule.next_ms
    assert first_ms is not None
    await process.queues.configure(PATH, {"paused": True})
    await pass_time(process, clock, 600)
    for number in range(2, 10):
        made = await tasks(process)
        assert len(made) == number
        [latest] = [run for run in (await found(process)).runs if run.outcome is RunOutcome.STARTED][:1]
        assert (latest.task_id, latest.due_ms) == (made[-1].id, first_ms + (number - 1) * 60_000)
        [waiting] = [task for task in made if task.state is State.CREATED][:1]
        await TaskService(process.services, "ann").cancel(waiting.id)
        clock.advance(LONGEST_PAUSE_S)
        await reconcile(process.services)
    await process.dispatcher.aclose()
    await process.link.aclose()


async def test_what_waits_asks_no_more_often_than_any_run_that_could_not_be_started(
    process: Process, clock: Clock
) -> None:
    await put(process, cron="* * * * * *", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    clock.advance(1)
    await reconcile(process.services)
    tries: list[int] = []
    for _ in range(30):
        clock.advance(1)
        await reconcile(process.services)
        pending = (await found(process)).pending
        assert pending is not None
        tries.append(pending.tries)
    assert tries == [1] * 4 + [2] * 10 + [3] * 16


async def test_it_holds_up_no_other_schedule(process: Process, clock: Clock) -> None:
    other = Name("ann", "elsewhere")
    await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await put(process, other, path="/v1/other", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    for number in range(1, 11):
        clock.advance(MINUTE_S)
        await reconcile(process.services)
        page = await process.store.page(Listing(limit=50, path="/v1/other"))
        assert len(page.tasks) == number


async def test_each_of_them_has_a_day_of_its_own(process: Process, clock: Clock) -> None:
    """An outage of three days took them; then their queue is full as well."""
    await put(process, cron="0 * * * *", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    clock.advance(3 * 86_400)
    await drain(process, draining=True)
    await reconcile(process.services)
    assert outcomes(await found(process)) == [f"starting: {WHY}"]
    clock.advance(GIVE_UP_S)
    await drain(process, draining=False)
    await reconcile(process.services)
    assert len(await all_ids(process)) == 4 * 24


@pytest.mark.parametrize("what", ["put", "pause"])
async def test_a_change_asks_for_no_room(process: Process, clock: Clock, what: str) -> None:
    schedule = await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    await pass_time(process, clock, 600)
    tries = (await found(process)).pending
    if what == "put":
        await put(process, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    else:
        await ScheduleService(TaskService(process.services, "ann")).set_paused(NAME, paused=True)
    assert (await found(process)).pending == tries
    await drain(process, draining=False)
    clock.advance(LONGEST_PAUSE_S)
    await reconcile(process.services)
    assert schedule.next_ms is not None
    due = (clock.ms - schedule.next_ms) // 60_000 + 1
    assert len(await tasks(process)) == (due if what == "put" else 1)


async def test_what_waits_is_tried_in_time_though_the_clock_was_set_back(process: Process, clock: Clock) -> None:
    await put(process, cron="*/10 * * * * *", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await drain(process, draining=True)
    await pass_time(process, clock, 60)
    waiting = (await found(process)).pending
    assert waiting is not None
    await drain(process, draining=False)
    clock.advance(-3600)
    await pass_time(process, clock, LONGEST_PAUSE_S)
    assert waiting.task_id in await all_ids(process)
