from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cache_manager.reconciler import reconcile
from shared.task_id import new_task_id
from shared.task_store import Grant, NewTask, StoreUnavailable, TaskStore, Turn
from shared.task_store.packing import partition
from shared.task_store.store import Overdue
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.shared.task_store.conftest import Clock

PATH = "/v1/test"
AWAY = 3


class StoreWithANodeAway(TaskStore):
    """As when the node of a cluster that has the partition ``AWAY`` does not answer."""

    async def sweep(self, index: int) -> list[Overdue]:
        if index == AWAY:
            raise StoreUnavailable("ConnectionError")
        return await super().sweep(index)


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


async def test_while_a_node_of_the_cluster_is_away_the_overdue_tasks_of_the_others_are_offered_to_their_queue(
    redis_url: str, clock: Clock
) -> None:
    process = Process.start(redis_url, clock, store_type=StoreWithANodeAway)
    await process.queues.configure(PATH, {"paused": True})
    task_ids = {new_task_id() for _ in range(64)}
    for task_id in task_ids:
        await process.store.create(NewTask(task_id, PATH, lease_s=60))
    clock.advance(REPUBLISH_S)

    with pytest.raises(StoreUnavailable):
        await reconcile(process.services)

    assert (await process.queues.status(PATH)).waiting == sum(partition(task_id) != AWAY for task_id in task_ids)
    await process.link.aclose()


async def test_what_was_granted_and_never_claimed_is_published_again_and_given_up_at_last(
    process: Process, clock: Clock
) -> None:
    await process.store.create(NewTask("t1", PATH, lease_s=60))
    taken = await process.queues.offer([Turn(PATH, Grant("t1", 1), "", 0, 5)])
    assert taken.grants == [Grant("t1", 1)]
    published: list[str] = []
    while (await process.queues.status(PATH)).holding:
        clock.advance(2 * REPUBLISH_S)
        await reconcile(process.services)
        published += process.published.task_ids
        process.published.task_ids.clear()
    task = await process.store.get("t1")
    assert task
    assert (task.state, task.status) == ("failed", "Failed - unable to send to backend service.")
    assert published == ["t1", "t1"]
