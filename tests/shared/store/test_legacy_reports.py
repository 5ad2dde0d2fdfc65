"""What a report without an attempt means: it may be an earlier run's, or the previous step's; its text may tell an
end; and the service that sends it may be silent for long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shared.store.upkeep_steps import Overdue
from shared.tasks import status_texts
from shared.tasks.outcomes import Applied, Refusal, Refused
from shared.tasks.task import Content, State, Task
from tests.shared.store import steps
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, RESULT, applied, known, sweep_all
from tests.shared.store.world import Server, World

LEASE_S = HELLO.lease_s


@pytest.fixture(params=[False, True], ids=["once", "each-script-twice"])
def store(request: pytest.FixtureRequest, open_store: StoreFactory) -> Store:
    """Sends each step twice in the second run, but for the sweep: if that is repeated, its answer is lost."""
    store = open_store(repeating=request.param)
    store.sweep = open_store().sweep
    return store


def due_s(server: Server) -> float:
    return World(server).due_s["t1"]


async def tell(store: Store, status: str) -> Applied:
    """Report an end as ``UpdateTaskStatus`` does: the state is running, and the text tells the end."""
    told = status_texts.end_told(status)
    return applied(await store.update("t1", state=State.RUNNING, status=status, told=told))


async def swept(store: Store) -> Sequence[str]:
    return [item.what for item in await sweep_all(store)]


async def dispatch(store: Store, *, accept: bool = True) -> Task:
    task = await steps.claim(store)
    if accept:
        await store.accepted(task)
    return task


async def handed_on(store: Store, clock: Clock) -> None:
    """The first step has sent the task to the next, and names no attempt."""
    await steps.running(store, clock)
    await store.next_step("t1", status="created", path="/v1/b")
    clock.advance(1)


# An end that only the text tells


@pytest.mark.parametrize(
    "status",
    [
        *("completed", "Completed", "COMPLETED", " completed\n", "completed - https://a.example/x.png?sig=1"),
        *("completed: 3 images", "completed -3", "Completed.", "completed; see the table", "completed- 3 of 10"),
    ],
)
def test_a_text_tells_a_completion(status: str) -> None:
    assert status_texts.end_told(status) is State.COMPLETED


@pytest.mark.parametrize("status", ["failed", "Failed - no memory", "FAILED: no memory", "failed ; x", "failed."])
def test_a_text_tells_a_failure(status: str) -> None:
    assert status_texts.end_told(status) is State.FAILED


@pytest.mark.parametrize(
    "status",
    [
        *("completed 3 of 10 tiles", "Completed download, running model", "Failed to open band 4, retrying"),
        *(
            "",
            "running",
            "created",
            "not completed",
            "completed, and more",
            "completedness",
            "failedover",
            "- failed",
        ),
        *("completed  - two spaces", "running - completed", "cancelled", "completion: 3", "Awaiting completed - x"),
    ],
)
def test_a_text_tells_no_end(status: str) -> None:
    assert status_texts.end_told(status) is None


async def test_an_end_that_the_text_tells_takes_effect_after_30_s(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    told = await tell(store, "completed - see here")
    assert (told.task.state, told.task.status, told.is_transition) == (State.RUNNING, "completed - see here", False)
    clock.advance(29.999)
    assert await swept(store) == []
    assert (await known(store)).state is State.RUNNING
    clock.advance(0.001)
    (item,) = await sweep_all(store)
    task = await known(store)
    assert item == Overdue("ended", "t1", task, service_ms=2000, late_ms=30_000)
    assert item.applied == Applied(task, item.applied.origin, service_ms=2000, late_ms=30_000)  # type: ignore[union-attr]
    assert (task.state, task.status, task.attempt) == (State.COMPLETED, "completed - see here", 1)
    event = task.history[-1]
    assert (event.state, event.actor, event.status) == (State.COMPLETED, "client", "completed - see here")
    world = World(redis_server)
    world.assert_consistent()
    assert world.due_s["t1"] == (clock.ms - task.created_ms) / 1000 + POLICY.retention_s
    clock.advance(POLICY.retention_s)
    assert await swept(store) == ["purged"]


async def test_a_failure_that_the_text_tells_takes_effect_too(store: Store, clock: Clock) -> None:
    await steps.running(store, clock)
    await tell(store, "Failed - out of memory")
    clock.advance(30)
    (item,) = await sweep_all(store)
    assert (item.what, item.service_ms) == ("ended", None)
    task = await known(store)
    assert (task.state, task.status, task.failures) == (State.FAILED, "Failed - out of memory", 0)


async def test_the_completion_of_a_deferred_end_is_published(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store(replace(POLICY, publish_completions=True))
    await steps.running(store, clock)
    await tell(store, "completed")
    clock.advance(30)
    (item,) = await sweep_all(store)
    assert item.task
    assert item.task.completion_unpublished
    clock.advance(POLICY.republish_s)
    assert await swept(store) == ["completion"]


@pytest.mark.parametrize("status", ["completed - 3 of 10 tiles", "running - 4 of 10 tiles"])
async def test_another_report_takes_a_told_end_back(
    store: Store, clock: Clock, redis_server: Server, status: str
) -> None:
    await steps.running(store, clock)
    await tell(store, "completed - 3 of 10")
    clock.advance(5)
    ends_again = status_texts.end_told(status) is not None
    await tell(store, status)
    clock.advance(29.999)
    assert await swept(store) == []
    clock.advance(0.001)
    assert await swept(store) == (["ended"] if ends_again else [])
    if not ends_again:
        clock.advance(LEASE_S - 30)
        assert await swept(store) == ["retry"], "the lease was renewed"


@pytest.mark.parametrize("report", ["heartbeat", "result", "with its attempt", "next step"])
async def test_any_report_takes_a_told_end_back(store: Store, clock: Clock, report: str) -> None:
    await steps.running(store, clock)
    await tell(store, "completed - 3 of 10")
    clock.advance(5)
    if report == "heartbeat":
        await store.heartbeat("t1")
    elif report == "result":
        await store.put_result("t1", RESULT, b"png")
    elif report == "with its attempt":
        await store.update("t1", state=State.RUNNING, status="completed - 3 of 10", attempt=1)
    else:
        await store.next_step("t1", status="created", path="/v1/b")
    clock.advance(30 if report == "next step" else LEASE_S - 0.001)
    assert await swept(store) == (["waits"] if report == "next step" else [])
    assert not (await known(store)).state.is_terminal


async def test_a_real_end_and_a_cancel_do_not_wait_for_a_told_end(store: Store, clock: Clock) -> None:
    for end in (
        lambda: store.update("t1", state=State.COMPLETED, status="done"),
        lambda: store.cancel("t1"),
    ):
        await steps.running(store, clock)
        await tell(store, "failed")
        task = applied(await end()).task
        assert task.state in (State.COMPLETED, State.CANCELLED)
        clock.advance(30)
        assert await swept(store) == []
        clock.advance(POLICY.retention_s)
        assert await swept(store) == ["purged"]


async def test_a_replay_of_a_told_failure_begins_anew(store: Store, clock: Clock) -> None:
    await steps.running(store, clock)
    await tell(store, "failed")
    refused = await store.replay("t1")
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.STATE
    clock.advance(30)
    assert await swept(store) == ["ended"]
    assert applied(await store.replay("t1")).task.attempt == 2
    await dispatch(store)
    clock.advance(30)
    assert await swept(store) == [], "the new attempt has its lease"


async def test_a_told_end_of_a_task_without_dispatch_takes_effect(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, dispatch_requested=False))
    await tell(store, "completed")
    clock.advance(30)
    assert await swept(store) == ["ended"]
    assert (await known(store)).state is State.COMPLETED


async def test_a_told_end_before_the_backend_has_answered_takes_effect(store: Store, clock: Clock) -> None:
    task = await steps_dispatched(store, clock)
    told = await tell(store, "completed")
    assert told.task.state is State.RUNNING
    assert isinstance(await store.accepted(task), Refused), "the report counts"
    clock.advance(30)
    assert await swept(store) == ["ended"]


async def steps_dispatched(store: Store, clock: Clock) -> Task:
    await steps.created(store, clock)
    return await dispatch(store, accept=False)


# A report after the task was handed on


@pytest.mark.parametrize("state", [State.RUNNING, State.COMPLETED, State.FAILED, None], ids=str)
async def test_a_report_after_a_hand_on_changes_the_text_of_the_waiting_step_at_most(
    store: Store, clock: Clock, redis_server: Server, state: State | None
) -> None:
    await handed_on(store, clock)
    before, due = await known(store), due_s(redis_server)
    blob = Content("text/plain", 70_000, "t1/other")
    outcome = applied(await store.update("t1", state=state, status="done", path="/v1/c", query="q", body=blob))
    assert not outcome.is_transition
    after = await known(store)
    assert (after.state, after.path, after.query, after.attempt) == (State.CREATED, "/v1/b", before.query, 2)
    assert (after.status, after.body) == ("done", before.body)
    assert due_s(redis_server) == due
    assert World(redis_server).records["t1"]["g"], "the blob that was stored for nothing is deleted with the task"
    await dispatch(store)
    clock.advance(LEASE_S - 0.001)
    assert await swept(store) == []
    assert (await known(store)).state is State.DISPATCHED


async def test_a_told_end_after_a_hand_on_does_not_end_the_waiting_step(store: Store, clock: Clock) -> None:
    await handed_on(store, clock)
    assert (await tell(store, "completed - handed on")).task.state is State.CREATED
    await dispatch(store)
    clock.advance(30)
    assert await swept(store) == []


@pytest.mark.parametrize("told", [False, True], ids=["CompleteTask", "UpdateTaskStatus"])
async def test_an_end_of_a_step_that_was_not_heard_of_is_kept_aside_and_takes_effect_in_silence(
    store: Store, clock: Clock, told: bool
) -> None:
    await handed_on(store, clock)
    await dispatch(store)
    clock.advance(1)
    report = tell(store, "completed - a") if told else complete(store, "completed - a")
    outcome = await report
    assert (outcome.task.state, outcome.task.status, outcome.slot) == (State.DISPATCHED, "completed - a", None)
    clock.advance(29.999)
    assert await swept(store) == []
    clock.advance(0.001)
    assert await swept(store) == ["ended"]
    task = await known(store)
    assert (task.state, task.status, task.path) == (State.COMPLETED, "completed - a", "/v1/b")
    assert task.history[-1].status == "completed - a"


async def complete(store: Store, status: str, state: State = State.COMPLETED) -> Applied:
    return applied(await store.update("t1", state=state, status=status))


async def test_a_report_of_the_step_discards_the_end_that_was_kept_aside(store: Store, clock: Clock) -> None:
    await handed_on(store, clock)
    await dispatch(store)
    await complete(store, "the first step's end")
    clock.advance(29)
    running = applied(await store.update("t1", state=State.RUNNING, status="second step"))
    assert (running.task.state, running.slot) == (State.RUNNING, None)
    clock.advance(LEASE_S - 0.001)
    assert await swept(store) == []
    assert (await complete(store, "the second step's end")).task.state is State.COMPLETED, "it was heard of"


async def test_a_second_end_of_the_previous_step_is_kept_aside_too(store: Store, clock: Clock) -> None:
    await handed_on(store, clock)
    await dispatch(store)
    await complete(store, "an image")
    clock.advance(10)
    await complete(store, "a table")
    clock.advance(29.999)
    assert await swept(store) == []
    assert applied(await store.heartbeat("t1")).task.state is State.DISPATCHED


async def test_an_end_before_the_step_is_accepted_waits_for_that(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await handed_on(store, clock)
    task = await dispatch(store, accept=False)
    window = due_s(redis_server)
    await complete(store, "the first step's end")
    assert due_s(redis_server) == window, "the dispatcher may have died: then the step is tried again"
    clock.advance(20)
    await store.accepted(task)
    clock.advance(29.999)
    assert await swept(store) == []
    clock.advance(0.001)
    assert await swept(store) == ["ended"]


async def test_a_step_whose_dispatcher_died_is_tried_again_whatever_was_kept_aside(
    store: Store, clock: Clock
) -> None:
    await handed_on(store, clock)
    await dispatch(store, accept=False)
    await complete(store, "the first step's end")
    clock.advance(POLICY.dispatch_window_s)
    assert await swept(store) == ["retry"]
    task = await known(store)
    assert (task.state, task.attempt, task.path) == (State.CREATED, 3, "/v1/b")
    await complete(store, "late again")
    await dispatch(store)
    clock.advance(30)
    assert await swept(store) == []


@pytest.mark.parametrize("failed", [False, True], ids=["busy", "failed"])
async def test_a_step_that_its_backend_did_not_take_forgets_what_was_kept_aside(
    store: Store, clock: Clock, failed: bool
) -> None:
    await handed_on(store, clock)
    task = await dispatch(store, accept=False)
    await complete(store, "the first step's end")
    requeued = applied(await store.requeue(task, status="Awaiting", apart_s=1, failed=failed))
    assert requeued.task.state is State.CREATED
    await dispatch(store)
    clock.advance(30)
    assert await swept(store) == []


async def test_a_report_with_its_attempt_ends_a_step_at_once(store: Store, clock: Clock) -> None:
    await handed_on(store, clock)
    await dispatch(store)
    await complete(store, "the first step's end")
    ended = applied(await store.update("t1", state=State.FAILED, status="no", attempt=2))
    assert (ended.task.state, ended.task.status) == (State.FAILED, "no")


async def test_a_step_that_was_handed_on_with_an_attempt_is_ended_at_once(store: Store, clock: Clock) -> None:
    await steps.running(store, clock)
    await store.next_step("t1", status="created", path="/v1/b", attempt=1)
    await dispatch(store)
    assert (await complete(store, "done")).task.state is State.COMPLETED


async def test_a_cancel_ends_a_step_whose_end_was_kept_aside(store: Store, clock: Clock) -> None:
    await handed_on(store, clock)
    assert applied(await store.cancel("t1")).task.state is State.CANCELLED


# Long silent runs


async def silent_for_its_lease(store: Store, clock: Clock, server: Server) -> float:
    """Dispatch the task, and say nothing until its lease is over. Returns how long that was."""
    await dispatch(store)
    lease_s = due_s(server) - (clock.ms - (await known(store)).created_ms) / 1000
    clock.advance(lease_s)
    assert await swept(store) == ["retry"]
    return lease_s


@pytest.fixture
def patient_store(open_store: StoreFactory) -> Store:
    return open_store(replace(POLICY, max_attempts=10))


async def test_the_lease_doubles_after_each_silent_attempt_up_to_eight_times(
    patient_store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(patient_store, clock)
    leases = [await silent_for_its_lease(patient_store, clock, redis_server) for _ in range(6)]
    assert leases == [LEASE_S * times for times in (1, 2, 4, 8, 8, 8)]


async def test_a_service_that_only_reports_that_it_begins_gets_the_longer_lease_too(
    patient_store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(patient_store, clock)
    for times in (1, 2, 4, 8):
        task = await dispatch(patient_store, accept=False)
        began_s = (clock.ms - task.created_ms) / 1000
        await patient_store.update("t1", state=State.RUNNING, status="running model")
        await patient_store.update("t1", state=State.RUNNING, status="running model - loaded")
        assert due_s(redis_server) == began_s + LEASE_S * times
        clock.advance(LEASE_S * times)
        assert await swept(patient_store) == ["retry"]


async def test_a_report_that_outlasts_the_longer_lease_returns_the_task_to_its_backends(
    patient_store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(patient_store, clock)
    for _ in range(2):
        await silent_for_its_lease(patient_store, clock, redis_server)
    await dispatch(patient_store)
    clock.advance(3.5 * LEASE_S)
    await patient_store.update("t1", state=State.RUNNING, status="running model")
    clock.advance(LEASE_S)
    await patient_store.update("t1", state=State.RUNNING, status="running model")
    clock.advance(LEASE_S - 0.001)
    assert await swept(patient_store) == []
    clock.advance(0.001)
    assert await swept(patient_store) == ["retry"]
    assert await silent_for_its_lease(patient_store, clock, redis_server) == 2 * LEASE_S


async def test_an_attempt_that_no_backend_accepted_is_followed_by_one_with_the_same_lease(
    patient_store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(patient_store, clock)
    await dispatch(patient_store, accept=False)
    clock.advance(POLICY.dispatch_window_s)
    assert await swept(patient_store) == ["retry"]
    assert await silent_for_its_lease(patient_store, clock, redis_server) == LEASE_S


@pytest.mark.parametrize("begin", ["next step", "replay"])
async def test_a_new_beginning_has_the_backends_lease(
    patient_store: Store, clock: Clock, redis_server: Server, begin: str
) -> None:
    await steps.created(patient_store, clock)
    await silent_for_its_lease(patient_store, clock, redis_server)
    if begin == "replay":
        await dispatch(patient_store)
        await complete(patient_store, "failed", State.FAILED)
        await patient_store.replay("t1")
    else:
        await patient_store.next_step("t1", status="created")
    assert await silent_for_its_lease(patient_store, clock, redis_server) == LEASE_S


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "is dispatched"])
async def test_a_completion_without_an_attempt_ends_the_task_whichever_run_sent_it(
    store: Store, clock: Clock, redis_server: Server, waits: bool
) -> None:
    await steps.created(store, clock)
    await silent_for_its_lease(store, clock, redis_server)
    if not waits:
        await dispatch(store)
    assert (await complete(store, "completed - by the first run")).task.state is State.COMPLETED


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "is dispatched"])
async def test_a_completion_of_a_next_steps_first_run_counts_when_a_lease_has_passed(
    store: Store, clock: Clock, redis_server: Server, waits: bool
) -> None:
    await handed_on(store, clock)
    await silent_for_its_lease(store, clock, redis_server)
    if not waits:
        await dispatch(store)
    assert (await complete(store, "completed - by the first run")).task.state is State.COMPLETED


# An end that is reported twice


@pytest.mark.parametrize("end", [State.COMPLETED, State.FAILED])
async def test_a_second_end_with_another_text_replaces_the_text(
    store: Store, clock: Clock, redis_server: Server, end: State
) -> None:
    await steps.running(store, clock)
    await complete(store, "an image", end)
    due = due_s(redis_server)
    clock.advance(1)
    outcome = await complete(store, "a table", end)
    assert not outcome.is_transition
    task = await known(store)
    assert outcome.task == task
    assert (task.state, task.status) == (end, "a table")
    assert [event.status for event in task.history if event.state is end] == ["an image", "a table"]
    assert due_s(redis_server) == due, "it is kept as long as before"
    told = await tell(store, f"{end.value} - both")
    assert (told.task.state, told.task.status, told.is_transition) == (end, f"{end.value} - both", False)


@pytest.mark.parametrize(
    ("state", "attempt"), [(State.FAILED, None), (State.RUNNING, None), (None, None), (State.COMPLETED, 1)]
)
async def test_no_other_report_changes_a_finished_task(
    store: Store, clock: Clock, state: State | None, attempt: int | None
) -> None:
    await steps.completed(store, clock)
    before = await known(store)
    outcome = await store.update("t1", state=state, status="another text", attempt=attempt)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.FINISHED
    assert await known(store) == before
