"""Not after: a task that no backend has had by its time ends, and is never sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.store.redis.partitions import partition
from shared.store.store import TaskStore
from shared.store.task_steps import BACKOFF_CAP_S
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Created, Refusal, Refused
from shared.tasks.task import NewBatch, NewTask, PipelineStep, Reason, State, Task
from shared.tasks.timing import Moment, Timing
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, applied, claim, known, lasting, sweep_all
from tests.shared.store.world import START_MS, Server, World, text, world

EXPIRED = "Failed - it expired after 20 s in the queue."
SOON = replace(HELLO, timing=Timing(expiry=Moment("create", 20_000)))


async def expired(store: Store, clock: Clock, after_s: float) -> bool:
    """Whether the task has expired *after_s* from now, and not a millisecond before."""
    clock.advance(after_s - 0.001)
    assert await sweep_all(store) == []
    clock.advance(0.001)
    return [item.what for item in await sweep_all(store)] == ["failed"]


async def test_a_task_that_waits_for_too_long_ends(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    created = await store.create(SOON)
    assert created.task == await store.get("t1")
    assert created.task.expires_ms == START_MS + 20_000
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q0 l60 dispatch body=text/plain:5 expires20
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@20
        paths /v1/a
    """)
    assert await expired(store, clock, 20)
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a '{EXPIRED}' a1 f0 n1 v2 c0 m20 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +20 failed a1 reconciler '{EXPIRED}' expired
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@1020
        paths /v1/a
    """)
    task = await known(store)
    assert (task.history[-1].reason, task.history[-1].end) == (Reason.GIVE_UP, EndReason.EXPIRED)
    assert task.expires_ms is None


@pytest.mark.parametrize(
    ("new", "after_s"),
    [
        (SOON, 20),
        (replace(HELLO, timing=Timing(expiry=Moment("epoch", START_MS + 25_000))), 25),
        (replace(HELLO, expires_s=15), 15),
        (replace(SOON, expires_s=15), 20),
        (replace(HELLO, timing=Timing(expiry=Moment("epoch", START_MS + 25_000)), expires_s=15), 25),
        (replace(HELLO, timing=Timing(expiry=Moment("epoch", START_MS - 1))), 0),
        (replace(HELLO, timing=Timing(expiry=Moment("create", 1))), 0.001),
    ],
    ids=["in", "at", "as the backend says", "in, whatever it says", "at, whatever it says", "past", "a millisecond"],
)
async def test_the_submit_says_until_when_or_its_backend(
    open_store: StoreFactory, clock: Clock, new: NewTask, after_s: float
) -> None:
    store = open_store()
    created = await store.create(new)
    assert created.task == await store.get("t1")
    if after_s:
        assert created.task.expires_ms == START_MS + after_s * 1000
    clock.advance(after_s)
    assert [item.what for item in await sweep_all(store)] == ["failed"]


async def test_a_delayed_task_waits_from_its_start_as_long_as_its_backend_says(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    created = await store.create(replace(HELLO, timing=Timing(Moment("create", 100_000)), expires_s=15))
    assert created.task == await store.get("t1")
    assert created.task.expires_ms == START_MS + 115_000
    assert World(redis_server).due_s["t1"] == 100
    clock.advance(100)
    assert [item.what for item in await sweep_all(store)] == ["starts"]
    assert await expired(store, clock, 15)
    assert (await known(store)).status == "Failed - it expired after 15 s in the queue."


async def test_a_delayed_task_that_is_started_in_time_expires_in_time(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    at_ms = START_MS + 110_000
    created = await store.create(replace(HELLO, timing=Timing(Moment("create", 100_000), Moment("epoch", at_ms))))
    assert created.task == await store.get("t1")
    clock.advance(100)
    assert [task.id for task in (await store.starts.start_due(partition("t1"))).tasks] == ["t1"]
    assert World(redis_server).due_s["t1"] == 110
    clock.advance(10)
    assert [item.what for item in await sweep_all(store)] == ["failed"]


async def test_a_delayed_task_may_expire_before_it_starts(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    created = await store.create(
        replace(HELLO, timing=Timing(Moment("create", 100_000), Moment("epoch", START_MS + 50_000)))
    )
    assert created.task == await store.get("t1")
    clock.advance(50)
    assert isinstance(await store.claim("t1", 1), Refused)
    assert [item.what for item in await sweep_all(store)] == ["failed"]
    world(redis_server)  # which checks that nothing is left of it where delayed tasks are


async def test_a_task_that_nobody_dispatches_does_not_expire(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    created = await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False, expires_s=15))
    assert created.task == await store.get("t1")
    assert created.task.expires_ms is None
    clock.advance(16)
    assert await sweep_all(store) == []


async def test_the_check_of_a_waiting_task_does_not_put_its_end_off(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(replace(HELLO, timing=Timing(expiry=Moment("create", 100_000))))
    clock.advance(POLICY.republish_s)
    assert [item.what for item in await sweep_all(store)] == ["waits"]
    clock.ms = START_MS + 99_999
    assert [item.what for item in await sweep_all(store)] in ([], ["waits"])
    clock.advance(0.001)
    assert [item.what for item in await sweep_all(store)] == ["failed"]


async def test_an_expired_task_cannot_be_claimed(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(SOON)
    clock.advance(20)
    before = world(redis_server)
    refused = await store.claim("t1", 1)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.task) == (Refusal.EXPIRED, await store.get("t1"))
    assert world(redis_server) == before


async def test_a_task_can_be_claimed_until_it_expires(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(SOON)
    clock.advance(19.999)
    task = await claim(store)
    clock.advance(10)
    assert await sweep_all(store) == [], "while the backend is called it does not expire"
    assert (await known(store)).expires_ms == START_MS + 20_000
    await store.accepted(task)
    assert (await known(store)).expires_ms is None


async def test_whoever_finds_a_task_expired_ends_it(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(SOON)
    clock.advance(23)
    outcome = applied(await store.expire(await known(store)))
    assert outcome.is_transition
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a '{EXPIRED}' a1 f0 n1 v2 c0 m23 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +23 failed a1 dispatcher '{EXPIRED}' expired
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@1023
        paths /v1/a
    """)


async def test_a_task_that_goes_on_meanwhile_is_not_ended(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(SOON)
    task = await known(store)
    await store.next_step("t1", status="created", path="/v1/b")
    outcome = await store.expire(task)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STALE


TURNED_AWAY: dict[str, Callable[[Store, Task], Awaitable[object]]] = {
    "busy": lambda store, task: store.requeue(task, status="Awaiting service availability"),
    "away": lambda store, task: store.requeue(task, status="Awaiting service availability", away_ms=START_MS),
    "without its body": lambda store, task: store.requeue(task, status="Awaiting the request body", apart_s=5),
    "reported on while it waits": lambda store, task: store.requeue(task, status="Awaiting service availability"),
}


@pytest.mark.parametrize("why", TURNED_AWAY)
async def test_a_task_that_no_backend_had_expires_all_the_same(
    open_store: StoreFactory, clock: Clock, why: str
) -> None:
    store = open_store()
    await store.create(SOON)
    task = await claim(store)
    clock.advance(1)
    await TURNED_AWAY[why](store, task)
    if why.startswith("reported"):
        await store.update("t1", state=None, status="a word", attempt=2)
    if why.startswith("without"):
        clock.advance(5)
        assert [item.what for item in await sweep_all(store)] == ["waits"]
        clock.advance(-5)
    assert await expired(store, clock, 19)
    task = await known(store)
    assert (task.failures, task.status) == (0, EXPIRED)


TAKEN: dict[str, Callable[[Store, Task], Awaitable[object]]] = {
    "accepted": lambda store, task: store.accepted(task),
    "reported on": lambda store, task: store.update("t1", state=State.RUNNING, status="running"),
    "heard of": lambda store, task: store.heartbeat("t1", attempt=1),
    "failed": lambda store, task: store.requeue(task, status="Retrying", failed=True),
    "given back": lambda store, task: store.release("t1", attempt=1, status=None),
    "sent on": lambda store, task: store.next_step("t1", status="created", path="/v1/b", bounds=lasting(60)),
    "answered, and the result not stored": lambda store, task: store.requeue(
        task, status="Awaiting room", apart_s=5, taken=True
    ),
}


@pytest.mark.parametrize("how", TAKEN)
async def test_a_task_that_a_backend_had_expires_no_more(open_store: StoreFactory, clock: Clock, how: str) -> None:
    store = open_store(replace(POLICY, max_attempts=20))
    await store.create(SOON)
    await TAKEN[how](store, await claim(store))
    assert (await known(store)).expires_ms is None
    for _ in range(5):
        clock.advance(BACKOFF_CAP_S)
        assert "failed" not in [item.what for item in await sweep_all(store)]


async def test_an_attempt_that_was_lost_was_dispatched(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(SOON)
    await claim(store)
    clock.advance(POLICY.dispatch_window_s)
    assert [item.what for item in await sweep_all(store)] in (["retry"], [])  # a repeated sweep finds nothing
    task = await known(store)
    assert (task.state, task.expires_ms) == (State.CREATED, None)


async def test_a_replayed_task_does_not_expire(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(SOON)
    clock.advance(20)
    await sweep_all(store)
    task = applied(await store.replay("t1")).task
    assert (task.state, task.expires_ms) == (State.CREATED, None)
    clock.advance(5)
    assert isinstance(await store.claim("t1", None), Claimed)


async def test_each_step_of_a_pipeline_waits_as_its_own_backend_says(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    steps = (
        PipelineStep("/v1/a", "", 60, None, 15),
        PipelineStep("/v1/b", "", 60),
        PipelineStep("/v1/c", "", 60, None, 9),
    )
    await store.create(replace(HELLO, steps=steps, expires_s=15))
    clock.advance(14)
    await claim(store)
    await store.update("t1", state=State.COMPLETED, status="done", attempt=1)
    assert (await known(store)).expires_ms is None
    clock.advance(100)
    await claim(store)
    await store.update("t1", state=State.COMPLETED, status="done", attempt=2)
    task = await known(store)
    assert (task.path, task.expires_ms) == ("/v1/c", clock() + 9_000)
    assert World(redis_server).due_s["t1"] == 123
    clock.advance(9)
    await sweep_all(store)
    task = await known(store)
    assert task.status == "Failed - it expired after 9 s in the queue."


async def test_a_task_that_is_sent_on_waits_as_the_next_backend_says(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.create(SOON)
    await claim(store)
    clock.advance(50)
    await store.next_step("t1", status="created", path="/v1/b", bounds=lasting(60, expires_s=7))
    assert await expired(store, clock, 7)


async def test_the_batch_of_an_expired_child_hears_of_it(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await store.batches.create(NewBatch("b1"))
    await store.batches.register("b1", "t1", "")
    await store.create(replace(SOON, batch="b1"))
    clock.advance(20)
    await sweep_all(store)
    clock.advance(11)
    assert "b1 t1 1 failed" in [item.id for item in await sweep_all(store)]


async def test_other_records_have_no_byte_more(open_store: StoreFactory, redis_server: Server) -> None:
    store = open_store()
    await store.create(HELLO)
    assert World(redis_server).records["t1"].keys().isdisjoint("VI")


async def created(store: TaskStore, new: NewTask) -> Created:
    outcome = await store.create(new)
    assert isinstance(outcome, Created)
    return outcome


@pytest.mark.parametrize("count", [1, 3])
async def test_a_slot_that_an_expired_task_was_granted_goes_to_the_next_one(
    task_store: TaskStore, clock: Clock, count: int
) -> None:
    await task_store.queues.configure("/v1/a", {"limit": 1})
    first = await created(task_store, HELLO)
    granted = [*first.granted]
    for number in range(count):
        await created(task_store, replace(SOON, id=f"soon{number}"))
    last = await created(task_store, replace(HELLO, id="last"))
    assert not [grant for each in last.granted for grant in each.grants]
    clock.advance(20)
    claimed = await task_store.claim_granted(granted[0], granted[0].grants[0])
    assert isinstance(claimed, Claimed)
    await task_store.accept(claimed.task)
    outcome = await task_store.update("t1", state=State.COMPLETED, status="done", attempt=1)
    served: list[str] = []
    ended: list[str] = []
    while True:
        [(queue, grant)] = [(each, grant) for each in outcome.granted for grant in each.grants]
        now = await task_store.claim_granted(queue, grant)
        if isinstance(now, Claimed):
            served.append(now.task.id)
            break
        assert now.reason is Refusal.EXPIRED
        assert now.task is not None
        outcome = await task_store.expire(now.task)
        assert isinstance(outcome, Applied)
        ended.append(outcome.task.id)
    assert (ended, served) == ([f"soon{number}" for number in range(count)], ["last"])
    totals = (await task_store.series.totals(["/v1/a"]))["/v1/a"]
    assert (totals.counts["completed"], totals.counts["failed"]) == (1, 0)


async def test_an_expired_task_leaves_no_entry_and_counts_as_no_failure_of_its_backend(
    task_store: TaskStore, clock: Clock
) -> None:
    await task_store.queues.configure("/v1/a", {"paused": True})
    for number in range(3):
        await created(task_store, replace(SOON, id=f"soon{number}"))
    assert (await task_store.series.totals(["/v1/a"]))["/v1/a"].waiting == 3
    clock.advance(20)
    ended = [applied.task.id async for swept in task_store.sweep() for applied in swept.applied]
    assert sorted(ended) == ["soon0", "soon1", "soon2"]
    totals = (await task_store.series.totals(["/v1/a"]))["/v1/a"]
    assert (totals.waiting, totals.counts["created"], totals.counts["failed"]) == (0, 3, 0)
