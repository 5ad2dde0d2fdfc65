"""What the reports of legacy model services mean to queues and leases, in a process of the app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from cache_manager.schemas import Heartbeat, TaskUpsert
from cache_manager.task_service import TaskService
from shared.store.redis.partitions import PARTITIONS
from shared.tasks.task import Content, NewTask, State, Task
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock
from tests.shared.store.world import Server, World
from tests.waiting import eventually

PATH = "/v1/a"
LEASE_S = 60


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.services.store.aclose()


async def submit(process: Process, *task_ids: str) -> None:
    for task_id in task_ids:
        new = NewTask(task_id, PATH, LEASE_S, body=Content("text/plain", 2), inline_body=b"hi")
        process.dispatcher.dispatch_granted((await process.store.create(new)).granted)


async def report(process: Process, task_id: str, **members: Any) -> Task:
    """What ``CacheConnectorUpsert`` answers to a report."""
    request = TaskUpsert.model_validate({"TaskId": task_id, "BackendStatus": "running", **members})
    answer = await TaskService(process.services).upsert(request)
    assert isinstance(answer, Task), answer
    return answer


async def known(process: Process, task_id: str) -> Task:
    task = await process.store.get(task_id)
    assert task
    return task


async def held(process: Process) -> int:
    return (await process.queues.status(PATH)).holding


@pytest.fixture
async def limited(process: Process, clock: Clock) -> Process:
    """A process whose backend holds one task at a time, t1, while t2 waits."""
    await process.queues.configure(PATH, {"limit": 1})
    await submit(process, "t1", "t2")
    assert await process.backend_accepts_all() == ["t1"]
    await report(process, "t1", Status="running model")
    clock.advance(1)
    return process


async def test_an_end_that_the_text_tells_grants_its_slot_at_once(limited: Process, clock: Clock) -> None:
    await report(limited, "t1", Status="completed - see here")
    assert await limited.backend_accepts_all() == ["t2"], "the service is done with t1"
    assert (await known(limited, "t1")).state is State.RUNNING
    assert await held(limited) == 1
    clock.advance(30)
    await reconcile(limited.services)
    assert (await known(limited, "t1")).state is State.COMPLETED
    assert await held(limited) == 1, "the end grants no second slot"


async def test_a_told_end_that_is_taken_back_holds_its_slot_again(limited: Process, clock: Clock) -> None:
    await report(limited, "t1", Status="completed - 3 of 10")
    assert await held(limited) == 1
    await report(limited, "t1", Status="running - 4 of 10")
    assert await held(limited) == 2, "the backend is known to hold both"
    await report(limited, "t1", BackendStatus="completed", Status="completed")
    assert await held(limited) == 1
    clock.advance(30)
    await reconcile(limited.services)
    assert (await known(limited, "t1")).state is State.COMPLETED


async def test_a_heartbeat_or_a_result_takes_a_told_end_back(limited: Process, clock: Clock) -> None:
    service = TaskService(limited.services)
    for take_back in (
        lambda: service.heartbeat("t1", None, Heartbeat()),
        lambda: service.put_result("t1", None, "text/plain", b"ok"),
    ):
        await report(limited, "t1", Status="completed - 3 of 10")
        await take_back()
        assert await held(limited) == 2
        clock.advance(31)
        await reconcile(limited.services)
        assert (await known(limited, "t1")).state is State.RUNNING


async def test_a_told_end_of_a_waiting_task_leaves_its_queue(limited: Process, clock: Clock) -> None:
    await report(limited, "t2", Status="completed - by an earlier run")
    assert (await limited.queues.status(PATH)).waiting == 0
    clock.advance(30)
    await reconcile(limited.services)
    assert (await known(limited, "t2")).state is State.COMPLETED


async def test_the_slot_of_a_step_that_was_not_heard_of_stays_until_its_end_takes_effect(
    limited: Process, clock: Clock
) -> None:
    await report(limited, "t1", BackendStatus="completed")
    assert await limited.backend_accepts_all() == ["t2"]
    await report(limited, "t2", Endpoint=f"https://models.example.org{PATH}", PublishToGrid=True, Body="ho")
    limited.published.attempts.clear()
    claimed = await limited.store.claim("t2", 2)
    assert claimed.task
    await limited.store.accept(claimed.task)
    assert (await report(limited, "t2", BackendStatus="completed", Status="done")).state is State.DISPATCHED
    assert await held(limited) == 1, "it may be the previous step's report"
    clock.advance(30)
    await reconcile(limited.services)
    assert (await known(limited, "t2")).state is State.COMPLETED
    assert await held(limited) == 0


async def test_a_told_end_with_an_attempt_tells_none(limited: Process, clock: Clock) -> None:
    await report(limited, "t1", Status="completed - 3 of 10", Attempt=1)
    assert await limited.backend_accepts_all() == []
    clock.advance(30)
    await reconcile(limited.services)
    assert (await known(limited, "t1")).state is State.RUNNING


@pytest.mark.parametrize("said", ["nothing", "an attempt", "a heartbeat", "a result with its attempt"])
async def test_a_service_that_was_ever_heard_of_with_its_attempt_or_a_heartbeat_keeps_the_plain_lease(
    process: Process, clock: Clock, redis_server: Server, said: str
) -> None:
    await submit(process, "t1", "t2")
    await process.backend_accepts_all()
    service = TaskService(process.services)
    if said == "an attempt":
        await report(process, "t1", Attempt=1)
    elif said == "a heartbeat":
        await service.heartbeat("t1", None, Heartbeat())
    elif said == "a result with its attempt":
        await service.put_result("t1", 1, "text/plain", b"ok")
    noted = {} if said == "nothing" else {PATH: PARTITIONS}
    await asyncio.to_thread(eventually, lambda: _noted(redis_server) == noted)  # no report waits for it

    await report(process, "t1", BackendStatus="completed", Status="done")
    clock.advance(LEASE_S)
    await reconcile(process.services)
    clock.advance(1)
    assert await process.backend_accepts_all() == ["t2"]
    clock.advance(LEASE_S)
    await reconcile(process.services)
    state = State.DISPATCHED if said == "nothing" else State.CREATED
    assert (await known(process, "t2")).state is state


def _noted(server: Server) -> dict[str, int]:
    """In how many partitions each path is noted."""
    paths = [path for noted in World(server).fenced.values() for path in noted]
    return {path: paths.count(path) for path in paths}


async def test_a_report_that_is_refused_says_nothing_of_the_service(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await submit(process, "t1")
    await process.backend_accepts_all()
    request = TaskUpsert.model_validate({"TaskId": "t1", "BackendStatus": "running", "Attempt": 7})
    await TaskService(process.services).upsert(request)
    await report(process, "t1", Status="running")
    assert _noted(redis_server) == {}
