"""However a task ends, its record says why, in a word of the closed set."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.dispatch.backend_client import Erred, NotFound, Rejected, Unreachable
from shared.dispatch.retry_policy import Fail, after_answer
from shared.store.batch_steps import ChildReport
from shared.store.redis.scripts import LUA
from shared.store.requeue import BackendAway
from shared.tasks.end_reason import EndReason
from shared.tasks.ending import Ending, ending_of
from shared.tasks.task import NewBatch, NewTask, State, Task
from shared.tasks.timing import Moment, Timing
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, PIPELINE, RESULT, claim, known, sweep_all
from tests.shared.store.world import Server, nodes

End = Callable[[Store, Clock], Awaitable[object]]

LEGACY = NewTask("t1", "/v1/a", 60, dispatch_requested=False)


async def begun(store: Store, clock: Clock, new: NewTask = HELLO) -> Task:
    """A claimed task that has waited for 5 s, and runs for 3 s now."""
    await store.create(new)
    clock.advance(5)
    task = await claim(store)
    clock.advance(3)
    return task


async def report(store: Store, clock: Clock, state: State) -> None:
    await begun(store, clock)
    await store.update("t1", state=state, status="the service's words", attempt=1)


async def tell(store: Store, clock: Clock, told: State) -> None:
    """A legacy service ends the task by a text, which takes effect 30 s later."""
    task = await begun(store, clock)
    await store.accepted(task)
    await store.update("t1", state=State.RUNNING, status=f"{told} - it says", told=told)
    clock.advance(31)
    await sweep_all(store)


async def complete(store: Store, clock: Clock) -> None:
    await store.complete(await begun(store, clock), RESULT, b"png", status="done")


async def put_result(store: Store, clock: Clock) -> None:
    await begun(store, clock)
    await store.put_result("t1", RESULT, b"png", attempt=1, completed="done")


async def give_back(store: Store, clock: Clock) -> None:
    await begun(store, clock)
    await store.release("t1", attempt=1, status=None, failed=True)


async def cancel(store: Store, clock: Clock) -> None:
    await begun(store, clock)
    await store.cancel("t1")


async def cancel_waiting(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    await store.cancel("t1")


async def fail(store: Store, clock: Clock) -> None:
    task = await begun(store, clock)
    await store.fail_dispatch(task, status="Failed - the backend answered 400.", reason=EndReason.REJECTED)


async def lose_the_pipeline(store: Store, clock: Clock, redis_server: Server) -> None:
    await begun(store, clock, PIPELINE)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*}n:t1"):
                client.delete(key)
    await store.update("t1", state=State.COMPLETED, status="done", attempt=1)


async def be_silent(store: Store, clock: Clock) -> None:
    await begun(store, clock)
    clock.advance(POLICY.dispatch_window_s)
    await sweep_all(store)


async def be_silent_without_dispatch(store: Store, clock: Clock) -> None:
    await store.create(LEGACY)
    clock.advance(POLICY.retention_s)
    await sweep_all(store)


async def be_published_in_vain(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    await store.check_slots("/v1/a", [("t1", 1)])


async def expire(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, timing=Timing(expiry=Moment("create", 9_000))))
    clock.advance(9)
    await sweep_all(store)


async def be_claimed_too_late(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, timing=Timing(expiry=Moment("create", 9_000))))
    clock.advance(10)
    await store.expire(await known(store))


async def run_for_too_long(store: Store, clock: Clock) -> None:
    await begun(store, clock, replace(HELLO, timing=Timing(max_run_ms=12_000)))
    await store.update("t1", state=State.RUNNING, status="running", attempt=1)
    clock.advance(9)
    await sweep_all(store)


async def come_ended(store: Store, clock: Clock, state: State) -> None:
    await store.create(replace(LEGACY, state=state))


REACHED: dict[str, tuple[End, EndReason, float | None, float | None]] = {
    "reported as completed": (lambda s, c: report(s, c, State.COMPLETED), EndReason.COMPLETED, 5, 3),
    "reported as failed": (lambda s, c: report(s, c, State.FAILED), EndReason.REPORTED, 5, 3),
    "reported as cancelled": (lambda s, c: report(s, c, State.CANCELLED), EndReason.CANCELLED, 5, 3),
    "told as completed": (lambda s, c: tell(s, c, State.COMPLETED), EndReason.COMPLETED, 5, 3),
    "told as failed": (lambda s, c: tell(s, c, State.FAILED), EndReason.REPORTED, 5, 3),
    "answered": (complete, EndReason.COMPLETED, 5, 3),
    "result stored": (put_result, EndReason.COMPLETED, 5, 3),
    "given back for the last time": (give_back, EndReason.REPORTED, 5, 3),
    "cancelled at work": (cancel, EndReason.CANCELLED, 5, 3),
    "cancelled while it waits": (cancel_waiting, EndReason.CANCELLED, None, None),
    "refused": (fail, EndReason.REJECTED, 5, None),
    "silent": (be_silent, EndReason.LEASE, 5, 3 + POLICY.dispatch_window_s),
    "silent without dispatch": (be_silent_without_dispatch, EndReason.LEASE, None, None),
    "published in vain": (be_published_in_vain, EndReason.PUBLISHES, None, None),
    "expired": (expire, EndReason.EXPIRED, None, None),
    "claimed too late": (be_claimed_too_late, EndReason.EXPIRED, None, None),
    "ran for too long": (run_for_too_long, EndReason.TIMEOUT, 5, 12),
    "created as completed": (lambda s, c: come_ended(s, c, State.COMPLETED), EndReason.COMPLETED, None, None),
    "created as failed": (lambda s, c: come_ended(s, c, State.FAILED), EndReason.REPORTED, None, None),
    "created as cancelled": (lambda s, c: come_ended(s, c, State.CANCELLED), EndReason.CANCELLED, None, None),
}
LATE_MS = {"told as completed": 31_000, "told as failed": 31_000}


@pytest.mark.parametrize("how", REACHED)
async def test_however_a_task_ends_it_is_known_why_and_how_long_it_took(
    open_store: StoreFactory, clock: Clock, how: str
) -> None:
    end, reason, wait_s, run_s = REACHED[how]
    store = open_store(replace(POLICY, max_attempts=1))
    await end(store, clock)
    task = await known(store)
    assert task.state.is_terminal
    expected = Ending(reason, *(None if each is None else round(each * 1000) for each in (wait_s, run_s)))
    assert ending_of(task, LATE_MS.get(how, 0)) == expected
    assert [event.end for event in task.history[:-1]] == [None] * (len(task.history) - 1)


@pytest.mark.parametrize("told", [State.COMPLETED, State.FAILED])
async def test_a_sweep_says_how_long_ago_an_end_was_reported(store: Store, clock: Clock, told: State) -> None:
    if store.is_repeating:
        return  # the repetition of a sweep finds nothing any more
    task = await begun(store, clock)
    await store.accepted(task)
    await store.update("t1", state=State.RUNNING, status=f"{told} - it says", told=told)
    clock.advance(44)
    [ended] = [item.applied for item in await sweep_all(store)]
    assert ended is not None
    assert ended.late_ms == 44_000


async def test_a_task_whose_pipeline_is_lost_was_rejected(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    await lose_the_pipeline(store := open_store(), clock, redis_server)
    assert (await known(store)).history[-1].end is EndReason.REJECTED


async def test_the_last_step_of_a_pipeline_counts_its_own_wait_and_run(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store()
    await store.create(PIPELINE)
    for attempt, (wait_s, run_s) in enumerate([(1, 2), (3, 4), (5, 6)], 1):
        clock.advance(wait_s)
        await claim(store)
        clock.advance(run_s)
        await store.update("t1", state=State.COMPLETED, status="done", attempt=attempt)
    assert ending_of(await known(store)) == Ending(EndReason.COMPLETED, 5_000, 6_000)


async def test_a_replay_counts_anew(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    await report(store, clock, State.FAILED)
    clock.advance(100)
    await store.replay("t1")
    clock.advance(7)
    await claim(store)
    clock.advance(8)
    await store.update("t1", state=State.COMPLETED, status="done", attempt=2)
    assert ending_of(await known(store)) == Ending(EndReason.COMPLETED, 7_000, 8_000)


async def test_a_wait_for_room_counts_and_a_retry_does_not(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    task = await begun(store, clock)
    await store.requeue(task, status="Awaiting service availability")
    clock.advance(20)
    task = await claim(store)
    clock.advance(1)
    await store.requeue(task, status="Retrying - the backend answered 500", apart_s=1, failed=True)
    clock.advance(300)
    await claim(store)
    clock.advance(4)
    await store.update("t1", state=State.COMPLETED, status="done", attempt=3)
    assert ending_of(await known(store)) == Ending(EndReason.COMPLETED, 28_000, 4_000)


async def test_a_wait_that_the_history_has_no_room_for_is_unknown(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    task = await begun(store, clock)
    for _ in range(20):
        await store.requeue(task, status="Awaiting service availability")
        clock.advance(1)
        task = await claim(store)
    clock.advance(2)
    await store.update("t1", state=State.COMPLETED, status="done")
    assert ending_of(await known(store)) == Ending(EndReason.COMPLETED, None, 2_000)


async def test_a_batch_ends_as_its_tasks_report(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    for batch_id, child_state in (("b1", State.COMPLETED), ("b2", State.FAILED), ("b3", None)):
        await store.batches.create(NewBatch(batch_id))
        child = f"child-of-{batch_id}"
        await store.batches.register(batch_id, child, "")
        await store.create(replace(HELLO, id=child, batch=batch_id))
        if child_state is None:
            await store.batches.cancel(batch_id, None)
        else:
            await store.update(child, state=child_state, status="done")
            ended = await known(store, child)
            await store.batches.report(batch_id, [ChildReport(child, ended.attempt, ended.state)])
            await store.batches.seal(batch_id, None)
    ends = [ending_of(await known(store, batch_id)) for batch_id in ("b1", "b2", "b3")]
    reasons = [EndReason.COMPLETED, EndReason.REPORTED, EndReason.CANCELLED]
    assert ends == [Ending(reason, None, None) for reason in reasons]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Rejected("answered 400"), EndReason.REJECTED),
        (Erred("answered 500"), EndReason.REJECTED),
        (Erred("answered 408", timed_out=True), EndReason.TIMEOUT),
        (Erred("did not end its answer in time", timed_out=True), EndReason.TIMEOUT),
        (Unreachable("could not be reached"), EndReason.UNREACHABLE),
        (Unreachable("did not answer in time", timed_out=True), EndReason.TIMEOUT),
        (NotFound(), EndReason.UNREACHABLE),
    ],
    ids=str,
)
def test_the_last_answer_says_why_a_task_is_given_up(
    answer: Rejected | Erred | Unreachable | NotFound, reason: EndReason
) -> None:
    match after_answer(answer, "/v1", failures=2, max_attempts=3):
        case Fail() as decision:
            assert decision.reason is reason
        case BackendAway() as away:
            assert away.end_reason is reason
        case other:
            raise AssertionError(other)


def test_each_script_that_gives_a_task_up_says_why() -> None:
    said: dict[str, list[str]] = {}
    for file in sorted(LUA.rglob("*.lua")):
        text = re.sub(r"--.*", "", file.read_text())
        calls = re.findall(r"(?<!function )\b(?:give_up|fail)\((.+)\)", text)
        if file.name != "give_up.lua":
            assert "move_record(id, rec, 'failed'" not in text, file
        for call in calls:
            reasons = re.findall(r"'([a-z]+)'", call) or re.findall(r"\breason\b", call)
            said.setdefault(file.name, []).extend(reasons or ["none"])
    assert said == {
        "check_slots.lua": ["publishes"],
        "sweep.lua": ["reason", "lease", "timeout", "lease", "expired", "unreachable"],
    }
