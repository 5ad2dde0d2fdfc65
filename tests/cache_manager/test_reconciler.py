from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cache_manager.reconciler import reconcile
from shared.events import Topic
from shared.services import Services
from shared.settings import Settings
from shared.task import Task
from shared.task_id import new_task_id
from shared.task_store import NewTask, StorePolicy, StoreUnavailable, TaskStore
from shared.task_store.store import Overdue, partition
from tests.shared.task_store.conftest import Clock, opener

AWAY = 3
REPUBLISH_S = 30


class StoreWithANodeAway(TaskStore):
    """As when the node of a cluster that has the partition ``AWAY`` does not answer."""

    async def sweep(self, index: int) -> list[Overdue]:
        if index == AWAY:
            raise StoreUnavailable("ConnectionError")
        return await super().sweep(index)


class Published(Topic):
    """Takes all events, and keeps of which tasks they speak."""

    def __init__(self) -> None:
        super().__init__("https://topic.example.org/api/events", None)
        self.task_ids: set[str] = set()

    async def publish(self, tasks: Sequence[Task], *, insist: bool = False) -> None:
        self.task_ids |= {task.id for task in tasks}


async def test_while_a_node_of_the_cluster_is_away_the_overdue_tasks_of_the_others_are_published(
    redis_url: str,
) -> None:
    clock, published = Clock(), Published()
    store = StoreWithANodeAway(opener(redis_url), StorePolicy(republish_s=REPUBLISH_S), clock)
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": redis_url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
        }
    )
    services = replace(Services.of(settings), store=store, events=published)
    task_ids = {new_task_id() for _ in range(64)}
    for task_id in task_ids:
        await store.create(NewTask(task_id, "/v1/test", lease_s=60))
    clock.advance(REPUBLISH_S)

    with pytest.raises(StoreUnavailable):
        await reconcile(services)

    assert published.task_ids == {task_id for task_id in task_ids if partition(task_id) != AWAY}
    await store.aclose()
