"""The steps of schedules: each is one script, taken once however often it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.store.due_schedules import START_GRACE_S, DueSchedules
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import PARTITIONS, partition
from shared.store.schedules import BLOB_GRACE_S, Schedules
from shared.store.store import TaskStore
from shared.tasks.schedules import (
    CatchUp,
    Definition,
    LastTask,
    Name,
    Overlap,
    Pending,
    Run,
    RunOutcome,
    Schedule,
)
from shared.tasks.task import Content
from tests.shared.store.conftest import Clock, Store, opener
from tests.shared.store.steps import sweep_all
from tests.shared.store.world import START_MS, Server, World, nodes

NAME = Name("ann", "nightly")
PLAIN = Definition("/v1/a", "", Content("text/plain", 2), "30 2 * * *", "UTC")
WHOLE = Definition(
    "/v1/b/c",
    "x=1",
    Content("image/tiff", 99_999, "s-blob", "gzip", "ab" * 32),
    "0 0 12 * * MON",
    "Europe/Berlin",
    Overlap.CANCEL_RUNNING,
    CatchUp.ALL,
    START_MS + 1_000_000,
    9,
    300_000,
    60_500,
    "done",
)
DUE_MS = START_MS + 60_000
NEXT_MS = DUE_MS + 60_000


def starting(due_ms: int = DUE_MS, task_id: str = "t1") -> Run:
    return Run(due_ms, RunOutcome.STARTING, task_id)


async def put(
    store: Store,
    name: Name = NAME,
    definition: Definition = PLAIN,
    next_ms: int | None = DUE_MS,
    body: bytes = b"hi",
) -> Schedule:
    schedule = await store.schedules.put(name, definition, body, next_ms)
    assert schedule is not None
    return schedule


async def found(store: Store) -> Schedule:
    schedule = (await store.schedules.get(NAME)).schedule
    assert schedule is not None
    return schedule


async def due(store: Store) -> list[str]:
    """What the sweep tells of schedules."""
    return [item.id for item in await sweep_all(store) if item.what == "schedule"]


@pytest.mark.parametrize("definition", [PLAIN, WHOLE], ids=["plain", "whole"])
async def test_a_schedule_is_kept_as_it_was_put(store: Store, definition: Definition) -> None:
    assert await store.schedules.get(NAME) == (START_MS, None, None)
    schedule = await put(store, definition=definition)
    assert schedule == Schedule(
        NAME, definition, schedule.generation, START_MS, START_MS, False, DUE_MS, [], None, None
    )
    looked = await store.schedules.get(NAME, with_body=True)
    assert looked == (START_MS, schedule, None if definition.body.blob else b"hi")


async def test_another_definition_keeps_the_runs_and_has_another_generation(store: Store, clock: Clock) -> None:
    first = await put(store)
    await store.schedules.begin(first, starting(), NEXT_MS)
    await store.schedules.settle(NAME, "t1", DUE_MS, "started")
    clock.advance(1)
    second = await put(store, definition=WHOLE, next_ms=NEXT_MS + 1)
    assert second.generation != first.generation
    assert (second.created_ms, second.updated_ms, second.next_ms) == (START_MS, START_MS + 1000, NEXT_MS + 1)
    assert second.runs == [Run(DUE_MS, RunOutcome.STARTED, "t1")]
    assert second.last == LastTask(DUE_MS, "t1")
    assert (await store.schedules.get(NAME, with_body=True)).body is None, "its body is a blob now"


async def test_another_definition_has_its_own_body(store: Store) -> None:
    for body in (b"first", b"second", b""):
        await put(store, body=body)
        assert (await store.schedules.get(NAME, with_body=True)).body == body


async def test_a_time_that_is_due_stays_due_when_the_same_expression_is_put(store: Store, clock: Clock) -> None:
    await put(store)
    clock.ms = DUE_MS
    assert (await put(store, next_ms=NEXT_MS)).next_ms == DUE_MS
    assert (await put(store, definition=replace(PLAIN, cron="0 0 * * *"), next_ms=NEXT_MS)).next_ms == NEXT_MS


async def test_an_owner_has_so_many_schedules_and_no_more(store: Store) -> None:
    schedules = Schedules(store.link, lambda: START_MS, most=2)
    owners = ("ann", "ann2", "an", "")
    for owner in owners:
        for name in ("a", "b"):
            assert await schedules.put(Name(owner, name), PLAIN, b"hi", DUE_MS) is not None
        assert await schedules.put(Name(owner, "c"), PLAIN, b"hi", DUE_MS) is None
        assert await schedules.put(Name(owner, "a"), WHOLE, b"", DUE_MS) is not None, "it has that one"
    await schedules.remove(Name("ann", "a"))
    assert await schedules.put(Name("ann", "c"), PLAIN, b"hi", DUE_MS) is not None
    assert await schedules.put(Name("ann2", "c"), PLAIN, b"hi", DUE_MS) is None


async def test_schedules_are_listed_by_owner_and_name_page_by_page(store: Store) -> None:
    names = [Name(owner, name) for owner in ("", "ann", "ann-b", "bob") for name in ("B", "a", "a.b", "b")]
    for name in reversed(names):
        await put(store, name)

    async def listed(owner: str | None) -> list[Name]:
        seen: list[Name] = []
        behind = None
        while True:
            page = await store.schedules.page(owner, 3, behind)
            seen += [schedule.name for schedule in page.schedules]
            assert len(page.schedules) <= 3
            behind = page.next
            if behind is None:
                return seen

    assert sorted(await listed(None)) == sorted(names)
    assert len(await listed(None)) == len(names)
    for owner in ("", "ann", "ann-b", "bob"):
        assert await listed(owner) == [name for name in names if name.owner == owner]
    assert await listed("nobody") == []


# A due time


async def test_a_due_time_is_begun_once(store: Store, clock: Clock) -> None:
    schedule = await put(store)
    clock.ms = DUE_MS
    begun = await store.schedules.begin(schedule, starting(), NEXT_MS)
    assert begun is not None
    assert (begun.next_ms, begun.pending) == (NEXT_MS, Pending(DUE_MS, "t1", 0, DUE_MS))
    assert begun.runs == [starting()]
    assert await store.schedules.begin(schedule, starting(task_id="t2"), NEXT_MS) is None
    assert await store.schedules.begin(replace(schedule, next_ms=NEXT_MS), starting(), NEXT_MS) is None
    assert await found(store) == begun


async def test_of_many_at_once_one_begins_it(store: Store) -> None:
    schedule = await put(store)
    begun = await asyncio.gather(
        *(store.schedules.begin(schedule, starting(task_id=f"t{number}"), NEXT_MS) for number in range(8))
    )
    assert sum(one is not None for one in begun) == 1 or store.is_repeating
    assert len((await found(store)).runs) == 1


@pytest.mark.parametrize("change", ["defined anew", "paused", "removed"])
async def test_a_schedule_that_has_changed_is_not_begun(store: Store, change: str) -> None:
    schedule = await put(store)
    if change == "defined anew":
        await put(store)
    elif change == "paused":
        await store.schedules.pause(schedule)
    else:
        await store.schedules.remove(NAME)
    assert await store.schedules.begin(schedule, starting(), NEXT_MS) is None


async def test_a_run_that_was_skipped_leaves_nothing_to_start(store: Store) -> None:
    schedule = await put(store)
    skipped = Run(DUE_MS, RunOutcome.SKIPPED, why="the task of the last run had not ended")
    begun = await store.schedules.begin(schedule, skipped, None)
    assert begun is not None
    assert (begun.next_ms, begun.pending, begun.runs) == (None, None, [skipped])


async def test_the_next_time_gives_up_a_run_that_has_not_started(store: Store) -> None:
    schedule = await put(store)
    begun = await store.schedules.begin(schedule, starting(), NEXT_MS)
    assert begun is not None
    await store.schedules.settle(NAME, "t1", DUE_MS, "waiting", why="full", again_s=5)
    again = await store.schedules.begin(begun, starting(NEXT_MS, "t2"), None)
    assert again is not None
    assert again.runs == [starting(NEXT_MS, "t2"), Run(DUE_MS, RunOutcome.SKIPPED, "t1", "full")]
    # Its task has come to be all the same, as its creator tells too late.
    await store.schedules.settle(NAME, "t1", DUE_MS, "started")
    late = await found(store)
    assert late.runs == [starting(NEXT_MS, "t2"), Run(DUE_MS, RunOutcome.STARTED, "t1")]
    assert late.pending == Pending(NEXT_MS, "t2", 0, START_MS)
    await store.schedules.settle(NAME, "t2", NEXT_MS, "started")
    await store.schedules.settle(NAME, "t1", DUE_MS, "started")
    assert (await found(store)).last == LastTask(NEXT_MS, "t2")


async def test_a_run_that_cannot_start_is_counted_and_given_up(store: Store) -> None:
    await store.schedules.begin(await put(store), starting(), NEXT_MS)
    for tries in (1, 2):
        await store.schedules.settle(NAME, "t1", DUE_MS, "waiting", why="full", again_s=5)
        assert (await found(store)).pending == Pending(DUE_MS, "t1", tries, START_MS)
    await store.schedules.settle(NAME, "t1", DUE_MS, "skipped", why="gone")
    schedule = await found(store)
    assert (schedule.pending, schedule.last) == (None, None)
    assert schedule.runs == [Run(DUE_MS, RunOutcome.SKIPPED, "t1", "gone")]


async def test_ten_runs_are_kept(store: Store) -> None:
    schedule = await put(store)
    for number in range(12):
        begun = await store.schedules.begin(schedule, starting(DUE_MS + number, f"t{number}"), DUE_MS + number + 1)
        assert begun is not None
        schedule = begun
        await store.schedules.settle(NAME, f"t{number}", DUE_MS + number, "started")
    assert [run.task_id for run in (await found(store)).runs] == [f"t{number}" for number in range(11, 1, -1)]


async def test_a_run_that_somebody_asked_for_is_noted_once(store: Store) -> None:
    await put(store)
    for _ in range(2):
        await store.schedules.settle(NAME, "t9", START_MS, "started", is_asked=True)
    assert (await found(store)).runs == [Run(START_MS, RunOutcome.STARTED, "t9", is_asked=True)]
    await store.schedules.remove(NAME)
    await store.schedules.settle(NAME, "t9", START_MS, "started", is_asked=True)
    assert (await store.schedules.get(NAME)).schedule is None


# Pause


async def test_a_paused_schedule_has_no_next_time_until_it_is_resumed(store: Store) -> None:
    schedule = await put(store)
    paused = await store.schedules.pause(schedule)
    assert isinstance(paused, Schedule)
    assert (paused.is_paused, paused.next_ms) == (True, None)
    assert (await put(store)).next_ms is None, "it stays paused"
    assert await store.schedules.resume(paused, NEXT_MS) == "stale"
    resumed = await store.schedules.resume(await found(store), NEXT_MS)
    assert isinstance(resumed, Schedule)
    assert (resumed.is_paused, resumed.next_ms) == (False, NEXT_MS)
    again = await store.schedules.resume(resumed, NEXT_MS + 1)
    assert isinstance(again, Schedule)
    assert again.next_ms == NEXT_MS, "it was not paused"
    await store.schedules.remove(NAME)
    assert await store.schedules.pause(schedule) == "unknown"


# What the sweep tells


async def test_the_sweep_tells_of_a_schedule_when_it_is_due_and_again_after_a_grace(
    store: Store, clock: Clock
) -> None:
    await put(store)
    assert await due(store) == []
    clock.ms = DUE_MS
    assert await due(store) == ["ann nightly"] or store.is_repeating
    assert await due(store) == [], "another one sees to it"
    clock.advance(START_GRACE_S)
    assert await due(store) == ["ann nightly"] or store.is_repeating


async def test_what_is_to_be_started_is_told_again_until_it_is(store: Store, clock: Clock) -> None:
    clock.ms = DUE_MS
    await store.schedules.begin(await put(store), starting(), NEXT_MS + 10_000_000)
    assert await due(store) == []
    clock.advance(START_GRACE_S)
    assert await due(store) == ["ann nightly"] or store.is_repeating
    await store.schedules.settle(NAME, "t1", DUE_MS, "waiting", why="full", again_s=300)
    clock.advance(299)
    assert await due(store) == []
    clock.advance(1)
    assert await due(store) == ["ann nightly"] or store.is_repeating
    await store.schedules.settle(NAME, "t1", DUE_MS, "started")
    clock.advance(1000)
    assert await due(store) == []


async def test_a_look_that_finds_nothing_to_do_is_put_off(store: Store, clock: Clock, redis_server: Server) -> None:
    await put(store)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*schedules_due"):
                client.zadd(key, {"ann nightly": 0})
    assert await due(store) == ["ann nightly"] or store.is_repeating
    await store.schedules.look_later(NAME)
    clock.advance(START_GRACE_S)
    assert await due(store) == []
    clock.ms = DUE_MS
    assert await due(store) == ["ann nightly"] or store.is_repeating


async def test_a_removed_schedule_leaves_nothing(store: Store, redis_server: Server, clock: Clock) -> None:
    await put(store)
    assert await store.schedules.remove(NAME) or store.is_repeating
    assert not await store.schedules.remove(NAME)
    left: list[bytes] = []
    for node in nodes(redis_server):
        with node.connect() as client:
            left += [key for key in client.scan_iter() if b"schedule" in key]
    assert left == []


async def test_a_blob_is_told_that_no_schedule_has(store: Store, clock: Clock) -> None:
    blob, unused = await store.schedules.expect_blob("ann"), await store.schedules.expect_blob("ann")
    assert partition(blob) == partition("ann")
    await put(store, definition=replace(WHOLE, body=Content("text/plain", 70_000, blob)))
    clock.advance(BLOB_GRACE_S)
    told = [name for name in await due(store) if " " not in name]
    assert told == [unused] or store.is_repeating
    await store.schedules.forget_blobs([unused])
    await put(store)
    told = [name for name in await due(store) if " " not in name]
    assert told == [blob] or store.is_repeating
    clock.advance(START_GRACE_S)
    assert blob in await due(store) or store.is_repeating
    await store.schedules.forget_blobs([blob])
    clock.advance(START_GRACE_S)
    assert [name for name in await due(store) if " " not in name] == []


async def test_all_of_an_owner_s_schedules_lie_in_one_partition(store: Store, redis_server: Server) -> None:
    for owner in ("", "ann", "bob"):
        await put(store, Name(owner, "a"))
    await store.schedules.expect_blob("bob")
    assert str(World(redis_server)) == ""


async def test_what_is_lost_of_when_a_schedule_is_due_is_mended(
    task_store: TaskStore, store: Store, clock: Clock, redis_server: Server
) -> None:
    await put(store)
    await put(store, Name("ann", "broken"))
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*schedules_due"):
                client.delete(key)
            for key in client.scan_iter("*schedule:ann broken"):
                client.set(key, b"\xc1")
    await task_store.mending.tend()
    assert [schedule.name for schedule in (await store.schedules.page("ann", 10)).schedules] == [NAME]
    assert await due(store) == ["ann nightly"] or store.is_repeating


# Waking


async def taken(store: Store) -> list[Name]:
    return [*(await store.schedules.due.take(partition("ann"))).names]


async def test_a_schedule_is_told_of_at_its_moment_and_once(store: Store, clock: Clock) -> None:
    blob = await store.schedules.expect_blob("ann")
    await put(store)
    assert await taken(store) == []
    clock.ms = DUE_MS
    assert await taken(store) == [NAME] or store.is_repeating
    assert await taken(store) == [], "another one sees to it"
    assert await due(store) == [], "the sweep tells of the same"
    clock.advance(START_GRACE_S)
    assert await taken(store) == [NAME] or store.is_repeating
    clock.advance(BLOB_GRACE_S)
    assert blob in (await store.schedules.due.take(partition("ann"))).blobs or store.is_repeating


Woken = list[tuple[int, float]]


@pytest.fixture
def woken(task_store: TaskStore) -> Woken:
    """When the store has asked to be woken, for which partition."""
    woken: Woken = []
    task_store.schedules.due.wake = lambda number, in_s: woken.append((number, in_s))
    return woken


async def swept(store: TaskStore) -> None:
    async for _ in store.sweep():
        pass


async def test_a_round_wakes_for_the_first_schedule_of_each_partition(
    task_store: TaskStore, woken: Woken, clock: Clock
) -> None:
    schedules = task_store.schedules
    await schedules.put(NAME, PLAIN, b"hi", START_MS + 20_000)
    await schedules.put(Name("ann", "later"), PLAIN, b"hi", START_MS + 30_000)
    await swept(task_store)
    assert woken == [], "a later round learns of it, too"
    clock.advance(15)
    await swept(task_store)
    assert woken == [(partition("ann"), 5)]
    woken.clear()
    clock.advance(5)
    assert (await schedules.due.take(partition("ann"))).names == [NAME]
    assert woken == [(partition("ann"), 10)], "it goes on from there"


async def test_whoever_puts_a_schedule_follows_it_until_a_round_has_learned_of_it(
    task_store: TaskStore, woken: Woken, clock: Clock
) -> None:
    due = task_store.schedules.due
    await task_store.schedules.put(NAME, PLAIN, b"hi", START_MS + 1_000)
    due.expect(NAME, 1)
    assert woken == [(partition("ann"), 1)]
    woken.clear()
    await due.take(partition("ann"))
    assert woken == [(partition("ann"), 1)], "it was too early"
    clock.advance(1)
    woken.clear()
    due.seen_to([NAME, Name("ann", "other")])
    assert woken == [(partition("ann"), 0)]


async def test_more_than_are_told_of_at_once_are_told_of_at_once_again(
    task_store: TaskStore, woken: Woken, clock: Clock
) -> None:
    due = task_store.schedules.due
    for number in range(70):
        await task_store.schedules.put(Name("ann", str(number)), PLAIN, b"hi", DUE_MS)
    clock.ms = DUE_MS
    assert len((await due.take(partition("ann"))).names) == 64
    assert woken == [(partition("ann"), 0)]
    assert len((await due.take(partition("ann"))).names) == 6
    assert len(woken) == 1, "nothing is asked for while nothing is due"


async def test_while_redis_is_away_it_is_asked_each_second(redis_url: str, clock: Clock) -> None:
    async def fails(*_: object) -> None:
        raise StoreUnavailable("it is away")

    link = RedisLink(opener(redis_url))
    link.script = fails
    due, woken = DueSchedules(link, 5, clock), Woken()
    due.wake = lambda number, in_s: woken.append((number, in_s))
    assert await due.take(5) == ([], [])
    assert woken == [(5, 1.0)]
    due.look()
    assert woken[1:] == [(number, 0) for number in range(PARTITIONS)]
