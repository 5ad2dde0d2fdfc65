"""A process of the app dies between two steps of a batch: the reconciler of another one goes on. One server, and
several."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from shared.bodies import BlobsUnavailable
from shared.store import CHILDREN_AT_ONCE, ChildEnd, ChildReport, RedisLink, StoreUnavailable, then_task_id
from shared.store.batch_steps import LOOK_S, REGISTRATION_GRACE_S
from shared.store.redis.partitions import tag_of
from shared.tasks.outcomes import Applied, Created, Outcome
from shared.tasks.task import BatchState, Content, NewBatch, NewTask, PipelineStep, Place, State, Task, ThenTask
from tests.cache_manager.process import POLICY, REPUBLISH_S, Process
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, World

THEN = ThenTask("/v1/then", "", (PipelineStep("/v1/then", "", 600),))
CHILD = NewTask("c", "/v1/a", 600, body=Content("text/plain", 2), inline_body=b"hi", batch="b")
LARGE = Content("text/plain", 99_999, "t-c/blob")


class LinkToSeveralServers(RedisLink):
    """As on a cluster: no server has all partitions."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, link=request.param(opener(redis_url)))
    yield process
    await process.dispatcher.aclose()
    await process.services.store.aclose()


async def begin(process: Process, *children: str, then: ThenTask | None = None) -> None:
    created = await process.store.batches.create(NewBatch("b", "scenes", then=then, owner="alice", priority=7))
    assert isinstance(created, Created)
    for child_id in children:
        await create(process, child_id)


async def create(process: Process, child_id: str, **change: Any) -> None:
    created = await process.store.create(replace(CHILD, id=child_id, owner="alice", **change))
    assert isinstance(created, Created)
    process.dispatcher.dispatch_granted(created.granted)


async def end(process: Process, task_id: str, state: State = State.COMPLETED, attempt: int | None = None) -> None:
    """A task ends, with all that follows from it."""
    outcome = await process.store.update(task_id, state=state, status=state.value, attempt=attempt)
    assert isinstance(outcome, Applied)
    await process.dispatcher.after_transition(outcome)
    await settled(process)


async def end_and_die(process: Process, task_id: str, state: State = State.COMPLETED) -> ChildEnd:
    """A task ends, and the process does, before anything else."""
    outcome = await process.steps.update(task_id, state=state, status=state.value)
    assert isinstance(outcome, Applied)
    return ChildEnd.of(outcome.task)


async def forget(process: Process, *ends: ChildEnd) -> None:
    """The children's part of Redis forgets ends of which the batch's has not heard."""
    for end in ends:
        await process.link.script("batch/acknowledge", tag_of(end.child_id), end.text)


async def settled(process: Process) -> None:
    """Wait for all that goes on in the background."""
    while going := [*process.dispatcher._background]:
        await asyncio.wait(going)


async def go_on(process: Process, clock: Clock, *, seconds: float = REPUBLISH_S, rounds: int = 4) -> None:
    """Let the reconciler of a process run."""
    for _ in range(rounds):
        clock.advance(seconds)
        await reconcile(process.services)
        await settled(process)


async def known(process: Process, task_id: str = "b") -> Task:
    task = await process.store.get(task_id)
    assert task
    return task


async def state(process: Process) -> BatchState:
    children = (await known(process)).children
    assert children
    return children


async def counts(process: Process) -> tuple[int, int, int, int]:
    found = await state(process)
    return found.total, found.completed, found.failed, found.cancelled


async def seal(process: Process) -> None:
    await follow(process, await process.store.batches.seal("b", None))


async def follow(process: Process, outcome: Outcome) -> None:
    await process.dispatcher.batches.go_on(outcome)
    await settled(process)


async def manifest(process: Process, then_id: str) -> Any:
    raw = await process.link.get(*key_of_body(then_id))
    assert raw
    return json.loads(raw)


def key_of_body(task_id: str) -> tuple[str, str]:
    return tag_of(task_id), f"{tag_of(task_id)}b:{task_id}"


async def test_a_child_that_was_registered_and_never_created_is_dropped(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await begin(process, "c1")
    await process.store.batches.register("b", "c2", "alice")
    await seal(process)
    await end(process, "c1")
    assert await counts(process) == (2, 1, 0, 0)
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=3)
    assert (await known(process)).state is State.COMPLETED
    assert await counts(process) == (1, 1, 0, 0)
    World(redis_server).assert_consistent()


async def test_children_that_exist_are_not_dropped_however_long_they_take(process: Process, clock: Clock) -> None:
    await process.queues.configure("/v1/a", {"paused": True})
    await begin(process, "c1", "c2")
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=5)
    assert ((await state(process)).seen, await counts(process)) == (2, (2, 0, 0, 0))
    await go_on(process, clock, seconds=LOOK_S, rounds=4)
    assert await counts(process) == (2, 0, 0, 0)


async def test_the_end_of_a_child_reaches_its_batch_if_the_process_dies_before(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await begin(process, "c1", "c2")
    await end(process, "c2")
    await seal(process)
    await end_and_die(process, "c1", State.FAILED)
    assert await counts(process) == (2, 1, 0, 0)
    await go_on(process, clock, rounds=1)
    assert (await known(process)).status == "failed - 1 of 2 failed"
    assert World(redis_server).ends == set()


async def test_the_end_of_a_child_counts_once_if_the_process_dies_before_it_is_acknowledged(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await begin(process, "c1", "c2")
    ended = await end_and_die(process, "c1")
    await process.store.batches.report("b", [ChildReport("c1", 1, State.COMPLETED)])
    assert World(redis_server).ends == {ended.text}
    await go_on(process, clock, rounds=2)
    assert (await counts(process), World(redis_server).ends) == ((2, 1, 0, 0), set())


async def test_an_end_that_was_lost_is_found_in_the_childs_record(process: Process, clock: Clock) -> None:
    """Redis fails over to a replica that lags: the batch's partition has lost what the child's has acknowledged."""
    await begin(process, "c1")
    await seal(process)
    await forget(process, await end_and_die(process, "c1"))
    await go_on(process, clock, seconds=LOOK_S, rounds=3)
    assert (await known(process)).state is State.COMPLETED


async def all_have_ended(process: Process) -> None:
    """The process dies with the last end, before it begins the Then task."""
    await process.store.batches.report("b", [ChildReport("c1", 1, State.COMPLETED)])


async def the_then_task_is_there(process: Process) -> None:
    """It dies before the Then task is in its queue, and the batch knows that it is there."""
    await all_have_ended(process)
    batch = await known(process)
    created = await process.store.create_unqueued(
        replace(CHILD, id=then_task_id("b", 1), path="/v1/then", owner="alice", priority=7)
    )
    assert isinstance(created, Created)
    assert batch.children
    assert not batch.children.then_exists


async def the_batch_knows_its_then_task(process: Process) -> None:
    """It dies before the Then task is in its queue."""
    await the_then_task_is_there(process)
    await process.store.batches.report("b", [ChildReport(then_task_id("b", 1), 1, "begun")])


@pytest.mark.parametrize("dies", [all_have_ended, the_then_task_is_there, the_batch_knows_its_then_task])
async def test_the_then_task_begins_once_wherever_a_process_dies_on_the_way(
    process: Process, clock: Clock, redis_server: Server, dies: Callable[[Process], Awaitable[None]]
) -> None:
    await begin(process, "c1", then=THEN)
    assert await process.backend_accepts_all() == ["c1"]
    await forget(process, await end_and_die(process, "c1"))
    await process.store.batches.seal("b", None)
    await dies(process)
    process.take_granted()
    process.published.attempts.clear()
    await go_on(process, clock)
    then_id = then_task_id("b", 1)
    accepted = [*await process.backend_accepts_all(), *process.published.task_ids]
    assert {*accepted} == {then_id}
    then = await known(process, then_id)
    assert (then.owner, then.priority, then.batch, then.path) == ("alice", 7, "b", "/v1/then")
    assert ((await state(process)).then_id, (await state(process)).then_exists) == (then_id, True)
    World(redis_server).assert_consistent()

    ended = await end_and_die(process, then_id)
    assert (await known(process)).state is State.RUNNING
    await go_on(process, clock, rounds=1)
    assert (await known(process)).state is State.COMPLETED
    assert ended.text not in World(redis_server).ends


async def test_the_then_task_gets_the_children_in_the_order_in_which_they_came(process: Process) -> None:
    await begin(process, "c2", "c1", then=THEN)
    await process.store.put_result("c1", Content("text/plain", 5), b"boxes", attempt=1)
    await end(process, "c1")
    await end(process, "c2", State.FAILED)
    await seal(process)
    assert await manifest(process, then_task_id("b", 1)) == {
        "BatchId": "b",
        "Name": "scenes",
        "Tasks": [
            {"TaskId": "c2", "State": "failed", "Status": "failed", "Result": None},
            {"TaskId": "c1", "State": "completed", "Status": "completed", "Result": "/api/v1/tasks/c1/result"},
        ],
    }
    assert process.published.task_ids[-1:] == [then_task_id("b", 1)]


async def test_a_child_that_was_removed_alone_has_the_members_of_all_others(process: Process) -> None:
    await begin(process, "c1", then=THEN)
    await end(process, "c1")
    assert await process.dispatcher.batches.remove("c1", owner=None) == "gone"
    await seal(process)
    document = await manifest(process, then_task_id("b", 1))
    assert document["Tasks"] == [{"TaskId": "c1", "State": "completed", "Status": None, "Result": None}]


async def test_a_then_task_goes_through_the_pipeline_that_it_names(process: Process) -> None:
    steps = tuple(PipelineStep(path, query, 60) for path, query in (("/v1/then", "x=1"), ("/v1/last", "")))
    await begin(process, then=ThenTask("/v1/whole?x=1", "/v1/whole", steps))
    await seal(process)
    then = await known(process, then_task_id("b", 1))
    assert (then.path, then.query, then.place, then.pipeline) == ("/v1/then", "x=1", Place(1, 2), "/v1/whole")
    await end(process, then.id)
    assert (await known(process)).state is State.RUNNING, "its pipeline has another step"
    await end(process, then.id, attempt=2)
    assert (await known(process)).state is State.COMPLETED


async def test_two_processes_at_once_begin_one_then_task(process: Process, clock: Clock) -> None:
    await begin(process, "c1", then=THEN)
    await process.store.batches.seal("b", None)
    await end_and_die(process, "c1")
    batch = (await process.store.batches.report("b", [ChildReport("c1", 1, State.COMPLETED)])).task
    assert batch
    await asyncio.gather(*(process.dispatcher.batches._begin_then(batch) for _ in range(5)))
    await settled(process)
    assert process.published.task_ids.count(then_task_id("b", 1)) == 1
    await go_on(process, clock, rounds=1)
    assert (await state(process)).then_tasks == 1


async def cancelled_alone(process: Process) -> None:
    await process.store.batches.cancel("b", None)


async def cancelled_in_part(process: Process) -> None:
    await cancelled_alone(process)
    assert isinstance(await process.steps.cancel("c1"), Applied)


@pytest.mark.parametrize("dies", [cancelled_alone, cancelled_in_part])
async def test_a_cancelled_batch_cancels_its_children_wherever_a_process_dies(
    process: Process, clock: Clock, redis_server: Server, dies: Callable[[Process], Awaitable[None]]
) -> None:
    await begin(process, "c1", "c2", "c3", then=THEN)
    await process.backend_accepts_all()
    await end(process, "c3")
    await process.store.batches.register("b", "late", "alice")
    await dies(process)
    await go_on(process, clock, rounds=1)
    assert await counts(process) == (4, 1, 0, 2)
    assert {(await known(process, child_id)).state for child_id in ("c1", "c2")} == {State.CANCELLED}
    created = await process.steps.create(replace(CHILD, id="late", owner="alice"))
    assert isinstance(created, Created), "it was on its way"
    await go_on(process, clock, rounds=2)
    assert (await known(process, "late")).state is State.CANCELLED
    assert (await state(process)).job is None
    assert await counts(process) == (4, 1, 0, 3)
    assert await process.store.get(then_task_id("b", 1)) is None
    held = (await process.queues.status("/v1/a")).holding
    assert held == 0
    World(redis_server).assert_consistent()


async def test_a_cancelled_batch_does_not_wait_for_a_child_that_never_comes(process: Process, clock: Clock) -> None:
    await begin(process)
    await process.store.batches.register("b", "late", "alice")
    await follow(process, await process.store.batches.cancel("b", None))
    assert (await state(process)).job == "cancel"
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=3)
    assert ((await state(process)).job, await counts(process)) == (None, (0, 0, 0, 0))


async def test_a_then_task_that_is_created_while_its_batch_is_cancelled_is_cancelled(
    process: Process, clock: Clock
) -> None:
    await begin(process, then=THEN)
    batch = (await process.store.batches.seal("b", None)).task
    await process.store.batches.cancel("b", None)
    assert batch
    await process.dispatcher.batches._begin_then(batch)
    assert (await known(process, then_task_id("b", 1))).state is State.CANCELLED
    await go_on(process, clock)
    assert (await known(process)).state is State.CANCELLED
    assert (await state(process)).job is None


async def opened(process: Process) -> None:
    await process.store.batches.replay("b", None)


async def marked(process: Process) -> None:
    await opened(process)
    await process.store.batches.mark_replays("b")


async def replayed_in_part(process: Process) -> None:
    await marked(process)
    assert isinstance(await process.steps.replay("c1", attempt=1), Applied)


async def replayed_and_failed_again(process: Process) -> None:
    """And nobody has told the batch."""
    await replayed_in_part(process)
    failed = await end_and_die(process, "c1", State.FAILED)
    await forget(process, failed, failed._replace(state=State.CREATED))


@pytest.mark.parametrize("dies", [opened, marked, replayed_in_part, replayed_and_failed_again])
async def test_a_replayed_batch_replays_each_failed_child_once_wherever_a_process_dies(
    process: Process, clock: Clock, redis_server: Server, dies: Callable[[Process], Awaitable[None]]
) -> None:
    await begin(process, "c1", "c2", "c3")
    await seal(process)
    await end(process, "c1", State.FAILED)
    await end(process, "c2", State.FAILED)
    await end(process, "c3")
    assert (await known(process)).state is State.FAILED
    await dies(process)
    await go_on(process, clock)
    assert [(await known(process, child_id)).attempt for child_id in ("c1", "c2", "c3")] == [2, 2, 1]
    again = dies is replayed_and_failed_again
    assert await counts(process) == (3, 1, again, 0)
    assert (await known(process)).state is State.RUNNING
    for child_id in ("c2",) if again else ("c1", "c2"):
        await end(process, child_id)
    task = await known(process)
    assert (task.state, task.status) == (
        (State.FAILED, "failed - 1 of 3 failed") if again else (State.COMPLETED, "completed")
    )
    World(redis_server).assert_consistent()


@pytest.mark.parametrize("dies", [opened, marked, replayed_in_part])
async def test_a_batch_is_cancelled_while_its_children_are_being_replayed(
    process: Process, clock: Clock, redis_server: Server, dies: Callable[[Process], Awaitable[None]]
) -> None:
    await begin(process, "c1", "c2")
    await seal(process)
    await end(process, "c1", State.FAILED)
    await end(process, "c2", State.FAILED)
    await dies(process)
    await follow(process, await process.store.batches.cancel("b", None))
    await go_on(process, clock)
    is_begun = dies is replayed_in_part
    assert await counts(process) == (2, 0, 2 - is_begun, is_begun)
    assert (await state(process)).job is None
    World(redis_server).assert_consistent()


async def test_a_replayed_batch_whose_failed_child_was_removed_ends_as_it_was(process: Process) -> None:
    await begin(process, "c1", "c2")
    await seal(process)
    await end(process, "c1", State.FAILED)
    await end(process, "c2", State.FAILED)
    assert await process.dispatcher.batches.remove("c1", owner=None) == "gone"
    await follow(process, await process.store.batches.replay("b", None))
    await end(process, "c2")
    assert (await known(process)).status == "failed - 1 of 2 failed"


async def erased_alone(process: Process) -> None:
    assert (await process.store.batches.erase(["b"]))["b"].what == "batch"


async def erased_in_part(process: Process) -> None:
    await erased_alone(process)
    assert (await process.store.batches.erase(["c1"], batch_id="b"))["c1"].what == "gone"


async def children_forgotten(process: Process) -> None:
    await erased_in_part(process)
    await process.store.batches.erase(["c2"], batch_id="b")
    await process.store.batches.forget("b", ["c1", "c2"])


@pytest.mark.parametrize("dies", [erased_alone, erased_in_part, children_forgotten])
async def test_a_batch_is_removed_with_all_that_belongs_to_it_wherever_a_process_dies(
    process: Process, clock: Clock, redis_server: Server, dies: Callable[[Process], Awaitable[None]]
) -> None:
    await begin(process, "c1", "c2", then=THEN)
    await seal(process)
    await end(process, "c1")
    await end(process, "c2")
    await end(process, then_task_id("b", 1))
    assert (await known(process)).state is State.COMPLETED
    await dies(process)
    assert await process.store.get("b") is None
    await go_on(process, clock, seconds=121, rounds=3)
    world = World(redis_server)
    assert (world.records, world.children, world.indexes, world.due_s) == ({}, {}, {}, {})


async def test_a_batch_is_removed_at_the_end_of_its_retention_with_its_children(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await begin(process, *(f"c{number}" for number in range(CHILDREN_AT_ONCE + 20)))
    for number in range(CHILDREN_AT_ONCE + 20):
        await end_and_die(process, f"c{number}")
    clock.advance(POLICY.retention_s - 60)
    await reconcile(process.services)
    await settled(process)
    await seal(process)
    assert (await known(process)).state is State.COMPLETED
    await go_on(process, clock, seconds=120, rounds=2)
    assert await process.store.get("c1"), "it would be past its own retention"
    clock.advance(POLICY.retention_s)
    await go_on(process, clock, rounds=2)
    world = World(redis_server)
    assert (world.records, world.children, world.due_s) == ({}, {}, {})


async def test_a_child_whose_batch_is_gone_is_removed_at_the_end_of_its_own_retention(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    """It was replayed after its batch had ended, and outlived it."""
    await begin(process, "c1")
    await seal(process)
    await end(process, "c1", State.FAILED)
    await process.store.replay("c1")
    assert await process.dispatcher.batches.remove("b", owner=None) == "batch"
    assert (await known(process, "c1")).state is State.CREATED
    await end(process, "c1")
    await go_on(process, clock, seconds=POLICY.retention_s, rounds=2)
    world = World(redis_server)
    assert (world.records, world.ends) == ({}, set())


async def test_blobs_that_could_not_be_deleted_are_deleted_later(
    process: Process, clock: Clock, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    is_down = True

    async def delete_all(task: Task) -> None:
        if is_down:
            raise BlobsUnavailable("down")
        deleted.append(task.id)

    monkeypatch.setattr(process.services.bodies, "delete_all", delete_all)
    await begin(process)
    for task_id, batch_id in (("alone", ""), ("child", "b")):
        await create(process, task_id, batch=batch_id, body=LARGE)
        await end(process, task_id)
    await seal(process)
    assert await process.dispatcher.batches.remove("alone", owner="alice") == "blobs"
    assert await process.dispatcher.batches.remove("b", owner="alice") == "batch"
    await settled(process)
    assert [await process.store.get(task_id) for task_id in ("alone", "child", "b")] == [None] * 3
    with pytest.raises(StoreUnavailable):
        await create(process, "alone", batch="")
    is_down = False
    await go_on(process, clock, seconds=121, rounds=1)
    assert {*deleted} == {"alone", "child"}
    assert World(redis_server).records == {}


async def test_a_child_is_removed_after_its_batch_has_heard_of_its_end(process: Process) -> None:
    await begin(process, "c1", "c2")
    await end_and_die(process, "c1", State.FAILED)
    assert await process.dispatcher.batches.remove("c1", owner="alice") == "gone"
    assert await counts(process) == (2, 0, 1, 0)


async def test_nothing_is_lost_while_the_batchs_part_of_redis_does_not_answer(
    process: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(process, "c1")
    await seal(process)
    script, combined = process.link.script, process.link.combined

    async def refusing(name: str, tag: str, *args: bytes | str) -> Any:
        if name == "batch/report":
            raise StoreUnavailable("down")
        return await script(name, tag, *args)

    async def refusing_combined(name: str, *args: bytes) -> Any:
        if name == "report_ends":
            raise StoreUnavailable("down")
        return await combined(name, *args)

    monkeypatch.setattr(process.link, "script", refusing)
    monkeypatch.setattr(process.link, "combined", refusing_combined)
    await end(process, "c1")
    assert await counts(process) == (1, 0, 0, 0)
    monkeypatch.setattr(process.link, "script", script)
    monkeypatch.setattr(process.link, "combined", combined)
    await go_on(process, clock, rounds=1)
    assert (await known(process)).state is State.COMPLETED


async def test_ends_of_the_same_moment_share_a_step(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(process, *(f"c{number}" for number in range(40)))
    steps = 0
    report_ends = process.store.batches.report_ends

    async def counting(batch_id: str, ends: Sequence[ChildEnd]) -> Outcome:
        nonlocal steps
        steps += 1
        return await report_ends(batch_id, ends)

    monkeypatch.setattr(process.store.batches, "report_ends", counting)
    await asyncio.gather(*(end(process, f"c{number}") for number in range(40)))
    assert await counts(process) == (40, 40, 0, 0)
    assert 0 < steps < 20
