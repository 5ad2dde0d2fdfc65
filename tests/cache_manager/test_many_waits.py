"""One wait for many tasks: what it tells, and how much of it at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cache_manager.many_waits import MOST_STATUS_CHARS, ManyWaits, News
from cache_manager.task_service import TaskService
from local.redis_server import RedisCluster, RedisServer
from shared.resilience.waits import Waits
from shared.store import RedisLink, TaskStore
from shared.tasks.outcomes import Created
from shared.tasks.task import NewTask, State, Task
from tests.shared.store.conftest import opener
from tests.shared.store.policies import store_policy

PATH = "/v1/org/model"


class Limits:
    """Counts the waits of a process."""

    def __init__(self) -> None:
        self.waits = Waits(10)
        self.begun = 0

    @asynccontextmanager
    async def wait(self, client: str, seconds: float) -> AsyncGenerator[Any]:
        self.begun += 1
        async with self.waits.hold(client, seconds) as wait:
            yield wait


@pytest.fixture
async def store(redis_server: RedisServer | RedisCluster) -> AsyncGenerator[TaskStore]:
    redis_server.flush()
    store = TaskStore(RedisLink(opener(redis_server.url)), store_policy())
    yield store
    await store.aclose()


def waits_of(store: TaskStore, owner: str | None = None) -> tuple[ManyWaits, Limits]:
    limits = Limits()
    return ManyWaits(TaskService(cast("Any", SimpleNamespace(store=store, limits=limits)), owner)), limits


async def kept(store: TaskStore, task_id: str, owner: str = "", status: str = "created") -> Task:
    created = await store.create(NewTask(task_id, PATH, 60, status=status, dispatch_requested=False, owner=owner))
    assert isinstance(created, Created)
    return created.task


def of_length(chars: int) -> Task:
    return cast("Task", SimpleNamespace(status="x" * chars))


def test_an_answer_has_status_texts_up_to_a_length_and_at_least_one() -> None:
    news = News()
    news.add("a", of_length(2 * MOST_STATUS_CHARS))
    news.add("b", of_length(1))
    assert [*news.tasks] == ["a"]
    news = News()
    for number in range(5):
        news.add(str(number), of_length(MOST_STATUS_CHARS // 3))
    news.add("gone", None)
    assert [*news.tasks] == ["0", "1", "2", "gone"]


async def test_two_hundred_tasks_are_one_wait(store: TaskStore) -> None:
    ids = [f"t{number}" for number in range(200)]
    tasks = {task_id: await kept(store, task_id) for task_id in ids}
    waits, limits = waits_of(store)
    known = {task_id: task.etag for task_id, task in tasks.items()}
    news = await waits.wait(ids, known, 0.2, for_any=True)
    assert (news.tasks, news.is_cut, limits.begun) == ({}, False, 1)
    await store.update("t150", state=State.RUNNING, status="on it")
    news = await waits.wait(ids, known, 60, for_any=True)
    assert ([*news.tasks], limits.begun) == (["t150"], 1)  # told before any wait


async def test_nothing_is_told_of_what_another_owner_has(store: TaskStore) -> None:
    await kept(store, "ada-s", owner="ada")
    await kept(store, "bob-s", owner="bob")
    await store.update("ada-s", state=State.COMPLETED, status="done")
    waits, limits = waits_of(store, "bob")
    for for_any in (True, False):
        news = await waits.wait(["ada-s", "unheard-of"], {"ada-s": "x"}, 60, for_any=for_any)
        assert (news.tasks, limits.begun) == ({"ada-s": None, "unheard-of": None}, 0)


async def test_a_wait_for_all_waits_though_one_has_ended(store: TaskStore) -> None:
    for task_id in ("a", "b"):
        await kept(store, task_id)
    await store.update("a", state=State.COMPLETED, status="done")
    waits, limits = waits_of(store)
    news = await waits.wait(["a", "b"], {}, 0.2, for_any=False)
    assert ([*news.tasks], limits.begun) == (["a"], 1)
    assert [*(await waits.wait(["a", "b"], {}, 60, for_any=True)).tasks] == ["a"]
    assert limits.begun == 1


async def test_a_heartbeat_is_told_by_the_etag_alone(store: TaskStore) -> None:
    task = await kept(store, "a")
    await store.heartbeat("a", progress=None, status=None, attempt=None)
    waits, _ = waits_of(store)
    assert not (await waits.wait(["a"], {}, 0.1, for_any=True)).tasks
    found = await store.get("a")
    assert found is not None
    assert ([*(await waits.wait(["a"], {"a": task.etag}, 0.1, for_any=True)).tasks] == ["a"]) == (
        found.etag != task.etag
    )
