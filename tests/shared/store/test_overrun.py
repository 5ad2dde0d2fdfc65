"""Not longer: an attempt that runs for longer than it may is fenced off, however often it is heard of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.store.outages import Outage
from shared.store.redis.partitions import PARTITIONS
from shared.store.store import TaskStore
from shared.tasks.end_reason import EndReason
from shared.tasks.ending import ending_of
from shared.tasks.outcomes import Created, Refusal, Refused
from shared.tasks.task import Content, NewTask, PipelineStep, Reason, State, Task
from shared.tasks.timing import Timing
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import CHECKPOINT, HELLO, RESULT, applied, claim, known, lasting, sweep_all
from tests.shared.store.world import START_MS, Server, World, text, world

BRIEF = replace(HELLO, max_run_s=100)
"""A task whose lease is 60 s, and whose attempts may run for 100 s."""
RETRYING = "Retrying - it ran for longer than 100 s"
GIVEN_UP = "Failed - it ran for longer than 100 s (attempt 3 of 3)."


def due_s(server: Server) -> float:
    return World(server).due_s["t1"]


async def begin(store: Store, clock: Clock, new: NewTask = BRIEF) -> Task:
    """A task that its backend has accepted, 1 s after it was dispatched."""
    await store.create(new)
    task = await claim(store)
    clock.advance(1)
    await store.accepted(task)
    return task


HEARD_OF: dict[str, Callable[[Store], Awaitable[object]]] = {
    "heartbeat": lambda store: store.heartbeat("t1", attempt=1),
    "heartbeat without its attempt": lambda store: store.heartbeat("t1"),
    "report": lambda store: store.update("t1", state=State.RUNNING, status="on it", attempt=1),
    "legacy report": lambda store: store.update("t1", state=State.RUNNING, status="on it"),
    "progress": lambda store: store.heartbeat("t1", attempt=1, progress=0.5),
    "result": lambda store: store.put_result("t1", RESULT, b"png", attempt=1),
    "checkpoint": lambda store: store.put_checkpoint("t1", CHECKPOINT, b"weights", attempt=1),
}


@pytest.mark.parametrize("how", HEARD_OF)
async def test_nothing_that_is_heard_of_an_attempt_extends_its_run(
    store: Store, clock: Clock, redis_server: Server, how: str
) -> None:
    await begin(store, clock)
    assert due_s(redis_server) == 61
    for at_s, due_at_s in ((30, 90), (60, 100), (99, 100)):
        clock.ms = START_MS + at_s * 1000
        await HEARD_OF[how](store)
        assert due_s(redis_server) == due_at_s
    clock.ms = START_MS + 99_999
    assert await sweep_all(store) == []
    clock.advance(0.001)
    overdue = await sweep_all(store)
    assert [item.what for item in overdue] == ([] if store.is_repeating else ["retry"])
    task = await known(store)
    assert (task.state, task.attempt, task.failures, task.status) == (State.CREATED, 2, 1, RETRYING)
    refused = await store.heartbeat("t1", attempt=1)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.STALE


async def test_the_last_attempt_that_runs_for_too_long_ends_the_task(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(BRIEF)
    for attempt in (1, 2, 3):
        await store.accepted(await claim(store))
        for _ in range(2):
            clock.advance(50)
            assert not isinstance(await store.heartbeat("t1", attempt=attempt), Refused)
        await sweep_all(store)
        late = await store.heartbeat("t1", attempt=attempt)
        assert isinstance(late, Refused)
        assert late.reason in (Refusal.STALE, Refusal.FINISHED)
    assert world(redis_server) == text(f"""
        t:t1 failed /v1/a '{GIVEN_UP}' a3 f3 n0 v16 c0 m300 q0 l60 dispatch body=text/plain:5 z1 accepted runs:100
          +0 created a1 client 'created'
          +0 dispatched a1 dispatcher ''
          +100 created a2 reconciler '{RETRYING}' overrun
          +100 dispatched a2 dispatcher ''
          +200 created a3 reconciler '{RETRYING}' overrun
          +200 dispatched a3 dispatcher ''
          +300 failed a3 reconciler '{GIVEN_UP}' timeout
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@1300
        paths /v1/a
    """)
    task = await known(store)
    assert [event.reason for event in task.history if event.attempt > 1][:1] == [Reason.OVERRUN]
    assert (task.history[-1].reason, task.history[-1].end) == (Reason.GIVE_UP, EndReason.TIMEOUT)
    assert (ending_of(task).reason, ending_of(task).run_ms) == (EndReason.TIMEOUT, 100_000)


@pytest.mark.parametrize(
    ("asked_ms", "backend_s", "most_ms"),
    [
        (30_000, None, 30_000),
        (30_000, 100, 30_000),
        (300_000, 100, 100_000),
        (None, 100, 100_000),
        (None, None, None),
    ],
)
async def test_the_smaller_one_holds(
    open_store: StoreFactory,
    redis_server: Server,
    asked_ms: int | None,
    backend_s: float | None,
    most_ms: int | None,
) -> None:
    store = open_store()
    created = await store.create(
        replace(HELLO, timing=Timing(max_run_ms=asked_ms), max_run_s=backend_s, lease_s=10_000)
    )
    assert created.task == await store.get("t1")
    assert created.task.max_run_ms == most_ms
    await store.accepted(await claim(store))
    assert due_s(redis_server) == (10_000 if most_ms is None else most_ms / 1000)


async def test_an_attempt_is_over_while_its_backend_is_called(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(replace(HELLO, timing=Timing(max_run_ms=15_000)))
    task = await claim(store)
    assert due_s(redis_server) == 15
    clock.advance(15)
    await sweep_all(store)
    assert (await known(store)).status == "Retrying - it ran for longer than 15 s"
    outcome = await store.complete(task, RESULT, b"png", status="done")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STALE


async def test_each_attempt_has_its_own_time(open_store: StoreFactory, clock: Clock, redis_server: Server) -> None:
    store = open_store()
    task = await begin(store, clock)
    await store.requeue(task, status="Awaiting service availability")
    clock.advance(500)
    task = await claim(store)
    clock.advance(1)
    await store.accepted(task)
    clock.advance(59)
    await store.heartbeat("t1", attempt=2)
    assert due_s(redis_server) == 601


async def test_a_task_does_not_run_while_it_waits(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await begin(store, clock)
    await store.release("t1", attempt=1, status=None)
    for _ in range(4):
        clock.advance(1000)
        assert [item.what for item in await sweep_all(store)] == ["waits"]


async def test_a_silent_attempt_is_silent_and_no_overrun(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await begin(store, clock)
    clock.advance(60)
    await sweep_all(store)
    task = await known(store)
    assert (task.failures, task.history[-1].reason) == (1, Reason.SILENCE)


async def test_a_longer_lease_of_a_silent_service_is_no_longer_run(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await begin(store, clock)
    clock.advance(60)
    await sweep_all(store)  # silent: the next lease is twice as long
    task = await claim(store)
    assert task.lease_ms == 120_000
    await store.accepted(task)
    assert due_s(redis_server) == 61 + 100
    clock.advance(100)
    await sweep_all(store)
    again = await known(store)
    assert (again.status, again.failures, again.lease_ms) == (RETRYING, 2, 120_000)


async def test_no_outage_excuses_it(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await begin(store, clock, replace(BRIEF, lease_s=1000))
    clock.advance(99)
    outages = {"/v1/a": Outage(clock(), None, "is away")}
    [overdue] = [item for number in range(PARTITIONS) for item in await store.sweep(number, outages)]
    assert (overdue.what, (await known(store)).failures) == ("retry", 1)


@pytest.mark.parametrize("told", [State.COMPLETED, State.FAILED])
async def test_an_end_that_was_told_takes_effect_with_the_end_of_the_run(
    open_store: StoreFactory, clock: Clock, redis_server: Server, told: State
) -> None:
    store = open_store()
    await begin(store, clock)
    clock.ms = START_MS + 50_000
    await store.heartbeat("t1")
    clock.ms = START_MS + 90_000
    await store.update("t1", state=State.RUNNING, status=f"{told} - it says", told=told)
    assert due_s(redis_server) == 100
    clock.ms = START_MS + 100_000
    assert [item.what for item in await sweep_all(store)] == ["ended"]
    assert (await known(store)).state is told


async def test_an_end_that_is_told_again_and_again_does_not_extend_the_run(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await begin(store, clock)
    for at_s in range(20, 100, 20):
        clock.ms = START_MS + at_s * 1000
        await store.update("t1", state=State.RUNNING, status="completed - almost", told=State.COMPLETED)
        await store.update("t1", state=State.RUNNING, status="not yet")
    assert due_s(redis_server) == 100


async def test_a_checkpoint_outlasts_an_attempt_that_ran_for_too_long(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await begin(store, clock)
    clock.advance(50)
    await store.put_checkpoint("t1", CHECKPOINT, b"weights", attempt=1)
    await store.put_result("t1", RESULT, b"png", attempt=1)
    clock.advance(49)
    await sweep_all(store)
    task = await known(store)
    assert (task.attempt, task.checkpoint, task.result) == (2, CHECKPOINT, None)
    assert await store.inline_checkpoint("t1") == b"weights"


async def test_each_step_of_a_pipeline_runs_as_its_own_backend_says(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    steps = (
        PipelineStep("/v1/a", "", 600, 100),
        PipelineStep("/v1/b", "", 600),
        PipelineStep("/v1/c", "", 600, 20, 900),
        PipelineStep("/v1/d", "", 600, 500),
    )
    await store.create(replace(HELLO, steps=steps, lease_s=600, max_run_s=100, timing=Timing(max_run_ms=300_000)))
    for attempt, most_s in enumerate((100, 300, 20, 300), 1):
        assert (await known(store)).max_run_ms == most_s * 1000
        await store.accepted(await claim(store))
        assert due_s(redis_server) == (clock() - START_MS) / 1000 + most_s
        clock.advance(7)
        if attempt < len(steps):
            await store.update("t1", state=State.COMPLETED, status="done", attempt=attempt)


async def test_a_backend_without_a_bound_ends_that_of_the_one_before(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await begin(store, clock)
    await store.next_step("t1", status="created", path="/v1/b", bounds=lasting(60), attempt=1)
    assert (await known(store)).max_run_ms is None
    assert "I" not in World(redis_server).records["t1"]
    await store.next_step("t1", status="created", path="/v1/c", bounds=lasting(60, 7), attempt=2)
    assert (await known(store)).max_run_ms == 7_000
    await store.next_step("t1", status="created", attempt=3)  # at the same endpoint
    assert (await known(store)).max_run_ms == 7_000


async def test_a_replayed_task_may_run_as_long_as_before(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store(replace(POLICY, max_attempts=1))
    await begin(store, clock)
    clock.advance(100)
    await sweep_all(store)
    await store.replay("t1")
    assert (await known(store)).max_run_ms == 100_000


async def test_a_task_that_nobody_dispatches_runs_as_long_as_it_likes(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False, max_run_s=100))
    await store.update("t1", state=State.RUNNING, status="running")
    assert due_s(redis_server) == POLICY.retention_s


async def test_a_run_that_no_dispatcher_began_begins_with_the_report(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await store.create(replace(BRIEF, lease_s=600))
    clock.advance(20)
    await store.update("t1", state=State.RUNNING, status="running")
    assert due_s(redis_server) == 120


async def test_an_attempt_that_ran_for_too_long_is_a_retry_in_the_series(task_store: TaskStore, clock: Clock) -> None:
    created = await task_store.create(replace(BRIEF, body=Content("text/plain", 5), inline_body=b"hello"))
    assert isinstance(created, Created)
    claimed = await task_store.claim_held(created.granted[0].grants[0])
    assert not isinstance(claimed, Refused)
    await task_store.accept(claimed.task)
    clock.advance(50)
    applied(await task_store.heartbeat("t1", attempt=1))
    clock.advance(50)
    [retried] = [each async for swept in task_store.sweep() for each in swept.applied]
    assert retried.task.history[-1].reason is Reason.OVERRUN
    totals = (await task_store.series.totals(["/v1/a"]))["/v1/a"]
    assert (totals.counts["retried"], totals.counts["failed"]) == (1, 0)
