"""With ``DURABILITY`` and without the acknowledgement: the client hears 503, and the work goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from local.redis_server import RedisServer
from shared.tasks.outcomes import Created
from shared.tasks.task import NewTask, State
from tests.scripted_backend import ScriptedBackend
from tests.test_walks import PATH, App
from tests.waiting import PATIENCE_S


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture
def environment(tmp_path: Path, backend: ScriptedBackend) -> Iterator[dict[str, str]]:
    """A server without a replica, and a backend of one slot."""
    with RedisServer(tmp_path / "redis") as server:
        yield {
            "REDIS_CONNECTION_STRING": server.url,
            "EVENT_GRID_TOPIC_URI": f"{backend.url}/api/events",
            "EVENT_GRID_KEY": "the-key-of-the-topic",
            "BACKENDS": json.dumps({"/v1/walk": {"url": backend.url, "limit": 1}}),
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "RECONCILER_INTERVAL_S": "3600",
        }


@pytest.fixture
async def plain(environment: dict[str, str]) -> AsyncIterator[App]:
    app = App(environment)
    yield app
    await app.services.current().aclose()


@pytest.fixture
async def durable(environment: dict[str, str]) -> AsyncIterator[App]:
    app = App({**environment, "DURABILITY": "replica"})
    yield app
    await app.services.current().aclose()


async def next_task(backend: ScriptedBackend) -> str | None:
    return (await asyncio.to_thread(backend.next_call, PATH)).task_id


async def test_after_an_unacknowledged_completion_the_next_task_is_dispatched(
    plain: App, durable: App, backend: ScriptedBackend
) -> None:
    first, second = await plain.submit(), await plain.submit()
    await plain.deliver(first, "accepted")
    assert await next_task(backend) == first
    assert await durable.report(first, "completed") == 503
    assert await next_task(backend) == second
    assert await plain.state(first) == "completed"


async def test_after_an_unacknowledged_cancel_the_next_task_is_dispatched(
    plain: App, durable: App, backend: ScriptedBackend
) -> None:
    first, second = await plain.submit(), await plain.submit()
    await plain.deliver(first, "accepted")
    assert await next_task(backend) == first
    status, _ = await durable.call("CancelTask", id=first)
    assert status == 503
    assert await next_task(backend) == second


async def test_a_task_whose_submit_was_not_acknowledged_is_dispatched(durable: App, backend: ScriptedBackend) -> None:
    status, problem = await durable.call("SubmitTask", "a body", path=PATH.removeprefix("/"))
    assert (status, problem["type"]) == (503, "urn:task-backbone:problem:unavailable")
    assert await next_task(backend)


async def test_what_an_unacknowledged_setting_of_a_queue_grants_is_dispatched(
    plain: App, durable: App, backend: ScriptedBackend
) -> None:
    path = PATH.removeprefix("/")
    status, _ = await plain.call("ConfigureQueue", {"Paused": True}, path=path)
    assert status == 200
    task = await plain.submit()
    status, _ = await durable.call("ConfigureQueue", {"Paused": False}, path=path)
    assert status == 503
    assert await next_task(backend) == task


async def test_after_an_unacknowledged_cancel_of_a_batch_its_children_are_cancelled(plain: App, durable: App) -> None:
    _, batch = await plain.call("CreateBatch", {})
    store = plain.services.current().store
    created = await store.create(NewTask("child", PATH, 60, batch=batch["TaskId"]))
    assert isinstance(created, Created)
    status, _ = await durable.call("CancelTask", id=batch["TaskId"])
    assert status == 503
    async with asyncio.timeout(PATIENCE_S):
        ended = await store.wait(created.task, lambda task: task.state.is_terminal)
    assert ended is not None
    assert ended.state is State.CANCELLED
