"""A backend gives an attempt back: it stops, or failed at the task."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.tasks.outcomes import Origin, Refusal, Refused
from shared.tasks.task import State
from tests.shared.store import steps
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, applied, claim, known, sweep_all
from tests.shared.store.world import Server, text, world


async def test_a_released_task_waits_at_its_old_place_and_nothing_counts(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    outcome = applied(await store.release("t1", attempt=1, status="the service is stopping"))
    assert (outcome.origin, outcome.slot) == (Origin("/v1/a", 1), "forgotten")
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'the service is stopping' a2 f0 n0 v4 c0 m3 q0 l60 dispatch body=text/plain:5 released:a1x1
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +3 created a2 client 'the service is stopping' release
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@33
        paths /v1/a
    """)


async def test_a_task_that_is_released_for_a_while_waits_apart_that_long(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    outcome = applied(await store.release("t1", attempt=1, status=None, after_s=7.5))
    assert outcome.slot is None
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'Awaiting service availability: the backend gave it back' \
a2 f0 n0 v3 c0 m2 q0 l60 dispatch body=text/plain:5 z0 released:a1x1
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 created a2 client 'Awaiting service availability: the backend gave it back' release
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@9.5
        paths /v1/a
    """)


async def test_such_a_task_waits_in_its_queue_then(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await steps.dispatched(store, clock)
    await store.release("t1", attempt=1, status=None, after_s=7.5)
    clock.advance(7.4)
    assert await sweep_all(store) == []
    clock.advance(0.1)
    assert [item.what for item in await sweep_all(store)] == ["waits"]


async def test_a_release_of_a_failure_counts_and_the_task_waits_for_a_backoff(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    outcome = applied(await store.release("t1", attempt=1, status="no memory", failed=True, after_s=0.001))
    assert outcome.slot is None
    base_s = POLICY.backoff_base_s
    assert world(redis_server, {"t1": (3 + base_s / 2, 3 + base_s)}) == text(f"""
        t:t1 created /v1/a 'no memory' a2 f1 n0 v4 c0 m3 q0 l60 dispatch body=text/plain:5 z0 released:a1x0
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +3 created a2 client 'no memory' release
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@{3 + base_s / 2:g}..{3 + base_s:g}
        paths /v1/a
    """)


async def test_a_failure_waits_for_as_long_as_its_backend_says_if_that_is_longer(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store()
    await steps.running(store, clock)
    await store.release("t1", attempt=1, status="no memory", failed=True, after_s=500)
    clock.advance(499)
    assert await sweep_all(store) == []
    clock.advance(1)
    assert [item.what for item in await sweep_all(store)] == ["waits"]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "Failed - the backend failed at it (attempt 3 of 3)"),
        ("Failed - 100 %d of it", "Failed - 100 %d of it (attempt 3 of 3)"),
    ],
)
async def test_the_last_failure_that_is_released_ends_the_task(
    store: Store, clock: Clock, status: str | None, told: str
) -> None:
    await steps.released_often(store, clock)
    outcome = applied(await store.release("t1", attempt=3, status=status, failed=True))
    assert (outcome.task.state, outcome.task.attempt, outcome.task.failures) == (State.FAILED, 3, 3)
    assert outcome.task.status == outcome.task.history[-1].status == told
    again = applied(await store.release("t1", attempt=3, status=status, failed=True))
    assert (again.task, again.is_transition) == (outcome.task, False)


async def test_a_repeated_release_changes_nothing_whatever_became_of_the_task(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    await store.release("t1", attempt=1, status="stopping")
    for _ in range(2):
        before = world(redis_server)
        outcome = applied(await store.release("t1", attempt=1, status="stopping"))
        assert (outcome.is_transition, outcome.slot) == (False, None)
        assert world(redis_server) == before
        if outcome.task.state is State.CREATED:
            await claim(store)


async def test_an_attempt_that_was_taken_away_is_not_released(store: Store, clock: Clock) -> None:
    await steps.lease_over(store, clock)
    await sweep_all(store)
    outcome = await store.release("t1", attempt=1, status="stopping")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STALE


@pytest.mark.contract("B13.3")
async def test_from_the_twentieth_in_a_row_each_release_counts(store: Store) -> None:
    await store.create(HELLO)
    for attempt in range(1, 23):
        await claim(store)
        outcome = applied(await store.release("t1", attempt=attempt, status=None))
        assert outcome.task.failures == max(0, attempt - 19), attempt
        if outcome.task.state is State.FAILED:
            break
    assert ((await known(store)).state, attempt) == (State.FAILED, 22)


async def test_a_failure_or_a_next_step_begins_the_row_anew(store: Store) -> None:
    await store.create(HELLO)
    attempt = 0

    async def release(times: int) -> None:
        nonlocal attempt
        for _ in range(times):
            attempt = (await claim(store)).attempt
            await store.release("t1", attempt=attempt, status=None)

    await release(19)
    await store.release("t1", attempt=(await claim(store)).attempt, status=None, failed=True)
    await release(19)
    assert (await known(store)).failures == 1
    await claim(store)
    await store.next_step("t1", status="created", path="/v1/b")
    await release(19)
    assert (await known(store)).failures == 0


async def test_a_task_that_the_backbone_does_not_dispatch_cannot_be_released(store: Store) -> None:
    await store.create(replace(HELLO, state=State.RUNNING, dispatch_requested=False))
    outcome = await store.release("t1", attempt=1, status=None)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STATE


async def test_another_owner_s_task_is_unknown(store: Store) -> None:
    await store.create(replace(HELLO, owner="a"))
    await claim(store)
    await store.release("t1", attempt=1, status=None, owner="a")
    for attempt in (1, 2):
        outcome = await store.release("t1", attempt=attempt, status=None, owner="b")
        assert isinstance(outcome, Refused)
        assert (outcome.reason, outcome.task) == (Refusal.UNKNOWN, None)
