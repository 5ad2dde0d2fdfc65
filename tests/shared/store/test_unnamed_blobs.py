"""A step tells which blobs no record names after it; its caller deletes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.tasks.outcomes import Applied, Outcome
from shared.tasks.task import Content, State
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, claim, sweep_all

BODY = Content("text/plain", 100_000, "t-t1/body")
FIRST, SECOND = Content("image/png", 100_000, "t-t1/1"), Content("image/png", 100_000, "t-t1/2")


@pytest.fixture
async def store(open_store: StoreFactory) -> Store:
    """A store with a task that runs, with a body and a result in Blob Storage."""
    store = open_store()
    await store.create(replace(HELLO, body=BODY, inline_body=b""))
    await claim(store)
    assert unnamed(await store.put_result("t1", FIRST, b"")) == []
    return store


def unnamed(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Applied)
    return sorted(outcome.unnamed_blobs)


@pytest.mark.parametrize("second", [SECOND, Content("image/png", 3)])
async def test_a_result_that_is_replaced(store: Store, second: Content) -> None:
    assert unnamed(await store.put_result("t1", second, b"png")) == ["t-t1/1"]


async def test_a_result_that_is_stored_again_stays(store: Store) -> None:
    """A step whose answer was lost is taken twice if another one came between."""
    await store.heartbeat("t1")
    assert unnamed(await store.put_result("t1", FIRST, b"")) == []
    assert unnamed(await store.update("t1", state=State.COMPLETED, status="done")) == []


async def test_a_body_that_is_replaced(store: Store) -> None:
    body = Content("text/plain", 5)
    outcome = await store.next_step("t1", status="created", body=body, inline_body=b"hello", attempt=1)
    assert unnamed(outcome) == ["t-t1/body"]


async def test_a_result_that_a_replay_removes(store: Store) -> None:
    await store.update("t1", state=State.FAILED, status="failed")
    assert unnamed(await store.replay("t1")) == ["t-t1/1"]


async def test_a_result_of_an_attempt_that_is_over(store: Store) -> None:
    task = await store.get("t1")
    assert task is not None
    assert unnamed(await store.requeue(task, status="Awaiting service availability")) == ["t-t1/1"]


async def test_a_result_of_an_attempt_that_was_silent(store: Store, clock: Clock) -> None:
    clock.advance(60)
    (overdue,) = await sweep_all(store)
    assert overdue.applied is not None
    assert (overdue.what, unnamed(overdue.applied)) == ("retry", ["t-t1/1"])
