"""A process of the app dies between two steps on the way to a pipeline's next step: the reconciler of another one
takes those that are left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from shared.store import RedisLink
from shared.store.redis.partitions import partition
from shared.store.upkeep_steps import STEP_GRACE_S, UpkeepSteps
from shared.tasks.outcomes import Applied, SlotGrant
from shared.tasks.task import Content, NewTask, PipelineStep, Place, State, Task
from tests.cache_manager.process import POLICY, REPUBLISH_S, Process
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, World

STEPS = (PipelineStep("/v1/a", "", 600), PipelineStep("/v1/b", "", 600))
RESULT = Content("text/plain", 5)


class LinkToSeveralServers(RedisLink):
    """As on a cluster: no server has all partitions."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    """A process whose backends hold one task each: t1 is in the first step of its pipeline, and t2 waits there."""
    process = Process.start(redis_url, clock, link=request.param(opener(redis_url)))
    for path in ("/v1/a", "/v1/b"):
        await process.queues.configure(path, {"limit": 1})
    for task_id in ("t1", "t2"):
        new = NewTask(task_id, "/v1/a", 600, body=Content("text/plain", 2), inline_body=b"hi")
        new = replace(new, steps=STEPS) if task_id == "t1" else new
        process.dispatcher.dispatch_granted((await process.store.create(new)).granted)
    assert await process.backend_accepts_all() == ["t1"]
    yield process
    await process.services.store.aclose()


async def known(process: Process, task_id: str = "t1") -> Task:
    task = await process.store.get(task_id)
    assert task
    return task


async def complete(process: Process) -> Applied:
    outcome = await process.steps.put_result("t1", RESULT, b"boxes", attempt=1, completed="done")
    assert isinstance(outcome, Applied)
    return outcome


async def dies_after_the_task(process: Process) -> None:
    await complete(process)


async def dies_after_the_release(process: Process) -> None:
    await complete(process)
    await process.queue_steps.release("/v1/a", SlotGrant("t1", 1), "")


async def dies_before_it_dispatches(process: Process) -> None:
    await process.store.put_result("t1", RESULT, b"boxes", attempt=1, completed="done")


async def dies_after_the_sweep(process: Process) -> None:
    """The end that a text tells takes effect, and the sweep that found it goes no further."""
    told = {"told": State.COMPLETED, "status": "completed"}
    await process.store.put_result("t1", RESULT, b"boxes", attempt=1)
    process.dispatcher.dispatch_granted((await process.steps.update("t1", state=State.RUNNING, **told)).granted)
    now_ms = process.services.now_ms
    assert isinstance(now_ms, Clock)
    now_ms.advance(30)
    overdue = await UpkeepSteps(process.link, POLICY, now_ms).sweep(partition("t1"), {})
    assert ("t1", "next step") in [(item.id, item.what) for item in overdue]
    now_ms.advance(STEP_GRACE_S)


Death = Callable[[Process], Awaitable[None]]


@pytest.mark.parametrize(
    "dies", [dies_after_the_task, dies_after_the_release, dies_before_it_dispatches, dies_after_the_sweep]
)
async def test_the_next_step_begins_once_wherever_a_process_dies_on_the_way(
    process: Process, clock: Clock, redis_server: Server, dies: Death
) -> None:
    await dies(process)
    process.dispatcher.granted.clear()
    accepted: list[str] = []
    for _ in range(4):
        clock.advance(REPUBLISH_S)
        await reconcile(process.services)
        accepted += await process.backend_accepts_all()
    assert sorted(accepted) == ["t1", "t2"], "the slot at the first step went to the next task"
    task = await known(process)
    assert (task.path, task.place, task.state) == ("/v1/b", Place(2, 2), State.DISPATCHED)
    assert task.body == RESULT
    assert [event.path for event in task.history if event.state is State.DISPATCHED] == ["/v1/a", "/v1/b"]
    World(redis_server).assert_consistent()
    held = {path: (await process.queues.status(path)).holding for path in ("/v1/a", "/v1/b")}
    assert held == {"/v1/a": 1, "/v1/b": 1}


async def test_the_end_of_a_step_grants_the_slots_at_both_endpoints(process: Process) -> None:
    outcome = await process.store.put_result("t1", RESULT, b"boxes", attempt=1, completed="done")
    grants = [(each.path, grant.task_id) for each in outcome.granted for grant in each.grants]
    assert grants == [("/v1/a", "t2"), ("/v1/b", "t1")]
    assert (await process.queues.status("/v1/a")).position is None
    process.dispatcher.dispatch_granted(outcome.granted)
    assert await process.backend_accepts_all() == ["t2", "t1"]


async def test_a_sweep_lets_a_deferred_end_lead_on_and_dispatches_the_next_step(
    process: Process, clock: Clock
) -> None:
    await process.store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    clock.advance(30)
    await reconcile(process.services)
    assert "t1" in await process.backend_accepts_all()
    task = await known(process)
    assert (task.path, task.state, task.status) == ("/v1/b", State.DISPATCHED, "created")
