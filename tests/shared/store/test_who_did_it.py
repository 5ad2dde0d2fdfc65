"""The history of a task says who did what, and an operation that is to replay a task once does so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.tasks.outcomes import Applied, Refusal, Refused
from shared.tasks.task import NewBatch, Reason, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, known
from tests.shared.store.world import Server, World


@pytest.fixture(params=[False, True], ids=["once", "each call repeated"])
def store(request: pytest.FixtureRequest, open_store: StoreFactory) -> Store:
    return open_store(repeating=request.param)


async def who(store: Store, task_id: str = "t1") -> list[tuple[str, str, str | None]]:
    return [(event.state.value, event.actor, event.operator) for event in (await known(store, task_id)).history]


@pytest.mark.parametrize(
    ("by", "actor", "operator"), [("ada", "operator", "ada"), ("", "operator", ""), (None, "client", None)]
)
async def test_a_cancel_names_the_operator_if_one_did_it(
    store: Store, clock: Clock, by: str | None, actor: str, operator: str | None
) -> None:
    await steps.created(store, clock)
    await store.cancel("t1", by=by)
    assert await who(store) == [("created", "client", None), ("cancelled", actor, operator)]


async def test_a_replay_and_a_submit_name_the_operator(store: Store, clock: Clock) -> None:
    task = replace(HELLO, by="ada")
    await store.create(task)
    await steps.claim(store)
    await store.update("t1", state=State.FAILED, status="no")
    await store.replay("t1", by="bob")
    assert [(actor, operator) for _, actor, operator in await who(store)] == [
        ("operator", "ada"),
        ("dispatcher", None),
        ("client", None),
        ("operator", "bob"),
    ]
    assert [event.reason for event in (await known(store)).history] == [
        Reason.SUBMIT,
        Reason.CLAIM,
        Reason.REPORT,
        Reason.REPLAY,
    ]


async def test_a_new_task_is_told_as_it_is_stored(store: Store) -> None:
    task = replace(HELLO, by="ada")
    created = await store.create(task)
    assert not isinstance(created, Refused)
    assert [*(await known(store)).history] == [*created.task.history]


async def test_the_paths_of_a_history_stay_right_beside_an_operator(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    await steps.claim(store)
    await store.update("t1", state=State.FAILED, status="no")
    await store.replay("t1", by="ada")
    await steps.claim(store)
    await store.next_step("t1", status="created", path="/v1/b", body=HELLO.body, inline_body=b"hello")
    await store.cancel("t1", by="")
    paths = [event.path for event in (await known(store)).history]
    assert paths == ["/v1/a"] * 5 + ["/v1/b"] * 2


async def test_a_batch_names_the_operator_who_cancels_it(store: Store, clock: Clock) -> None:
    await store.batches.create(NewBatch("b1"))
    await store.batches.cancel("b1", None, "ada")
    assert await who(store, "b1") == [("created", "client", None), ("cancelled", "operator", "ada")]


async def test_a_former_version_reads_the_history_of_what_an_operator_did(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    """It knows the first seven values of an event, three actors, and four reasons that are stored."""
    await steps.created(store, clock)
    await store.cancel("t1", by="ada")
    for _, state, attempt, actor, status, *more in World(redis_server).records["t1"]["h"]:
        assert (state, attempt, actor) in {("created", 1, "client"), ("cancelled", 1, "client")}
        assert status in ("created", "Cancelled")
        assert more in ([], [0, "/v1/a", "ada"])


# An operation that takes each task once


async def fail_again(store: Store, task_id: str = "t1") -> None:
    await steps.claim(store, task_id)
    await store.update(task_id, state=State.FAILED, status="no")


async def test_an_operation_replays_a_task_once_however_often_it_fails_again(store: Store) -> None:
    await store.create(HELLO)
    await fail_again(store)
    assert isinstance(await store.replay("t1", once="op-1"), Applied)
    await fail_again(store)
    assert await store.replay("t1", once="op-1") == Refused(Refusal.DONE, await known(store))
    assert isinstance(await store.replay("t1", once="op-2"), Applied)
    await fail_again(store)
    for operation in ("op-1", "op-2"):
        refused = await store.replay("t1", once=operation)
        assert isinstance(refused, Refused)
        assert refused.reason is Refusal.DONE
    assert isinstance(await store.replay("t1"), Applied)


async def test_of_two_calls_of_one_operation_at_once_one_replays(store: Store) -> None:
    await store.create(HELLO)
    await fail_again(store)
    outcomes = await asyncio.gather(*(store.replay("t1", once="op-1") for _ in range(8)))
    assert [type(outcome) for outcome in outcomes].count(Applied) == 1
    assert (await known(store)).attempt == 2


async def test_the_marks_of_operations_do_not_grow_for_ever(store: Store, redis_server: Server) -> None:
    await store.create(HELLO)
    for number in range(20):
        await fail_again(store)
        await store.replay("t1", once=f"op-{number}")
    assert len(World(redis_server).records["t1"]["O"]) == 8
