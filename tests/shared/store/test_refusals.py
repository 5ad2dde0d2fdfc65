"""Which step is allowed in which state, and for which attempt. A refused step changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Outcome, Refusal, Refused
from shared.tasks.task import Content, State, Task
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store
from tests.shared.store.world import Server, world

STATES = (State.CREATED, State.DISPATCHED, State.RUNNING, State.COMPLETED, State.FAILED, State.CANCELLED)

# A step on a task as its caller knows it, by id and attempt.
Take = Callable[[Store, Task], Awaitable[Outcome | Claimed]]
STEPS: dict[str, Take] = {
    "claim": lambda store, task: store.claim(task.id, task.attempt),
    "accepted": lambda store, task: store.accepted(task),
    "requeue": lambda store, task: store.requeue(task, status="Retrying", apart_s=1, failed=True),
    "fail_dispatch": lambda store, task: store.fail_dispatch(task, status="Failed.", reason=EndReason.REJECTED),
    "heartbeat": lambda store, task: store.update(task.id, state=None, status="50 %", attempt=task.attempt),
    "running": lambda store, task: store.update(task.id, state=State.RUNNING, status="r", attempt=task.attempt),
    "completed": lambda store, task: store.update(task.id, state=State.COMPLETED, status="c", attempt=task.attempt),
    "failed": lambda store, task: store.update(task.id, state=State.FAILED, status="f", attempt=task.attempt),
    "heartbeat only": lambda store, task: store.heartbeat(task.id, attempt=task.attempt),
    "next step": lambda store, task: store.next_step(task.id, status="next step", path="/v1/b", attempt=task.attempt),
    "next step with a body": lambda store, task: store.next_step(
        task.id, status="next step", attempt=task.attempt, body=Content("text/plain", 3), inline_body=b"bye"
    ),
    "put_result": lambda store, task: store.put_result(task.id, steps.RESULT, b"png", attempt=task.attempt),
    "put_result that completes": lambda store, task: store.put_result(
        task.id, steps.RESULT, b"png", attempt=task.attempt, completed="c"
    ),
    "complete": lambda store, task: store.complete(task, steps.RESULT, b"png", status="c"),
    "put_checkpoint": lambda store, task: store.put_checkpoint(
        task.id, steps.CHECKPOINT, b"weights", attempt=task.attempt
    ),
    "release": lambda store, task: store.release(task.id, attempt=task.attempt, status=None),
    "release of a failure": lambda store, task: store.release(
        task.id, attempt=task.attempt, status=None, failed=True
    ),
}

# The result of each step in each state, in the order of STATES: the next state, or the reason of the refusal.
# `same` means that the task has this end already.
ALLOWED = {
    "claim": "dispatched state state finished finished finished",
    "accepted": "state dispatched state finished finished finished",
    "requeue": "state created state finished finished finished",
    "fail_dispatch": "state failed state finished finished finished",
    "heartbeat": "created dispatched running finished finished finished",
    "running": "running running running finished finished finished",
    "completed": "completed completed completed same finished finished",
    "failed": "failed failed failed finished same finished",
    "heartbeat only": "state dispatched running finished finished finished",
    "next step": "created created created finished finished finished",
    "next step with a body": "created created created finished finished finished",
    "put_result": "created dispatched running finished finished finished",
    "put_result that completes": "completed completed completed finished finished finished",
    "complete": "state completed completed finished finished finished",
    "put_checkpoint": "state dispatched running finished finished finished",
    "release": "state created created finished finished finished",
    "release of a failure": "state created created finished finished finished",
}


async def _task_in(state: State, store: Store, clock: Clock) -> Task:
    """A task in *state*, at attempt 2. A terminal state was reached as STEPS would reach it."""
    await steps.dispatched(store, clock)
    task = await store.get("t1")
    assert task
    await store.requeue(task, status="Retrying", apart_s=1, failed=False)
    if state is not State.CREATED:
        await steps.claim(store)
    if state not in (State.CREATED, State.DISPATCHED):
        status = {State.COMPLETED: "c", State.FAILED: "f", State.CANCELLED: "x"}.get(state, "running")
        await store.update("t1", state=state, status=status)
    clock.advance(1)
    task = await store.get("t1")
    assert task
    assert (task.state, task.attempt) == (state, 2)
    return task


def test_the_table_covers_every_step_and_state() -> None:
    assert ALLOWED.keys() == STEPS.keys()
    assert {len(row.split()) for row in ALLOWED.values()} == {len(STATES)}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", STEPS)
async def test_the_state_of_a_task_decides_whether_a_step_is_applied_or_refused(
    open_store: Callable[[], Store], clock: Clock, redis_server: Server, name: str, state: State
) -> None:
    store = open_store()
    task = await _task_in(state, store, clock)
    before = world(redis_server)
    expected = ALLOWED[name].split()[STATES.index(state)]
    outcome = await STEPS[name](store, task)
    if isinstance(outcome, Refused):
        assert (outcome.reason, outcome.task) == (expected, task)
        assert world(redis_server) == before
    elif expected == "same":
        assert outcome == Applied(task, None)
        assert world(redis_server) == before
    else:
        assert outcome.task.state == expected
        assert outcome.task.version == task.version + 1
        assert world(redis_server) != before


@pytest.mark.parametrize("state", [State.CREATED, State.RUNNING, State.COMPLETED])
@pytest.mark.parametrize("attempt", [1, 3], ids=["older", "newer"])
@pytest.mark.parametrize("name", STEPS)
async def test_a_step_for_another_attempt_than_the_current_one_is_refused_and_changes_nothing(
    open_store: Callable[[], Store], clock: Clock, redis_server: Server, name: str, attempt: int, state: State
) -> None:
    store = open_store()
    task = await _task_in(state, store, clock)
    before = world(redis_server)
    outcome = await STEPS[name](store, replace(task, attempt=attempt))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.task) == ("stale", task)
    assert world(redis_server) == before


@pytest.mark.parametrize(
    "take",
    [
        lambda store: store.claim("t1", None),
        lambda store: store.update("t1", state=State.RUNNING, status="running"),
        lambda store: store.next_step("t1", status="created"),
        lambda store: store.put_result("t1", steps.RESULT, b"png"),
    ],
    ids=["claim", "update", "next step", "put_result"],
)
async def test_a_step_that_names_no_attempt_applies_to_the_current_one(
    open_store: Callable[[], Store], clock: Clock, take: Callable[[Store], Awaitable[Outcome | Claimed]]
) -> None:
    store = open_store()
    await _task_in(State.CREATED, store, clock)
    outcome = await take(store)
    assert isinstance(outcome, (Applied, Claimed))


@pytest.mark.parametrize("name", STEPS)
async def test_a_step_for_an_unknown_task_is_refused_and_stores_nothing(
    open_store: Callable[[], Store], clock: Clock, redis_server: Server, name: str
) -> None:
    store = open_store()
    task = await _task_in(State.CREATED, store, clock)
    redis_server.flush()
    outcome = await STEPS[name](store, task)
    assert outcome == Refused(Refusal.UNKNOWN, None)
    assert world(redis_server) == ""
