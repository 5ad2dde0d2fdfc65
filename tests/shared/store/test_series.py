"""What happened at an endpoint, by time."""

from __future__ import annotations

import pytest

from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.requeue import BackendAway, BackendBusy, BackendFailed
from shared.store.series import COUNTS, Ended, EndpointSeries, span_of
from shared.store.store import TaskStore
from shared.tasks.outcomes import Applied, Claimed, SlotGrant
from shared.tasks.task import NewTask, State
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.counted import (
    DEFERRED_END_S,
    FIRST_MINUTE_MS,
    HOUR_MS,
    MINUTE_MS,
    claim,
    client_of,
    counts,
    end,
    minutes,
    run,
    state_key,
    submit,
)
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.world import START_MS, Server


async def test_what_happens_to_a_task_is_counted_once(task_store: TaskStore, clock: Clock) -> None:
    await run(task_store, "t1")
    clock.advance(3)
    await end(task_store, "t1", State.COMPLETED)
    await run(task_store, "t2")
    await end(task_store, "t2", State.FAILED)
    await run(task_store, "t3")
    await task_store.cancel("t3")
    await task_store.cancel("t3")
    (bucket,) = await minutes(task_store, clock)
    assert counts(bucket) == {"created": 3, "completed": 1, "failed": 1, "cancelled": 1}
    assert sum(bucket.waits.values()) == 3
    assert bucket.runs == {5: 1}  # 1.6 to 3.2 s


async def test_steps_that_are_taken_twice_count_once(repeating_task_store: TaskStore, clock: Clock) -> None:
    await run(repeating_task_store, "t1")
    clock.advance(3)
    await end(repeating_task_store, "t1", State.COMPLETED)
    await run(repeating_task_store, "t2")
    await repeating_task_store.cancel("t2")
    await repeating_task_store.enqueue(await run(repeating_task_store, "t3"))
    (bucket,) = await minutes(repeating_task_store, clock)
    assert counts(bucket) == {"created": 3, "completed": 1, "cancelled": 1}
    assert (sum(bucket.waits.values()), bucket.runs) == (3, {5: 1})


async def test_steps_of_a_queue_alone_that_are_taken_twice_count_once(redis_url: str, clock: Clock) -> None:
    """As on a cluster, where no script has the task beside them."""
    link = RepeatingLink(opener(redis_url))
    queues, task = QueueSteps(link, store_policy(), lambda path: None, clock), new_task("t1", clock)
    await queues.enqueue([QueueEntry.of(task)], arrive=True)
    await queues.accepted(task)
    await queues.release(PATH, SlotGrant.of(task), "", 3_000, Ended(State.COMPLETED, 0))
    (bucket,) = await EndpointSeries(link).read(
        PATH, FIRST_MINUTE_MS, FIRST_MINUTE_MS + MINUTE_MS, MINUTE_MS, clock() + 1
    )
    assert counts(bucket) == {"created": 1, "completed": 1}
    assert (bucket.waits, bucket.runs) == ({0: 1}, {5: 1})
    await link.aclose()


async def test_the_wait_of_a_task_whose_owner_was_charged_counts_once_too(redis_url: str, clock: Clock) -> None:
    """Both are marks of the entry that holds the slot."""
    link = RepeatingLink(opener(redis_url))
    queues = QueueSteps(link, store_policy(), lambda path: None, clock)
    await queues.configure(PATH, {"paused": True})
    for owner in "ab":
        await queues.enqueue([QueueEntry.of(new_task(owner, clock, owner))], arrive=True)
    await queues.configure(PATH, {"paused": False})
    await queues.accepted(new_task("a", clock, "a"))
    (bucket,) = await EndpointSeries(link).read(
        PATH, FIRST_MINUTE_MS, FIRST_MINUTE_MS + MINUTE_MS, MINUTE_MS, clock() + 1
    )
    assert bucket.waits == {0: 1}
    await link.aclose()


async def test_a_task_that_is_cancelled_while_it_waits_is_counted(task_store: TaskStore, clock: Clock) -> None:
    await task_store.queues.configure(PATH, {"paused": True})
    await submit(task_store, "t1")
    (bucket,) = await minutes(task_store, clock)
    assert (counts(bucket), bucket.waiting) == ({"created": 1}, 1)
    await task_store.cancel("t1")
    (bucket,) = await minutes(task_store, clock)
    assert (counts(bucket), bucket.waiting, bucket.waits) == ({"created": 1, "cancelled": 1}, 0, {})


async def test_a_busy_backend_and_a_failure_are_retries_and_the_wait_is_that_of_the_first_dispatch(
    task_store: TaskStore, clock: Clock
) -> None:
    task = await claim(task_store, (await submit(task_store, "t1")).granted[0])
    clock.advance(2)
    await task_store.requeue(task, BackendBusy(None))
    (bucket,) = await minutes(task_store, clock)
    assert (counts(bucket), bucket.waits) == ({"created": 1, "retried": 1}, {})
    clock.advance(4)
    task = await claim(task_store, await task_store.queues.grant_free_slots(PATH))
    await task_store.accept(task)
    (bucket,) = await minutes(task_store, clock)
    assert bucket.waits == {6: 1}  # 6 s

    task = await claim(task_store, (await submit(task_store, "t2")).granted[0])
    await task_store.requeue(task, BackendFailed("failed"))
    (bucket,) = await minutes(task_store, clock)
    assert counts(bucket) == {"created": 2, "retried": 2}


async def test_a_task_that_its_backend_gave_back_has_waited_once(task_store: TaskStore, clock: Clock) -> None:
    """It counts as no failure, so only the record tells that the backend had it."""
    await run(task_store, "t1")
    await task_store.release("t1", attempt=1, status=None)
    clock.advance(9)
    claimed = await task_store.claim("t1", 2)
    assert isinstance(claimed, Claimed)
    await task_store.accept(claimed.task)
    clock.advance(1)
    await end(task_store, "t1", State.COMPLETED)
    (bucket,) = await minutes(task_store, clock)
    assert counts(bucket) == {"created": 1, "retried": 1, "completed": 1}
    assert (bucket.waits, bucket.runs) == ({0: 1}, {4: 1})


async def test_a_task_whose_backend_was_silent_is_retried_and_has_waited_once(
    task_store: TaskStore, clock: Clock
) -> None:
    await run(task_store, "t1")
    clock.advance(61)
    async for _ in task_store.sweep():
        pass
    claimed = await task_store.claim("t1", 2)
    assert isinstance(claimed, Claimed)
    await task_store.accept(claimed.task)
    found = await minutes(task_store, clock, 2)
    assert [counts(bucket) for bucket in found] == [{"created": 1}, {"retried": 1}]
    assert [bucket.waits for bucket in found] == [{0: 1}, {}]


async def test_an_end_that_takes_effect_later_is_counted_once_and_then(task_store: TaskStore, clock: Clock) -> None:
    """The slot has been freed before, when the text of a report told the end."""
    await run(task_store, "t1")
    clock.advance(3)
    await task_store.update("t1", state=State.RUNNING, told=State.COMPLETED, status="completed - 3 images")
    (bucket,) = await minutes(task_store, clock)
    assert (counts(bucket), bucket.in_flight) == ({"created": 1}, 0)
    clock.advance(DEFERRED_END_S)
    async for _ in task_store.sweep():
        pass
    found = await minutes(task_store, clock, 5)
    assert sum(bucket.counts["completed"] for bucket in found if bucket.counts) == 1
    assert [bucket.runs for bucket in found if bucket.runs] == [{5: 1}]


async def test_a_task_that_is_cancelled_while_it_waits_apart_is_counted_once(
    repeating_task_store: TaskStore, clock: Clock
) -> None:
    await run(repeating_task_store, "t1")
    await repeating_task_store.release("t1", attempt=1, status=None, after_s=30)
    await repeating_task_store.cancel("t1")
    (bucket,) = await minutes(repeating_task_store, clock)
    assert counts(bucket) == {"created": 1, "retried": 1, "cancelled": 1}


async def test_a_task_that_nobody_dispatches_is_not_counted(task_store: TaskStore, clock: Clock) -> None:
    """It never comes to the queue. What it is, the numbers of tasks tell."""
    await task_store.create(NewTask("t1", PATH, 60, dispatch_requested=False))
    await end(task_store, "t1", State.COMPLETED)
    (bucket,) = await minutes(task_store, clock)
    assert not bucket.counts or counts(bucket) == {}


async def test_a_task_that_fails_as_its_backend_is_away_for_too_long_is_counted(
    task_store: TaskStore, clock: Clock
) -> None:
    (granted,) = (await submit(task_store, "t1")).granted
    for _ in range(2):
        task = await claim(task_store, granted)
        outcome = await task_store.requeue(task, BackendAway("is away", PATH))
        assert isinstance(outcome, Applied)
        clock.advance(25 * 3600)
        granted = next(
            each for each in [*outcome.granted, await task_store.queues.grant_free_slots(PATH)] if each.grants
        )
    task = await claim(task_store, granted)
    outcome = await task_store.requeue(task, BackendAway("is away", PATH))
    assert isinstance(outcome, Applied)
    assert outcome.task.state is State.FAILED
    found = await task_store.series.read(PATH, FIRST_MINUTE_MS, clock() + MINUTE_MS, 10 * MINUTE_MS, clock() + 1)
    assert sum(bucket.counts["failed"] for bucket in found if bucket.counts) == 1


async def test_the_age_of_the_oldest_is_known_until_it_goes_and_grows_by_the_clock(
    task_store: TaskStore, clock: Clock
) -> None:
    await task_store.queues.configure(PATH, {"paused": True})
    await submit(task_store, "t1")
    clock.advance(50)
    await submit(task_store, "t2")

    async def age_s() -> float | None:
        ages = [bucket.oldest_waiting_ms for bucket in await minutes(task_store, clock, 4)]
        return next((age / 1000 for age in reversed(ages) if age is not None), None)

    assert await age_s() == pytest.approx(50, abs=0.1)
    clock.advance(40)
    assert await age_s() == pytest.approx(90, abs=0.1)
    await task_store.cancel("t1")
    # It has gone, and the queue itself does not know which one is the oldest now.
    await task_store.series.note_oldest({PATH: (await task_store.queues.depths())[PATH].oldest_waiting_ms})
    assert await age_s() == pytest.approx(40, abs=0.1)
    await task_store.cancel("t2")
    assert await age_s() == 0
    clock.advance(60)
    await submit(task_store, "t3")
    clock.advance(5)
    assert await age_s() == pytest.approx(5, abs=0.1)


async def test_the_age_of_the_oldest_is_null_where_nobody_knows_it(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await task_store.queues.configure(PATH, {"paused": True})
    await submit(task_store, "t1")
    client_of(redis_server).delete(state_key())
    await task_store.queues.grant_free_slots(PATH)
    (bucket,) = await minutes(task_store, clock)
    assert (bucket.waiting, bucket.oldest_waiting_ms) == (1, None)


async def test_an_age_of_an_empty_queue_is_not_noted(
    task_store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await task_store.series.note_oldest({PATH: 60_000})
    assert not client_of(redis_server).exists(state_key())


async def test_a_step_of_a_pipeline_is_an_end_here_and_a_beginning_there(task_store: TaskStore, clock: Clock) -> None:
    await run(task_store, "t1")
    clock.advance(1)
    await task_store.next_step("t1", path="/v1/b", query="", status="created", attempt=1)
    (here,), (there,) = await minutes(task_store, clock), await minutes(task_store, clock, path="/v1/b")
    assert counts(here) == {"created": 1, "completed": 1}
    assert counts(there) == {"created": 1}


async def test_a_replay_is_a_beginning(task_store: TaskStore, clock: Clock) -> None:
    await run(task_store, "t1")
    await end(task_store, "t1", State.FAILED)
    await task_store.replay("t1")
    (bucket,) = await minutes(task_store, clock)
    assert counts(bucket) == {"created": 2, "failed": 1}


async def test_minutes_in_which_nothing_happens_have_zeros_and_the_last_gauges(
    task_store: TaskStore, clock: Clock
) -> None:
    await task_store.queues.configure(PATH, {"limit": 1})
    await run(task_store, "t1")
    await submit(task_store, "t2")
    clock.advance(180)
    await end(task_store, "t1", State.COMPLETED)
    found = await task_store.series.read(
        PATH, FIRST_MINUTE_MS - MINUTE_MS, FIRST_MINUTE_MS + 4 * MINUTE_MS, MINUTE_MS, clock() + 1
    )
    assert [bucket.counts and counts(bucket) for bucket in found] == [None, {"created": 2}, {}, {}, {"completed": 1}]
    assert [bucket.waiting for bucket in found] == [None, 1, 1, 1, 0]
    assert [bucket.in_flight for bucket in found] == [None, 1, 1, 1, 1]


async def test_the_same_is_counted_by_minutes_ten_minutes_and_hours(task_store: TaskStore, clock: Clock) -> None:
    for number in range(30):
        await run(task_store, f"t{number}")
        clock.advance(61)
        await end(task_store, f"t{number}", State.COMPLETED)
    first_ms, now_ms = START_MS - START_MS % HOUR_MS, clock() + 1
    for days_ago in (0, 2, 30):
        start_ms = first_ms - days_ago * 24 * HOUR_MS
        step_ms = {0: MINUTE_MS, 1: 10 * MINUTE_MS, 2: HOUR_MS}[span_of(start_ms, now_ms)]
        found = await task_store.series.read(PATH, start_ms, first_ms + 2 * HOUR_MS, step_ms, now_ms)
        known = [bucket for bucket in found if bucket.counts is not None]
        assert sum(counts(bucket).get("completed", 0) for bucket in known) == 30
        assert sum(counts(bucket).get("created", 0) for bucket in known) == 30
        assert sum(sum(bucket.runs.values()) for bucket in known) == 30


async def test_sums_only_grow(task_store: TaskStore, clock: Clock) -> None:
    former: dict[str, int] = {}
    for number in range(60):
        await run(task_store, f"t{number}")
        clock.advance(17 + 3600 * (number % 20 == 19))
        await end(task_store, f"t{number}", State.COMPLETED if number % 3 else State.FAILED)
        counted = dict((await task_store.series.totals([PATH]))[PATH].counts)
        assert all(counted[name] >= former.get(name, 0) for name in COUNTS)
        former = counted
    assert former == {"created": 60, "completed": 40, "failed": 20, "cancelled": 0, "retried": 0}
    totals = (await task_store.series.totals([PATH]))[PATH]
    assert (sum(totals.waits.values()), sum(totals.runs.values())) == (60, 40)


async def test_many_counts_in_one_minute_are_none_too_many(task_store: TaskStore, clock: Clock) -> None:
    """More than a state keeps."""
    for number in range(150):
        await run(task_store, f"t{number}")
        await end(task_store, f"t{number}", State.COMPLETED)
    (bucket,) = await minutes(task_store, clock)
    assert counts(bucket) == {"created": 150, "completed": 150}
    assert (await task_store.series.totals([PATH]))[PATH].counts["completed"] == 150


async def test_a_gauge_that_changes_where_nothing_is_counted_has_its_row(task_store: TaskStore, clock: Clock) -> None:
    await task_store.queues.configure(PATH, {"paused": True})
    await submit(task_store, "t1")
    clock.advance(120)
    await task_store.queues.configure(PATH, {"paused": False})
    clock.advance(120)
    await end(task_store, "t1", State.CANCELLED)
    found = await minutes(task_store, clock, 5)
    assert [bucket.waiting for bucket in found] == [1, 1, 0, 0, 0]
    assert [bucket.in_flight for bucket in found] == [0, 0, 1, 1, 0]
