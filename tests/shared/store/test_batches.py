"""Batches: what each step does, what it refuses, and that it may be taken twice and in any order."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from shared.store.batch_steps import (
    AGAIN_S,
    CHILDREN_AT_ONCE,
    LOOK_S,
    REGISTRATION_GRACE_S,
    REGISTRATION_S,
    Child,
    ChildEnd,
    ChildReport,
    News,
    Registration,
    then_task_id,
)
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, BatchRefused, Created, Existing, Outcome, Refusal, Refused, TooLate
from shared.tasks.task import BatchState, Content, NewBatch, NewTask, PipelineStep, Reason, State, Task, ThenTask
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import known, sweep_all
from tests.shared.store.world import Server, World

THEN = ThenTask("/v1/then?x=1", "", (PipelineStep("/v1/then", "x=1", 60),))
BATCH = NewBatch("b", "scenes")
CHILD = NewTask("c1", "/v1/a", 60, body=Content("text/plain", 2), inline_body=b"hi", batch="b")
DONE, FAILED, CANCELLED, CREATED = State.COMPLETED, State.FAILED, State.CANCELLED, State.CREATED


async def begin(store: Store, *children: str, then: ThenTask | None = None) -> None:
    """A batch with registered children."""
    assert isinstance(await store.batches.create(replace(BATCH, then=then)), Created)
    for child_id in children:
        await register(store, child_id)


async def register(store: Store, child_id: str, batch_id: str = "b") -> Registration:
    registered = await store.batches.register(batch_id, child_id, "")
    assert isinstance(registered, Registration)
    return registered


async def report(store: Store, *reports: tuple[str, int, News], is_refused: bool = False) -> Outcome:
    return await store.batches.report("b", [ChildReport(*each) for each in reports], is_refused=is_refused)


async def batch(store: Store) -> Task:
    return await known(store, "b")


async def state(store: Store) -> BatchState:
    children = (await batch(store)).children
    assert children
    return children


async def counts(store: Store) -> dict[str, int]:
    """Without the zeros."""
    found = await state(store)
    names = ("total", "completed", "failed", "cancelled", "replayable", "unfinished")
    return {name: count for name in names if (count := getattr(found, name))}


async def all_children(store: Store) -> list[Child]:
    found = await store.batches.children("b")
    assert found
    return found[1]


def check(server: Server) -> World:
    world = World(server)
    world.assert_consistent()
    return world


async def test_a_batch_counts_its_children_and_ends_with_the_last_of_them(store: Store, redis_server: Server) -> None:
    await begin(store, "c1", "c2")
    assert await counts(store) == {"total": 2, "unfinished": 2}
    outcome = await report(store, ("c1", 1, DONE))
    assert isinstance(outcome, Applied)
    assert (outcome.task.state, outcome.is_transition) == (State.RUNNING, not store.is_repeating)
    await register(store, "c3")
    await report(store, ("c3", 1, DONE))
    await store.batches.seal("b", None)
    ended = await report(store, ("c2", 3, DONE))
    assert isinstance(ended, Applied)
    assert (ended.task.state, ended.task.status) == (DONE, "completed")
    assert [(event.state, event.reason) for event in ended.task.history] == [
        (CREATED, Reason.SUBMIT),
        (State.RUNNING, Reason.CHILDREN),
        (DONE, Reason.CHILDREN),
    ]
    assert [*check(redis_server).children_of("b")] == [
        ("c1", "completed", 1),
        ("c2", "completed", 3),
        ("c3", "completed", 1),
    ]


async def test_a_batch_does_not_end_before_it_is_sealed(store: Store) -> None:
    await begin(store, "c1")
    await report(store, ("c1", 1, DONE))
    assert (await batch(store)).state is State.RUNNING
    await register(store, "c2")
    await store.batches.seal("b", None)
    assert (await batch(store)).state is State.RUNNING


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([DONE, FAILED, FAILED], "failed - 2 of 3 failed"),
        ([DONE, DONE, CANCELLED], "failed - 1 of 3 cancelled"),
        ([CANCELLED, FAILED, CANCELLED], "failed - 1 of 3 failed, 2 of 3 cancelled"),
    ],
)
async def test_a_batch_whose_children_have_not_all_completed_has_failed(
    store: Store, ends: list[State], status: str
) -> None:
    await begin(store, "c1", "c2", "c3")
    await store.batches.seal("b", None)
    await report(store, *((f"c{number}", 1, end) for number, end in enumerate(ends, 1)))
    task = await batch(store)
    assert (task.state, task.status) == (FAILED, status)


async def test_a_report_counts_once_and_a_later_attempt_is_later_news(store: Store, redis_server: Server) -> None:
    """Whatever comes twice, late or out of order: the last attempt counts, and its end."""
    reports: list[tuple[int, News]] = [(1, FAILED), (2, CREATED), (2, FAILED), (3, CREATED), (3, DONE)]
    for seed in range(20):
        order = reports * 2
        random.Random(seed).shuffle(order)
        redis_server.flush()
        await begin(store, "c1", "c2")
        for number, what in order:
            await report(store, ("c1", number, what))
            check(redis_server)
        assert await counts(store) == {"total": 2, "completed": 1, "unfinished": 1}


async def test_a_replayed_child_is_waited_for_until_the_end_of_that_attempt(store: Store) -> None:
    await begin(store, "c1", "c2")
    await report(store, ("c1", 1, FAILED))
    await report(store, ("c1", 2, CREATED))
    assert await counts(store) == {"total": 2, "unfinished": 2}
    await report(store, ("c1", 1, FAILED))
    assert await counts(store) == {"total": 2, "unfinished": 2}
    await report(store, ("c1", 2, CANCELLED))
    assert await counts(store) == {"total": 2, "cancelled": 1, "unfinished": 1}


async def test_an_ended_batch_does_not_change_any_more(store: Store) -> None:
    await begin(store, "c1")
    await store.batches.seal("b", None)
    await report(store, ("c1", 1, FAILED))
    before = await batch(store)
    for late in ((2, CREATED), (2, DONE), (1, DONE)):
        await report(store, ("c1", *late))
    await store.batches.seal("b", None)
    assert await batch(store) == before


async def test_what_is_no_child_is_not_counted(store: Store) -> None:
    await begin(store, "c1")
    await report(store, ("stranger", 1, DONE))
    assert await counts(store) == {"total": 1, "unfinished": 1}
    outcome = await store.batches.report("unknown", [ChildReport("c1", 1, DONE)])
    assert isinstance(outcome, Refused)


async def test_a_sealed_batch_takes_no_children_but_those_that_it_waits_for(store: Store) -> None:
    await begin(store, "c1", "c2")
    await store.batches.seal("b", None)
    assert await store.batches.register("b", "c3", "") == BatchRefused("sealed")
    await register(store, "c2")
    await report(store, ("c1", 1, DONE))
    assert await store.batches.register("b", "c1", "") == BatchRefused("sealed")
    assert await counts(store) == {"total": 2, "completed": 1, "unfinished": 1}
    await report(store, ("c2", 1, DONE))
    assert await store.batches.register("b", "c2", "") == BatchRefused("sealed")


async def test_no_other_owner_finds_a_batch(store: Store) -> None:
    await store.batches.create(replace(BATCH, owner="alice"))
    for owner in ("bob", ""):
        assert await store.batches.register("b", "c1", owner) == BatchRefused("unknown")
    steps = store.batches
    for outcome in (await steps.seal("b", "bob"), await steps.cancel("b", "bob"), await steps.replay("b", "bob")):
        assert outcome == Refused(Refusal.UNKNOWN, None)
    assert await steps.children("b", owner="bob") is None
    assert isinstance(await steps.register("b", "c1", "alice"), Registration)


async def test_a_task_that_is_no_batch_takes_no_children(store: Store) -> None:
    await store.create(replace(CHILD, batch=""))
    assert await store.batches.register("c1", "c2", "") == BatchRefused("unknown")
    assert await store.batches.seal("c1", None) == Refused(Refusal.UNKNOWN, None)
    assert await store.batches.children("c1") is None


async def test_a_batch_has_at_most_ten_thousand_children(open_store: StoreFactory) -> None:
    store = open_store()
    await begin(store)
    for first in range(0, 10_000, 500):
        await asyncio.gather(*(register(store, f"c{number}") for number in range(first, first + 500)))
    assert await store.batches.register("b", "more", "") == BatchRefused("full")
    await register(store, "c7")
    assert await counts(store) == {"total": 10_000, "unfinished": 10_000}


async def test_the_then_task_is_the_batchs_to_name_and_the_batch_ends_with_it(
    store: Store, redis_server: Server
) -> None:
    await begin(store, "c1", then=THEN)
    await store.batches.seal("b", None)
    await report(store, ("c1", 1, FAILED))
    found = await state(store)
    assert (found.then, found.then_id, found.then_exists) == (THEN, then_task_id("b", 1), False)
    assert (await batch(store)).state is State.RUNNING
    await report(store, (found.then_id, 1, "begun"))
    assert (await state(store)).then_exists
    for late in ((2, CREATED), (2, DONE)):
        await report(store, ("c1", *late))
    assert (await state(store)).failed == 1, "the Then task has its list"
    await report(store, (found.then_id, 1, DONE))
    assert (await batch(store)).status == "failed - 1 of 1 failed"
    check(redis_server)


async def test_the_end_of_a_then_task_is_heard_before_that_it_exists(store: Store) -> None:
    await begin(store, "c1", then=THEN)
    await store.batches.seal("b", None)
    await report(store, ("c1", 1, DONE))
    await report(store, (then_task_id("b", 1), 1, FAILED))
    task = await batch(store)
    assert (task.state, task.status, (await state(store)).then_exists) == (FAILED, "failed - Then failed", True)
    await report(store, (then_task_id("b", 1), 1, "begun"))
    assert await batch(store) == task


async def test_an_empty_batch_ends_when_it_is_sealed(store: Store) -> None:
    await begin(store)
    outcome = await store.batches.seal("b", None)
    assert outcome.task
    assert outcome.task.state is DONE
    await store.batches.create(replace(BATCH, id="b2", then=THEN))
    outcome = await store.batches.seal("b2", None)
    assert outcome.task
    assert outcome.task.children
    assert (outcome.task.state, outcome.task.children.then_id) == (State.RUNNING, then_task_id("b2", 1))


async def test_a_child_is_not_created_after_its_registration(store: Store, clock: Clock) -> None:
    await begin(store)
    registered = await register(store, "c1")
    new = replace(CHILD, create_until_ms=registered.until_ms)
    clock.advance(REGISTRATION_S + 0.001)
    assert await store.create(new) == TooLate()
    assert await store.get("c1") is None
    again = await register(store, "c1")
    assert await counts(store) == {"total": 1, "unfinished": 1}
    assert isinstance(await store.create(replace(CHILD, create_until_ms=again.until_ms)), Created)
    clock.advance(REGISTRATION_S + 1)
    assert isinstance(await store.create(replace(CHILD, create_until_ms=again.until_ms)), Existing)


async def grow_old(store: Store, clock: Clock) -> None:
    """Let those be checked next that are registered by now."""
    clock.advance(REGISTRATION_GRACE_S)
    await store.batches.rest("b")
    clock.advance(REGISTRATION_GRACE_S)


async def test_a_registered_child_that_never_came_is_dropped(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await begin(store, "c1")
    number = (await register(store, "c2")).number
    await report(store, ("c1", 1, DONE), ("c2", number, "dropped"))
    assert await counts(store) == {"total": 2, "completed": 1, "unfinished": 1}, "it may still come"
    await store.batches.seal("b", None)
    clock.advance(REGISTRATION_GRACE_S)
    await store.batches.rest("b")
    await report(store, ("c2", number, "dropped"))
    assert (await counts(store))["unfinished"] == 1, "another one may have come a moment before this look"
    clock.advance(REGISTRATION_GRACE_S)
    ended = await report(store, ("c2", number, "dropped"))
    assert ended.task
    assert (ended.task.state, await counts(store)) == (DONE, {"total": 1, "completed": 1})
    check(redis_server)


async def test_a_child_that_is_registered_again_is_not_dropped_for_its_first_registration(
    store: Store, clock: Clock
) -> None:
    await begin(store)
    first = await register(store, "c1")
    await grow_old(store, clock)
    second = await register(store, "c1")
    for number in (first.number, second.number):
        await report(store, ("c1", number, "dropped"))
    assert await counts(store) == {"total": 1, "unfinished": 1}
    await grow_old(store, clock)
    await report(store, ("c1", first.number, "dropped"))
    assert await counts(store) == {"total": 1, "unfinished": 1}
    await report(store, ("c1", second.number, "dropped"))
    assert await counts(store) == {}


async def test_a_child_whose_queue_refused_it_is_dropped_at_once(store: Store) -> None:
    await begin(store, "c1")
    first = await register(store, "c2")
    second = await register(store, "c2")
    await report(store, ("c2", first.number, "dropped"), is_refused=True)
    assert (await state(store)).total == 2, "another call has registered it meanwhile"
    await report(store, ("c2", second.number, "dropped"), is_refused=True)
    assert await counts(store) == {"total": 1, "unfinished": 1}


async def test_a_child_that_was_removed_and_comes_again_is_another_one(store: Store, redis_server: Server) -> None:
    await begin(store, "c1", "c2")
    await report(store, ("c1", 7, FAILED))
    await register(store, "c1")
    assert await counts(store) == {"total": 2, "unfinished": 2}
    assert [child.id for child in await all_children(store)] == ["c2", "c1"]
    await report(store, ("c1", 1, DONE))
    assert await counts(store) == {"total": 2, "completed": 1, "unfinished": 1}
    check(redis_server)


async def test_a_cancelled_batch_counts_its_children_to_the_last(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await begin(store, "c1", "c2", "c3", then=THEN)
    await report(store, ("c1", 1, FAILED))
    outcome = await store.batches.cancel("b", None)
    assert outcome.task
    assert (outcome.task.state, outcome.task.status) == (CANCELLED, "Cancelled")
    assert await store.batches.register("b", "c4", "") == BatchRefused("sealed")
    assert await store.batches.register("b", "c3", "") == BatchRefused("sealed")
    await report(store, ("c2", 1, CANCELLED), ("c1", 2, CREATED))
    await store.batches.rest("b", is_cancelled=True)
    found = await state(store)
    assert (found.job, await counts(store)) == (
        "cancel",
        {"total": 3, "failed": 1, "cancelled": 1, "unfinished": 1},
    )
    await report(store, ("c3", 1, DONE))
    await store.batches.rest("b")
    assert (await state(store)).job == "cancel", "a Then task may be about to begin"
    await store.batches.rest("b", is_cancelled=True)
    assert (await state(store)).job is None
    assert check(redis_server).due_s["b"] == POLICY.retention_s
    assert isinstance(await store.batches.cancel("b", None), Applied)
    assert (await batch(store)).history[-1].reason is Reason.CANCEL


async def test_an_ended_batch_is_not_cancelled(store: Store) -> None:
    await begin(store)
    await store.batches.seal("b", None)
    outcome = await store.batches.cancel("b", None)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.FINISHED


async def failed_batch(store: Store, *, then: ThenTask | None = None) -> None:
    await begin(store, "c1", "c2", "c3", then=then)
    await store.batches.seal("b", None)
    await report(store, ("c1", 1, FAILED), ("c2", 1, DONE), ("c3", 4, FAILED))
    if then:
        await report(store, (then_task_id("b", 1), 1, DONE))


async def test_a_replayed_batch_waits_for_its_failed_children(store: Store, redis_server: Server) -> None:
    await failed_batch(store, then=THEN)
    opened = await store.batches.replay("b", None)
    assert isinstance(opened, Applied)
    assert (opened.task.state, opened.task.attempt, opened.is_transition) == (State.RUNNING, 2, True)
    await report(store, ("c1", 1, FAILED))
    assert (await batch(store)).state is State.RUNNING, "they are still to be replayed"
    await store.batches.mark_replays("b")
    assert await counts(store) == {"total": 3, "completed": 1, "replayable": 2, "unfinished": 2}
    assert [(child.known, child.number) for child in await all_children(store)] == [
        ("again", 1),
        ("completed", 1),
        ("again", 4),
    ]
    await report(store, ("c1", 1, FAILED))
    assert (await state(store)).replayable == 2, "that is old news"
    await report(store, ("c1", 2, CREATED), ("c3", 5, DONE))
    assert await counts(store) == {"total": 3, "completed": 2, "unfinished": 1}
    await report(store, ("c1", 2, DONE))
    found = await state(store)
    assert (found.then_id, found.then_state) == (then_task_id("b", 2), None)
    await report(store, (then_task_id("b", 1), 2, FAILED))
    assert (await batch(store)).state is State.RUNNING, "an earlier Then task is none of it"
    await report(store, (found.then_id, 1, DONE))
    assert (await batch(store)).state is DONE
    check(redis_server)


async def test_a_child_that_cannot_be_replayed_stays_failed(store: Store) -> None:
    await failed_batch(store)
    await store.batches.replay("b", None)
    await store.batches.mark_replays("b")
    await report(store, ("c1", 1, "unreplayable"), ("c3", 3, "unreplayable"))
    assert await counts(store) == {"total": 3, "completed": 1, "failed": 1, "replayable": 1, "unfinished": 1}
    await report(store, ("c3", 4, "unreplayable"))
    assert (await batch(store)).status == "failed - 2 of 3 failed"


async def test_failed_children_are_marked_piece_by_piece(open_store: StoreFactory, redis_server: Server) -> None:
    store, count = open_store(), CHILDREN_AT_ONCE + 10
    await begin(store)
    ids = [f"c{number}" for number in range(count)]
    await asyncio.gather(*(register(store, child_id) for child_id in ids))
    await store.batches.seal("b", None)
    for first in (0, CHILDREN_AT_ONCE):
        await report(store, *((child_id, 1, FAILED) for child_id in ids[first : first + CHILDREN_AT_ONCE]))
    await store.batches.replay("b", None)
    await store.batches.mark_replays("b")
    found = await state(store)
    assert (found.job, found.replayable, found.failed) == ("replay", CHILDREN_AT_ONCE, 10)
    marked = [child.id for child in await all_children(store)]
    await report(store, *((child_id, 2, DONE) for child_id in marked))
    assert (await batch(store)).state is State.RUNNING, "the others are still to be marked"
    await store.batches.mark_replays("b")
    found = await state(store)
    assert (found.job, found.replayable, found.failed) == (None, 10, 0)
    check(redis_server)


@pytest.mark.parametrize("ends", [(DONE, DONE), (CANCELLED, DONE)])
async def test_a_batch_in_which_nothing_failed_is_not_replayed(store: Store, ends: tuple[State, State]) -> None:
    await begin(store, "c1", "c2")
    await store.batches.seal("b", None)
    await report(store, ("c1", 1, ends[0]), ("c2", 1, ends[1]))
    outcome = await store.batches.replay("b", None)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STATE


async def test_a_batch_is_replayed_only_once_it_has_failed(store: Store) -> None:
    await begin(store, "c1", "c2")
    await report(store, ("c1", 1, FAILED))
    for _ in range(2):
        outcome = await store.batches.replay("b", None)
        assert isinstance(outcome, Refused)
        assert outcome.reason is Refusal.STATE
        await store.batches.cancel("b", None)


async def test_the_completion_of_a_batch_is_published_before_its_retention(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store(replace(POLICY, publish_completions=True))
    await begin(store)
    await store.batches.seal("b", None)
    clock.advance(POLICY.republish_s)
    assert [(item.what, item.id) for item in await sweep_all(store)] == [("completion", "b")]
    await store.mark_completions_published(["b"])
    assert check(redis_server).due_s["b"] == POLICY.retention_s
    clock.advance(POLICY.retention_s)
    assert [(item.what, item.id) for item in await sweep_all(store)] == [("batch", "b")]


async def test_the_cancel_of_a_batch_goes_on_after_its_completion_is_published(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store(replace(POLICY, publish_completions=True))
    await begin(store, "c1")
    cancelled = await store.batches.cancel("b", None)
    assert cancelled.task
    assert cancelled.task.completion_unpublished
    await store.mark_completions_published(["b"])
    clock.advance(AGAIN_S)
    assert [(item.what, item.id) for item in await sweep_all(store)] == [("batch", "b")]


async def test_a_batch_is_sealed_when_nothing_has_happened_for_long(store: Store, clock: Clock) -> None:
    await begin(store, "c1")
    clock.advance(POLICY.batch_idle_s - 1)
    await report(store, ("c1", 1, DONE))
    clock.advance(POLICY.batch_idle_s - 1)
    await store.batches.rest("b")
    assert not (await state(store)).sealed
    clock.advance(1)
    outcome = await store.batches.rest("b")
    assert outcome.task
    assert outcome.task.state is DONE


async def test_the_deadline_of_a_batch(store: Store, clock: Clock, redis_server: Server) -> None:
    def due_in_s() -> float:
        return check(redis_server).due_s["b"] - (clock.ms - 1_700_000_000_000) / 1000

    await begin(store)
    assert due_in_s() == LOOK_S
    await register(store, "c1")
    assert due_in_s() == REGISTRATION_GRACE_S
    clock.advance(10)
    await register(store, "c2")
    assert due_in_s() == REGISTRATION_GRACE_S - 10, "all of them are checked together"
    clock.advance(REGISTRATION_GRACE_S - 10)
    found = [item for item in await sweep_all(store) if not store.is_repeating]
    assert [(item.what, item.id) for item in found] == ([] if store.is_repeating else [("batch", "b")])
    await store.batches.rest("b")
    assert due_in_s() == REGISTRATION_GRACE_S
    clock.advance(REGISTRATION_GRACE_S)
    await store.batches.rest("b", checked=2)
    assert (await state(store)).seen == 2
    assert due_in_s() == LOOK_S
    await store.batches.rest("b", look_again=True)
    found_state = await state(store)
    assert (found_state.seen, found_state.checked_next) == (0, 2)
    assert due_in_s() == REGISTRATION_GRACE_S


async def end_child(store: Store, child_id: str, end: State) -> Applied:
    outcome = await store.update(child_id, state=end, status=end.value)
    assert isinstance(outcome, Applied)
    return outcome


async def test_the_end_of_a_child_is_kept_until_its_batch_knows_it(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await begin(store, "c1")
    await store.create(CHILD)
    await end_child(store, "c1", FAILED)
    failed = ChildEnd("b", "c1", 1, FAILED)
    assert check(redis_server).ends == {failed.text}
    assert [item for item in await sweep_all(store) if item.what == "end"] == []
    replayed = await store.replay("c1")
    assert isinstance(replayed, Applied)
    begun = ChildEnd.of(replayed.task)
    assert begun == ChildEnd("b", "c1", 2, CREATED)
    assert check(redis_server).ends == {failed.text, begun.text}
    clock.advance(11)
    if not store.is_repeating:  # the repetition of a sweep finds nothing any more
        found = {ChildEnd.parse(item.id) for item in await sweep_all(store) if item.what == "end"}
        assert found == {failed, begun}
        assert [item for item in await sweep_all(store) if item.what == "end"] == [], "not at once again"
    await store.batches.report_ends("b", [failed, begun])
    assert check(redis_server).ends == set()


@pytest.mark.parametrize("how", ["update", "cancel", "dispatch", "lease", "publishes", "text"])
async def test_whatever_ends_a_child_is_kept_for_its_batch(
    open_store: StoreFactory, clock: Clock, redis_server: Server, how: str
) -> None:
    store = open_store(replace(POLICY, max_attempts=1))
    await begin(store, "c1")
    await store.create(CHILD)
    match how:
        case "update":
            await end_child(store, "c1", DONE)
        case "cancel":
            await store.cancel("c1")
        case "publishes":
            await store.check_slots("/v1/a", [("c1", 1)])
        case _:
            claimed = await store.claim("c1", None)
            assert claimed.task
            if how == "dispatch":
                await store.fail_dispatch(claimed.task, status="no", reason=EndReason.REJECTED)
            if how == "text":
                await store.update("c1", state=State.RUNNING, status="completed", told=DONE)
            clock.advance(POLICY.dispatch_window_s + 1)
            await sweep_all(store)
    task = await known(store, "c1")
    assert task.state.is_terminal
    assert check(redis_server).ends == {ChildEnd.of(task).text}


async def test_a_child_is_kept_as_long_as_its_batch(store: Store, clock: Clock) -> None:
    await begin(store, "c1")
    await store.create(CHILD)
    await end_child(store, "c1", DONE)
    clock.advance(POLICY.retention_s + 1)
    found = await sweep_all(store)
    if not store.is_repeating:
        assert ("child", "c1") in [(item.what, item.id) for item in found]
    assert await store.get("c1")
    assert [item for item in await sweep_all(store) if item.what == "child"] == []


async def erased(store: Store, ids: list[str], **of: str) -> dict[str, str]:
    """What came of the removal of tasks, by their ids. Of those with blobs, the names of these are left."""
    found = await store.batches.erase(ids, **of)
    assert all((each.left is not None) == (each.what == "blobs") for each in found.values())
    return {task_id: each.what for task_id, each in found.items()}


async def test_a_finished_task_is_erased(store: Store, redis_server: Server) -> None:
    await store.create(replace(CHILD, batch=""))
    assert await erased(store, ["c1", "c2"]) == {"c1": "unfinished", "c2": "unknown"}
    await end_child(store, "c1", DONE)
    assert await erased(store, ["c1"], owner="bob") == {"c1": "unknown"}
    assert await erased(store, ["c1"], batch_id="b") == {"c1": "unknown"}
    assert await erased(store, ["c1"]) == {"c1": "unknown" if store.is_repeating else "gone"}
    assert str(check(redis_server)) == ""


async def test_of_an_erased_task_with_blobs_nothing_shows(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(replace(CHILD, batch="", body=Content("text/plain", 99_999, "blob"), owner="alice"))
    await store.put_result("c1", Content("text/plain", 6), b"secret")
    await end_child(store, "c1", DONE)
    assert await erased(store, ["c1"]) == {"c1": "blobs"}
    assert await store.get("c1") is None
    assert await store.inline_result("c1") is None
    world = check(redis_server)
    assert (world.indexes, world.contents, world.records["c1"]["h"]) == ({}, {}, [])
    for outcome in (await store.cancel("c1"), await store.replay("c1"), await store.update("c1", state=FAILED)):
        assert outcome == Refused(Refusal.UNKNOWN, None)
    assert await erased(store, ["c1"]) == {"c1": "unknown"}
    clock.advance(121)
    assert [(item.what, item.id) for item in await sweep_all(store)] == [("blobs", "c1")]
    assert await store.purge(["c1"]) == 1
    assert str(check(redis_server)) == ""


async def test_a_child_is_not_erased_before_its_batch_knows_its_end(open_store: StoreFactory) -> None:
    store = open_store()
    await begin(store, "c1")
    await store.create(CHILD)
    end = ChildEnd.of((await end_child(store, "c1", DONE)).task)
    assert await erased(store, ["c1"]) == {"c1": "unreported"}
    await store.batches.report_ends("b", [end])
    assert await erased(store, ["c1"]) == {"c1": "gone"}


async def test_an_erased_batch_shows_nowhere_and_keeps_its_children_to_be_removed(
    open_store: StoreFactory, redis_server: Server
) -> None:
    store = open_store()
    await begin(store, "c1")
    await store.create(CHILD)
    assert await erased(store, ["b"]) == {"b": "unfinished"}
    await store.batches.cancel("b", None)
    assert await erased(store, ["b"]) == {"b": "unfinished"}, "its children are still being cancelled"
    await store.cancel("c1")
    await report(store, ("c1", 1, CANCELLED))
    await store.batches.rest("b", is_cancelled=True)
    assert await erased(store, ["b"]) == {"b": "batch"}
    assert await store.get("b") is None
    assert await store.batches.register("b", "c2", "") == BatchRefused("unknown")
    assert await store.batches.children("b") is None
    assert isinstance(await report(store, ("c1", 1, DONE)), Refused)
    found = await store.batches.children("b", is_removed=True)
    assert found
    assert [child.id for child in found[1]] == ["c1"]
    assert await erased(store, ["c1"], batch_id="b") == {"c1": "gone"}
    await store.batches.forget("b", ["c1"])
    assert await store.purge(["b"]) == 1
    world = check(redis_server)
    assert (world.records, world.children, world.due_s) == ({}, {}, {})
