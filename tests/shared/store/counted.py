"""What tests of the series do, and read."""

from __future__ import annotations

import redis

from shared.store.redis.partitions import tag_of
from shared.store.series import Bucket
from shared.store.store import TaskStore
from shared.tasks.outcomes import Applied, Claimed, Created, Granted
from shared.tasks.task import Content, NewTask, State, Task
from tests.shared.store.conftest import Clock
from tests.shared.store.fleet import PATH
from tests.shared.store.world import START_MS, Server, nodes

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DEFERRED_END_S = 60
FIRST_MINUTE_MS = START_MS - START_MS % MINUTE_MS


async def submit(store: TaskStore, task_id: str, path: str = PATH) -> Created:
    new = NewTask(task_id, path, 60, body=Content("text/plain", 2), inline_body=b"hi", dispatch_requested=True)
    created = await store.create(new)
    assert isinstance(created, Created)
    return created


async def claim(store: TaskStore, granted: Granted) -> Task:
    (grant,) = granted.grants
    claimed = await store.claim_granted(granted, grant)
    assert isinstance(claimed, Claimed)
    return claimed.task


async def run(store: TaskStore, task_id: str) -> Task:
    """Submit a task, have it dispatched and accepted."""
    await submit(store, task_id)
    claimed = await store.claim(task_id, 1)
    assert isinstance(claimed, Claimed)
    await store.accept(claimed.task)
    return claimed.task


async def end(store: TaskStore, task_id: str, state: State) -> Applied:
    outcome = await store.update(task_id, state=state, status=state.value)
    assert isinstance(outcome, Applied)
    return outcome


async def minutes(store: TaskStore, clock: Clock, count: int = 1, path: str = PATH) -> list[Bucket]:
    return await store.series.read(path, FIRST_MINUTE_MS, FIRST_MINUTE_MS + count * MINUTE_MS, MINUTE_MS, clock() + 1)


def counts(bucket: Bucket) -> dict[str, int]:
    assert bucket.counts is not None
    return {name: count for name, count in bucket.counts.items() if count}


def state_key(path: str = PATH) -> str:
    return f"{tag_of(path)}q:{path}"


def client_of(server: Server, path: str = PATH) -> redis.Redis:
    for node in nodes(server):
        client = redis.Redis(port=node.port)
        try:
            client.get(state_key(path))
        except redis.ResponseError:
            continue  # another node has this slot
        return client
    raise AssertionError
