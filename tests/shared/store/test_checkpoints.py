"""What a model service keeps for the next attempt, and how far it tells to be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.tasks.outcomes import Applied
from shared.tasks.task import Content, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import CHECKPOINT, HELLO, RESULT, applied, claim, known, sweep_all
from tests.shared.store.world import Server, text, world

LARGE_RESULT = Content("image/png", 100_000, "t-t1/result")
BLOB = Content("application/x-weights", 100_000, "t-t1/checkpoint")


@pytest.fixture
def once(open_store: StoreFactory) -> Store:
    """A store that sends each script once: a replay does not know which blobs were named, or what was swept."""
    return open_store()


async def test_a_checkpoint_is_kept_and_counts_as_a_report(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.with_checkpoint(store, clock)
    assert world(redis_server) == text("""
        t:t1 running /v1/a 'running model' a1 f0 n1 v4 c0 m3 q0 l60 dispatch body=text/plain:5 \
checkpoint=application/x-weights:7
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
        b:t1 hello
        k:t1 weights
        z:/v1/a:running t1@0
        due t1@63
        paths /v1/a
    """)
    assert (await known(store)).checkpoint == CHECKPOINT
    assert await store.inline_checkpoint("t1") == b"weights"


async def test_a_checkpoint_survives_a_release_a_failure_and_silence(once: Store, clock: Clock) -> None:
    await steps.with_checkpoint(once, clock)
    await once.release("t1", attempt=1, status=None)
    await claim(once)
    await once.release("t1", attempt=2, status=None, failed=True)
    await once.accepted(await claim(once))
    clock.advance(60)
    assert [item.what for item in await sweep_all(once)] == ["retry"]
    assert ((await known(once)).attempt, (await known(once)).checkpoint) == (4, CHECKPOINT)
    assert await once.inline_checkpoint("t1") == b"weights"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "next step", "silence", "told"])
@pytest.mark.parametrize("checkpoint", [CHECKPOINT, BLOB], ids=["inline", "blob"])
async def test_a_checkpoint_goes_with_the_step_or_the_task(
    once: Store, clock: Clock, redis_server: Server, end: str, checkpoint: Content
) -> None:
    await once.create(replace(HELLO, dispatch_requested=end != "silence", state=State.RUNNING))
    await once.put_checkpoint("t1", checkpoint, b"weights", attempt=1)
    if end == "cancelled":
        outcome = applied(await once.cancel("t1"))
    elif end == "next step":
        outcome = applied(await once.next_step("t1", status="created", path="/v1/b", attempt=1))
    elif end in ("silence", "told"):
        if end == "told":
            await once.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
        clock.advance(1000)
        (overdue,) = await sweep_all(once)
        assert overdue.applied is not None
        outcome = overdue.applied
    else:
        outcome = applied(await once.update("t1", state=State(end), status=end, attempt=1))
    assert outcome.task.checkpoint is None
    assert await once.inline_checkpoint("t1") is None
    assert list(outcome.unnamed_blobs) == ([BLOB.blob] if checkpoint is BLOB else [])
    assert "k:t1" not in world(redis_server)


@pytest.mark.parametrize(("first", "second"), [(CHECKPOINT, BLOB), (BLOB, CHECKPOINT)], ids=["to blob", "to inline"])
async def test_a_later_checkpoint_replaces_an_earlier_one(
    once: Store, clock: Clock, redis_server: Server, first: Content, second: Content
) -> None:
    await steps.running(once, clock)
    await once.put_checkpoint("t1", first, b"weights", attempt=1)
    outcome = applied(await once.put_checkpoint("t1", second, b"weights", attempt=1))
    assert list(outcome.unnamed_blobs) == ([BLOB.blob] if first is BLOB else [])
    assert outcome.task.checkpoint == second
    assert ("k:t1 weights" in world(redis_server)) is (second is CHECKPOINT)


async def test_progress_is_of_the_attempt(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.running(store, clock)
    for progress in (0.25, 0, 1):
        await store.heartbeat("t1", attempt=1, progress=progress)
        assert (await known(store)).progress == progress
    await store.update("t1", state=State.RUNNING, status="half", attempt=1, progress=0.5)
    await store.update("t1", state=State.RUNNING, status="still half", attempt=1)
    assert (await known(store)).progress == 0.5
    assert " P0.5" in world(redis_server)
    await store.release("t1", attempt=1, status=None)
    assert (await known(store)).progress is None


async def test_a_heartbeat_with_a_text_changes_no_state(store: Store, clock: Clock) -> None:
    await steps.dispatched(store, clock)
    outcome = applied(await store.heartbeat("t1", attempt=1, status="loading"))
    assert (outcome.task.state, outcome.task.status) == (State.DISPATCHED, "loading")


async def test_the_lease_of_an_attempt_is_told(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, lease_s=2.5))
    await store.accepted(await claim(store))
    assert (await known(store)).lease_s == 2.5
    clock.advance(2.5)
    await sweep_all(store)
    assert (await known(store)).lease_s == 5  # twice the lease after silence


@pytest.mark.parametrize("result", [RESULT, LARGE_RESULT], ids=["inline", "blob"])
async def test_a_result_that_completes_its_task_is_the_same_when_it_comes_again(
    store: Store, clock: Clock, redis_server: Server, result: Content
) -> None:
    await steps.running(store, clock)
    outcome = applied(await store.put_result("t1", result, b"png", attempt=1, completed="done"))
    assert (outcome.task.state, outcome.task.status, outcome.task.result) == (State.COMPLETED, "done", result)
    before = world(redis_server)
    again = result._replace(blob=result.blob and "t-t1/again")
    repeated = applied(await store.put_result("t1", again, b"png", attempt=1, completed="done"))
    assert (repeated.task, repeated.is_transition) == (outcome.task, False)
    assert world(redis_server) == before


@pytest.mark.parametrize(
    ("data", "status"), [(b"gif", "done"), (b"pn", "done"), (b"png", "really done")], ids=["bytes", "size", "text"]
)
async def test_another_result_of_a_completed_task_is_refused(
    store: Store, clock: Clock, redis_server: Server, data: bytes, status: str
) -> None:
    await steps.running(store, clock)
    await store.put_result("t1", RESULT, b"png", attempt=1, completed="done")
    before = world(redis_server)
    outcome = await store.put_result("t1", RESULT._replace(size_bytes=len(data)), data, attempt=1, completed=status)
    assert not isinstance(outcome, Applied)
    assert world(redis_server) == before
