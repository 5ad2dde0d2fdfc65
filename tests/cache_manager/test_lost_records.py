"""Records are gone that nobody removed: an operator deleted them, or Redis evicted them. What is left of their tasks
goes by itself. One server, and several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cache_manager.reconciler import reconcile
from shared.store import RedisLink, then_task_id
from shared.store.batch_steps import LOOK_S, REGISTRATION_GRACE_S
from shared.store.queries import Depth, Listing
from shared.tasks.callback import ENDS, WantedCallback
from shared.tasks.outcomes import Applied, SlotGrant
from shared.tasks.task import Content, NewBatch, NewTask, PipelineStep, State, ThenTask
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.cache_manager.test_batches import LinkToSeveralServers, go_on, seal, settled, state
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, World, nodes

PATH = "/v1/test"
TASK = NewTask("t", PATH, lease_s=60, body=Content("text/plain", 2), inline_body=b"hi")


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, link=request.param(opener(redis_url)))
    yield process
    await process.dispatcher.aclose()
    await process.services.store.aclose()


def lose(server: Server, *task_ids: str, kind: str = "t") -> None:
    for node in nodes(server):
        with node.connect() as client:
            for key in client.scan_iter(f"*}}{kind}:*"):
                name = key.decode() if isinstance(key, bytes) else key
                if name.partition(":")[2] in task_ids:
                    client.delete(name)


async def cancel(process: Process, task_id: str) -> None:
    outcome = await process.store.cancel(task_id)
    assert isinstance(outcome, Applied)
    await process.dispatcher.after_transition(outcome)
    await settled(process)


async def waiting(process: Process, count: int) -> list[str]:
    await process.queues.configure(PATH, {"paused": True})
    ids = [f"t{number}" for number in range(count)]
    for task_id in ids:
        await process.store.create(replace(TASK, id=task_id, owner=f"owner{len(task_id)}"))
    return ids


@pytest.mark.parametrize("count", [4, 400])
async def test_what_is_left_of_waiting_tasks_goes_within_a_round(
    process: Process, redis_server: Server, count: int
) -> None:
    ids = await waiting(process, count)
    lose(redis_server, *ids[: count - 1])
    await reconcile(process.services)
    await reconcile(process.services)
    assert await process.queues.depths() == {PATH: Depth(created=1)}
    assert (await process.queues.status(PATH)).waiting == 1
    World(redis_server).assert_consistent()
    lose(redis_server, ids[-1])
    await reconcile(process.services)
    assert await process.queues.depths() == {}
    assert (await process.queues.status(PATH)).waiting == 0
    World(redis_server).assert_consistent()


async def test_nobody_is_to_be_told_of_a_task_that_was_lost(process: Process, redis_server: Server) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await process.store.create(replace(TASK, callback=WantedCallback("hook", ENDS)))
    lose(redis_server, TASK.id)
    await reconcile(process.services)
    await reconcile(process.services)
    World(redis_server).assert_consistent()


async def test_a_few_lost_among_many_are_found_in_time(process: Process, redis_server: Server) -> None:
    """Each round looks at some entries, drawn by chance."""
    ids = await waiting(process, 1000)
    lose(redis_server, *ids[::100])
    for _ in range(400):
        await reconcile(process.services)
        if (await process.queues.status(PATH)).waiting == 990:
            break
    assert await process.queues.depths() == {PATH: Depth(created=990)}
    World(redis_server).assert_consistent()


@pytest.mark.parametrize("came_to", ["created", *(State.DISPATCHED, State.RUNNING, State.COMPLETED)])
async def test_what_is_left_of_a_task_goes_whatever_its_state_was(
    process: Process, clock: Clock, redis_server: Server, came_to: str
) -> None:
    await process.store.create(TASK)
    if came_to != "created":
        await process.store.claim("t", 1)
    if came_to in (State.RUNNING, State.COMPLETED):
        await process.store.update("t", state=State(came_to), status=came_to, attempt=1)
    lose(redis_server, "t")
    clock.advance(2 * REPUBLISH_S)
    await reconcile(process.services)
    await reconcile(process.services)
    assert await process.queues.depths() == {}
    status = await process.queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 0)
    World(redis_server).assert_consistent()


async def test_a_task_that_is_created_again_is_only_where_it_is_now(process: Process, redis_server: Server) -> None:
    await process.store.create(TASK)
    await process.store.claim("t", 1)
    await process.store.update("t", state=State.RUNNING, status="running", attempt=1)
    lose(redis_server, "t")
    await process.store.create(TASK)
    assert await process.queues.depths() == {PATH: Depth(created=1)}
    World(redis_server).assert_consistent()


async def test_the_check_of_slots_removes_what_it_meets(process: Process, redis_server: Server) -> None:
    await process.store.create(TASK)
    lose(redis_server, "t")
    upkeep = process.queues._upkeep
    assert [each.what for each in await upkeep.check_slots(PATH, [("t", 1)])] == ["gone"]
    assert World(redis_server).indexes == {}


async def test_a_waiting_task_that_is_swept_leaves_no_entry(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await waiting(process, 4)
    lose(redis_server, "t0", "t1", "t2", "t3")
    clock.advance(10 * REPUBLISH_S)
    await reconcile(process.services)
    assert (await process.queues.status(PATH)).waiting == 0
    World(redis_server).assert_consistent()


async def test_an_entry_of_a_task_that_waits_elsewhere_goes_and_others_stay(process: Process) -> None:
    await waiting(process, 2)
    task = await process.store.get("t0")
    assert task
    stale = SlotGrant("t0", 7)
    assert await process.queues._upkeep.idle_entries(PATH, [SlotGrant.of(task), stale, SlotGrant("t1", 1)]) == [stale]
    assert await process.queues._upkeep.idle_entries("/v1/other", [SlotGrant.of(task)]) == [SlotGrant.of(task)]


async def test_a_batch_waits_for_no_child_that_is_lost(process: Process, clock: Clock, redis_server: Server) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await process.store.batches.create(NewBatch("b", "scenes", owner="alice"))
    for child in ("c1", "c2"):
        await process.store.create(replace(TASK, id=child, batch="b", owner="alice"))
    await seal(process)
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=4)
    await cancel(process, "c1")
    assert (await state(process)).total == 2
    lose(redis_server, "c2")
    await go_on(process, clock, seconds=LOOK_S, rounds=2)
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=4)
    batch = await process.store.get("b")
    assert batch
    assert batch.state.is_terminal


async def test_a_batch_does_not_wait_for_a_then_task_that_is_lost(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    then = ThenTask(PATH, "", (PipelineStep(PATH, "", 600),))
    await process.store.batches.create(NewBatch("b", "scenes", then=then, owner="alice"))
    await process.store.create(replace(TASK, id="c1", batch="b", owner="alice"))
    await seal(process)
    await cancel(process, "c1")
    await go_on(process, clock, seconds=REGISTRATION_GRACE_S, rounds=4)
    assert (await state(process)).then_exists
    lose(redis_server, then_task_id("b", 1))
    await go_on(process, clock, seconds=LOOK_S, rounds=2)
    batch = await process.store.get("b")
    assert batch
    assert batch.state is State.FAILED


async def test_a_list_without_a_path_has_the_tasks_of_paths_where_all_have_ended(process: Process) -> None:
    await process.store.create(TASK)
    await process.store.cancel("t")
    await reconcile(process.services)
    page = await process.store.page(Listing(10))
    assert [task.id for task in page.tasks] == ["t"]
