"""The sweep of overdue tasks and the check of slots that are held for long, with all keys before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.store.redis.partitions import partition
from shared.store.task_steps import BACKOFF_CAP_S
from shared.store.upkeep_steps import SWEEP_LIMIT, WAIT_CAP_S, CheckedSlot, Overdue
from shared.tasks.outcomes import Applied, Origin, Refusal, Refused
from shared.tasks.task import Content, NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.policies import store_policy
from tests.shared.store.steps import HELLO, sweep_all
from tests.shared.store.world import Server, World, nodes, text, world

UNSENT = "Failed - unable to send to backend service."
SILENCE = "the backend was not heard of for too long"
GIVEN_UP = f"Failed - {SILENCE} (attempt 3 of 3)."

Given = Callable[[Store, Clock], Awaitable[None]]


@pytest.fixture
def store(open_store: StoreFactory) -> Store:
    """A store that sends each step once: a sweep whose answer is lost finds its tasks only at their next deadline."""
    return open_store()


def a_millisecond_before(clock: Clock) -> None:
    clock.ms -= 1


async def test_a_task_that_waits_past_its_deadline_is_to_be_enqueued(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.wait_overdue(store, clock)
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@30
        paths /v1/a
    """)
    overdue = await sweep_all(store)
    assert overdue == [Overdue("waits", "t1", await store.get("t1"))]
    assert overdue[0].applied is None
    # The next check is due after 30 s, less up to half of it by jitter; the sweep publishes nothing.
    assert world(redis_server, {"t1": (45, 60)}) == text("""
        t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q0 l60 dispatch body=text/plain:5 z1
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@45..60
        paths /v1/a
    """)


async def test_a_waiting_task_is_never_given_up(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    for _ in range(10 * POLICY.max_attempts):
        clock.advance(WAIT_CAP_S)
        assert [item.what for item in await sweep_all(store)] == ["waits"]


async def test_an_unclaimed_task_that_holds_a_slot_is_published_again(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    clock.advance(29)
    checked = await store.check_slots("/v1/a", [("t1", 1)])
    assert checked == [CheckedSlot("publish", "t1", 1, await store.get("t1"), checked[0].check_again_s)]
    # The next check is due after 60 s, less up to half of that by jitter.
    assert checked[0].check_again_s is not None
    assert 30 <= checked[0].check_again_s <= 60
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a1 f0 n2 v1 c0 m0 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@30
        paths /v1/a
    """)


@pytest.mark.parametrize(
    ("given", "path", "attempt"),
    [
        (steps.nothing, "/v1/a", 1),
        (steps.created, "/v1/b", 1),
        (steps.created, "/v1/a", 2),
        (steps.requeued, "/v1/a", 1),
        (steps.completed, "/v1/a", 1),
    ],
    ids=["unknown", "on another path", "at an earlier attempt", "at a later attempt", "finished"],
)
async def test_the_check_finds_slots_of_entries_that_have_ended(
    store: Store, clock: Clock, redis_server: Server, given: Given, path: str, attempt: int
) -> None:
    await given(store, clock)
    before = world(redis_server)
    assert await store.check_slots(path, [("t1", attempt)]) == [CheckedSlot("gone", "t1", attempt, None, None)]
    assert world(redis_server) == before


@pytest.mark.parametrize("given", [steps.dispatched, steps.running], ids=["dispatched", "running"])
async def test_the_check_reports_nothing_about_a_task_that_its_backend_holds(
    store: Store, clock: Clock, redis_server: Server, given: Given
) -> None:
    await given(store, clock)
    before = world(redis_server)
    assert await store.check_slots("/v1/a", [("t1", 1)]) == []
    assert world(redis_server) == before


async def test_many_slots_are_checked_at_once_over_all_partitions(store: Store) -> None:
    ids = [f"t{number}" for number in range(100)]
    for task_id in ids[:50]:
        await store.create(NewTask(task_id, "/v1/a", 60))
    checked = await store.check_slots("/v1/a", [(task_id, 1) for task_id in ids])
    assert {item.id: item.what for item in checked} == dict.fromkeys(ids[:50], "publish") | dict.fromkeys(
        ids[50:], "gone"
    )
    assert len(checked) == 100


async def test_a_task_whose_pause_is_over_is_to_be_enqueued(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.dispatched(store, clock)
    task = await store.get("t1")
    assert task
    await store.requeue(task, status="Awaiting service availability", apart_s=5)
    clock.advance(5)
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'Awaiting service availability' a2 f0 n0 v3 c0 m2 q0 l60 dispatch body=text/plain:5 z0
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 created a2 dispatcher 'Awaiting service availability'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@7
        paths /v1/a
    """)
    overdue = await sweep_all(store)
    assert overdue == [Overdue("waits", "t1", await store.get("t1"))]
    assert world(redis_server, {"t1": (22, 37)}) == text("""
        t:t1 created /v1/a 'Awaiting service availability' a2 f0 n0 v3 c0 m2 q0 l60 dispatch body=text/plain:5 z1
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 created a2 dispatcher 'Awaiting service availability'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@22..37
        paths /v1/a
    """)


async def test_a_task_fails_after_it_was_published_in_vain_up_to_the_limit(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(HELLO)
    for _ in range(POLICY.max_attempts - 1):
        clock.advance(BACKOFF_CAP_S)
        assert [item.what for item in await store.check_slots("/v1/a", [("t1", 1)])] == ["publish"]
    clock.advance(BACKOFF_CAP_S)
    checked = await store.check_slots("/v1/a", [("t1", 1)])
    assert checked == [CheckedSlot("failed", "t1", 1, await store.get("t1"), None)]
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a '{UNSENT}' a1 f0 n3 v2 c0 m1800 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1800 failed a1 reconciler '{UNSENT}' publishes
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@2800
        paths /v1/a
    """)


async def test_a_claimed_task_without_a_report_gets_a_new_attempt_and_keeps_its_position(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    clock.advance(39)
    assert world(redis_server) == text("""
        t:t1 dispatched /v1/a 'created' a1 f0 n1 v2 c0 m1 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
        b:t1 hello
        z:/v1/a:dispatched t1@0
        due t1@41
        paths /v1/a
    """)
    overdue = await sweep_all(store)
    assert overdue == [Overdue("retry", "t1", await store.get("t1"))]
    assert overdue[0].task
    assert overdue[0].applied == Applied(overdue[0].task, Origin("/v1/a", 1))
    assert world(redis_server, {"t1": (56, 71)}) == text(f"""
        t:t1 created /v1/a 'Retrying - {SILENCE}' a2 f1 n0 v3 c0 m41 q0 l60 dispatch body=text/plain:5 z1
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +41 created a2 reconciler 'Retrying - {SILENCE}'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@56..71
        paths /v1/a
    """)


async def test_a_running_task_whose_lease_is_over_gets_a_new_attempt_without_the_old_result(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.with_result(store, clock)
    clock.advance(59)
    assert world(redis_server) == text("""
        t:t1 running /v1/a 'running model' a1 f0 n1 v4 c0 m3 q0 l60 dispatch body=text/plain:5 result=image/png:3
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
        b:t1 hello
        r:t1 png
        z:/v1/a:running t1@0
        due t1@63
        paths /v1/a
    """)
    assert await sweep_all(store) == [Overdue("retry", "t1", await store.get("t1"))]
    assert world(redis_server, {"t1": (78, 93)}) == text(f"""
        t:t1 created /v1/a 'Retrying - {SILENCE}' a2 f1 n0 v5 c0 m63 q0 l60 dispatch body=text/plain:5 z1 L1
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +63 created a2 reconciler 'Retrying - {SILENCE}'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@78..93
        paths /v1/a
    """)


async def test_a_dispatcher_that_died_costs_an_attempt_and_its_late_outcome_is_refused(
    store: Store, clock: Clock
) -> None:
    await store.create(HELLO)
    lost = await steps.claim(store)
    clock.advance(40)
    assert [item.what for item in await sweep_all(store)] == ["retry"]
    claimed = await steps.claim(store)
    assert (claimed.attempt, claimed.failures) == (2, 1)
    late = await store.requeue(lost, status="Retrying", apart_s=1, failed=True)
    assert isinstance(late, Refused)
    assert late.reason is Refusal.STALE


async def test_a_task_fails_after_its_last_lease_and_its_status_names_the_attempts(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(HELLO)
    for attempt in (1, 2, 3):
        assert (await steps.claim(store)).attempt == attempt
        clock.advance(40)
        overdue = await sweep_all(store)
    assert overdue == [Overdue("failed", "t1", await store.get("t1"))]
    assert overdue[0].task
    assert overdue[0].applied == Applied(overdue[0].task, Origin("/v1/a", 3))
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a '{GIVEN_UP}' a3 f3 n0 v7 c0 m120 q0 l60 dispatch body=text/plain:5 z1
          +0 created a1 client 'created'
          +0 dispatched a1 dispatcher ''
          +40 created a2 reconciler 'Retrying - {SILENCE}'
          +40 dispatched a2 dispatcher ''
          +80 created a3 reconciler 'Retrying - {SILENCE}'
          +80 dispatched a3 dispatcher ''
          +120 failed a3 reconciler '{GIVEN_UP}' lease
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@1120
        paths /v1/a
    """)


@pytest.mark.parametrize("state", [State.CREATED, State.DISPATCHED, State.RUNNING])
async def test_a_silent_task_without_dispatch_fails_and_is_never_published(
    store: Store, clock: Clock, redis_server: Server, state: State
) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, state=state, dispatch_requested=False))
    clock.advance(1000)
    overdue = await sweep_all(store)
    assert overdue == [Overdue("failed", "t1", await store.get("t1"))]
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a 'Failed - {SILENCE}.' a1 f1 n0 v2 c0 m1000 q0 l60 no-dispatch
          +0 {state} a1 client 'created'
          +1000 failed a1 reconciler 'Failed - {SILENCE}.' lease
        z:/v1/a:failed t1@0
        due t1@2000
        paths /v1/a
    """)


@pytest.mark.parametrize(
    ("given", "wait_s"),
    [
        (steps.created, 30 - 1),
        (steps.dispatched, 40 - 1),
        (steps.running, 60 - 1),
        (steps.with_result, 60 - 1),
        (steps.completed, 1000 - 1),
    ],
    ids=["created", "dispatched", "running", "after a result", "completed"],
)
async def test_the_sweep_does_nothing_to_a_task_before_its_deadline(
    store: Store, clock: Clock, redis_server: Server, given: Given, wait_s: float
) -> None:
    await given(store, clock)
    before = world(redis_server)
    clock.advance(wait_s)
    a_millisecond_before(clock)
    assert await sweep_all(store) == []
    assert world(redis_server) == before
    clock.advance(0.001)
    assert len(await sweep_all(store)) == 1


def assert_doubled(delays_s: list[float], base_s: float, nth: int, cap_s: float) -> float:
    """Each delay is that of the *nth* pause, less up to half of it by jitter. Returns the full pause."""
    full_s = min(cap_s, base_s * 2 ** (nth - 1))
    assert all(full_s / 2 <= delay_s <= full_s for delay_s in delays_s)
    assert len(set(delays_s)) > len(delays_s) / 2
    assert max(delays_s) - min(delays_s) > full_s / 5
    return full_s


async def test_waiting_tasks_are_checked_ever_more_rarely_down_to_once_an_hour(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store(store_policy(republish_s=1))
    ids = [f"t{number}" for number in range(40)]
    await asyncio.gather(*(store.create(NewTask(task_id, "/v1/a", 60)) for task_id in ids))
    clock.advance(1)
    for check in range(1, 40):
        assert len(await sweep_all(store)) == len(ids)
        now_s = (clock.ms - Clock().ms) / 1000
        delays_s = [due_s - now_s for due_s in World(redis_server).due_s.values()]
        clock.advance(assert_doubled(delays_s, 1, check, WAIT_CAP_S))


async def test_pauses_between_publishes_double_up_to_ten_minutes_with_jitter(
    open_store: StoreFactory,
) -> None:
    store = open_store(store_policy(republish_s=1, max_attempts=1000))
    ids = [f"t{number}" for number in range(40)]
    await asyncio.gather(*(store.create(NewTask(task_id, "/v1/a", 60)) for task_id in ids))
    for publishes in range(2, 40):
        checked = await store.check_slots("/v1/a", [(task_id, 1) for task_id in ids])
        delays_s = [item.check_again_s for item in checked if item.check_again_s is not None]
        assert len(delays_s) == len(ids)
        assert_doubled(delays_s, 1, publishes, BACKOFF_CAP_S)


async def test_a_sweep_takes_a_limited_number_of_tasks_and_the_most_overdue_first(store: Store, clock: Clock) -> None:
    ids = [task_id for number in range(40 * SWEEP_LIMIT) if partition(task_id := f"t{number}") == 5]
    ids = ids[: SWEEP_LIMIT + 10]
    for task_id in ids:
        clock.advance(0.001)
        await store.create(NewTask(task_id, "/v1/a", 60))
    clock.advance(30)
    assert [item.id for item in await store.sweep(5, {})] == ids[:SWEEP_LIMIT]
    assert [item.id for item in await store.sweep(5, {})] == ids[SWEEP_LIMIT:]
    assert await store.sweep(5, {}) == []


async def test_after_a_lost_sweep_answer_the_task_is_found_at_its_next_deadline(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    await steps.wait_overdue(open_store(), clock)
    assert await sweep_all(open_store(repeating=True)) == []
    assert World(redis_server).records["t1"]["z"] == 1
    clock.advance(30)
    assert [(item.what, item.id) for item in await sweep_all(open_store())] == [("waits", "t1")]


async def test_nothing_is_left_of_a_task_after_its_retention(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    for path in ("/v1/b", "/v1/c", "/v1/a", "/v1/d"):
        await store.put_result("t1", steps.RESULT, b"png")
        await store.next_step("t1", status="created", path=path)
    await store.put_result("t1", steps.RESULT, b"png")
    await store.update("t1", state=State.COMPLETED, status="completed", attempt=5)
    assert set(World(redis_server).contents) == {"b:t1", "r:t1"}
    clock.advance(1000)
    assert await sweep_all(store) == [Overdue("purged", "t1", None)]
    assert world(redis_server) == ""


async def test_a_task_with_blobs_is_kept_until_they_are_deleted(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, body=Content("image/tiff", 70_000, "t1/body")))
    # The blob remains when an inline body replaces it.
    await store.next_step("t1", status="created", path="/v1/b", body=Content("text/plain", 3), inline_body=b"bye")
    await store.update("t1", state=State.FAILED, status="failed", attempt=2)
    clock.advance(1000)
    before = world(redis_server)
    kept = await store.get("t1")
    assert await sweep_all(store) == [Overdue("blobs", "t1", kept)]
    assert world(redis_server) == before.replace("due t1@1000", "due t1@1120")
    # The blobs were not deleted: the sweep finds them again.
    assert await sweep_all(store) == []
    clock.advance(120)
    assert await sweep_all(store) == [Overdue("blobs", "t1", kept)]
    assert await store.purge(["t1"]) == 1
    assert world(redis_server) == ""
    assert await store.purge(["t1"]) == 0


async def test_purging_one_task_keeps_the_other_tasks_of_its_path(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    first, second = [task_id for number in range(99) if partition(task_id := f"t{number}") == 3][:2]
    await store.create(NewTask(first, "/v1/a", 60, dispatch_requested=False, state=State.COMPLETED))
    clock.advance(1)
    await store.create(NewTask(second, "/v1/a", 60, dispatch_requested=False, state=State.COMPLETED))
    clock.advance(999)
    assert await sweep_all(store) == [Overdue("purged", first, None)]
    assert world(redis_server) == text(f"""
        t:{second} completed /v1/a 'created' a1 f0 n0 v1 c1 m1 q1 l60 no-dispatch
          +0 completed a1 client 'created'
        z:/v1/a:completed {second}@1
        due {second}@1001
        paths /v1/a
    """)


async def test_only_finished_tasks_are_purged(store: Store, clock: Clock, redis_server: Server) -> None:
    for task_id in ("t1", "t2", "t3"):
        await store.create(NewTask(task_id, "/v1/a", 60, body=Content("text/plain", 2), inline_body=b"hi"))
    await store.update("t2", state=State.CANCELLED, status="cancelled")
    assert await store.purge(["t1", "t2", "unknown"]) == 1
    assert World(redis_server).records.keys() == {"t1", "t3"}
    assert await store.purge([]) == 0


async def test_a_deadline_without_a_record_is_dropped(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.created(store, clock)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*t:t1"):
                client.delete(key)
    assert World(redis_server).due_s == {"t1": 30}
    clock.advance(30)
    assert await sweep_all(store) == []
    assert World(redis_server).due_s == {}


# Tasks that their queue refuses


async def test_a_withdrawn_task_leaves_nothing_behind(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.created(store, clock)
    await store.withdraw("t1")
    assert world(redis_server) == ""
    await store.withdraw("t1")
    assert world(redis_server) == ""


@pytest.mark.parametrize(
    "given",
    [steps.dispatched, steps.requeued, steps.running, steps.completed, steps.failed],
    ids=lambda given: given.__name__,
)
async def test_a_task_that_has_changed_since_its_creation_cannot_be_withdrawn(
    store: Store, clock: Clock, redis_server: Server, given: Given
) -> None:
    await given(store, clock)
    before = world(redis_server)
    await store.withdraw("t1")
    assert world(redis_server) == before
