"""A status text that is too long for the record: which steps keep where it lies, and which drop it with the text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Created, Refusal, Refused
from shared.tasks.task import Content, LongStatus, State
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, claim, sweep_all

LONG = LongStatus(70_000, "t-t1/1", "d1")
OTHER = LongStatus(70_000, "t-t1/2", "d2")
BEGINNING = "completed - {"

Step = Callable[[Store, Clock], Awaitable[object]]


async def set_long(store: Store, state: State | None = State.RUNNING, long: LongStatus = LONG) -> Applied:
    outcome = await store.update("t1", state=state, status=BEGINNING, long_status=long)
    assert isinstance(outcome, Applied)
    return outcome


LONGEST_LEASE_S = 8 * 60
"""A silent attempt is followed by one with twice the lease, up to eight times."""


async def let_lease_end(store: Store, clock: Clock) -> None:
    clock.advance(LONGEST_LEASE_S + 1)
    assert [item.what for item in await sweep_all(store)] == ["retry"]


async def let_last_lease_end(store: Store, clock: Clock) -> None:
    for _ in range(POLICY.max_attempts - 1):
        await let_lease_end(store, clock)
        await claim(store)
        await set_long(store)
    clock.advance(LONGEST_LEASE_S + 1)
    assert [item.what for item in await sweep_all(store)] == ["failed"]


async def requeue(store: Store, clock: Clock) -> None:
    await let_lease_end(store, clock)
    await set_long(store, None)
    await store.requeue(await claim(store), status="busy")


async def fail(store: Store, clock: Clock) -> None:
    await let_lease_end(store, clock)
    await set_long(store, None)
    await store.fail_dispatch(await claim(store), status="rejected", reason=EndReason.REJECTED)


async def fail_and_replay(store: Store, clock: Clock) -> None:
    await set_long(store, State.FAILED)
    await store.replay("t1")


async def give_up_publishing(store: Store, clock: Clock) -> None:
    await let_lease_end(store, clock)
    await set_long(store, None)
    checked = [await store.check_slots("/v1/a", [("t1", 2)]) for _ in range(POLICY.max_attempts + 1)]
    assert [item.what for item in checked[-1]] == ["failed"]


REPLACING: dict[str, Step] = {
    "a report": lambda store, clock: store.update("t1", state=None, status="short"),
    "an end": lambda store, clock: store.update("t1", state=State.COMPLETED, status="short"),
    "a next step": lambda store, clock: store.next_step("t1", status="created"),
    "cancelling": lambda store, clock: store.cancel("t1"),
    "replaying": fail_and_replay,
    "a busy backend": requeue,
    "a backend that refuses": fail,
    "the end of a lease": let_lease_end,
    "the end of the last lease": let_last_lease_end,
    "the last publish": give_up_publishing,
}
KEEPING: dict[str, Step] = {
    "a report without text": lambda store, clock: store.update("t1", state=State.COMPLETED, status=None),
    "a next step without text": lambda store, clock: store.next_step("t1", status=None),
    "a heartbeat": lambda store, clock: store.heartbeat("t1"),
    "a result": lambda store, clock: store.put_result("t1", Content("image/png", 3), b"png"),
    "a refused report": lambda store, clock: store.update("t1", state=None, status="late", attempt=7),
}


@pytest.fixture
def store(open_store: StoreFactory) -> Store:
    """A store that sends each step once: a sweep that is repeated finds nothing more."""
    return open_store()


@pytest.fixture
async def running(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    await claim(store)
    await set_long(store)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("step", REPLACING.values(), ids=REPLACING)
async def test_another_text_drops_a_long_one(store: Store, clock: Clock, step: Step) -> None:
    await step(store, clock)
    task = await store.get("t1")
    assert task is not None
    assert task.long_status is None
    assert task.status != BEGINNING


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("step", KEEPING.values(), ids=KEEPING)
async def test_what_sets_no_text_keeps_a_long_one(store: Store, clock: Clock, step: Step) -> None:
    await step(store, clock)
    task = await store.get("t1")
    assert task is not None
    assert (task.status, task.long_status) == (BEGINNING, LONG)


async def test_a_task_can_be_created_with_a_long_text(store: Store) -> None:
    created = await store.create(replace(HELLO, status=BEGINNING, long_status=LONG))
    assert isinstance(created, Created)
    assert created.task == await store.get("t1")
    assert created.task.long_status == LONG


@pytest.mark.usefixtures("running")
async def test_a_step_tells_which_blob_it_has_replaced(store: Store) -> None:
    assert (await set_long(store, long=OTHER)).unnamed_blobs == [LONG.blob]
    outcome = await store.update("t1", state=None, status=None)
    assert isinstance(outcome, Applied)
    assert not outcome.unnamed_blobs
    ended = await store.update("t1", state=State.COMPLETED, status="short")
    assert isinstance(ended, Applied)
    assert (ended.unnamed_blobs, ended.is_transition) == ([OTHER.blob], True)


@pytest.mark.usefixtures("running")
async def test_the_same_end_is_known_by_the_whole_text(store: Store) -> None:
    ended = await set_long(store, State.COMPLETED)
    same = await set_long(store, State.COMPLETED, LONG._replace(blob="t-t1/3"))
    assert (same.is_transition, same.task) == (False, ended.task)
    for long in (OTHER, None):
        other = await store.update("t1", state=State.COMPLETED, status=BEGINNING, long_status=long, attempt=1)
        assert isinstance(other, Refused)
        assert (other.reason, other.task) == (Refusal.FINISHED, ended.task)


@pytest.mark.usefixtures("running")
async def test_a_second_end_without_an_attempt_replaces_a_long_text(store: Store) -> None:
    await set_long(store, State.COMPLETED)
    again = await store.update("t1", state=State.COMPLETED, status="short")
    assert isinstance(again, Applied)
    assert (again.task.status, again.task.long_status, again.unnamed_blobs) == ("short", None, [LONG.blob])


@pytest.mark.usefixtures("running")
async def test_the_blobs_of_a_task_with_a_long_text_go_before_it(store: Store, clock: Clock) -> None:
    await set_long(store, State.COMPLETED)
    clock.advance(POLICY.retention_s)
    assert [item.what for item in await sweep_all(store)] == ["blobs"]


async def test_a_task_with_short_texts_has_no_blobs_to_delete(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    await store.update("t1", state=State.COMPLETED, status="short")
    clock.advance(POLICY.retention_s)
    assert [item.what for item in await sweep_all(store)] == ["purged"]
