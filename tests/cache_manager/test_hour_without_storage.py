"""An hour in which Blob Storage does not answer, in simulated time. The leases of timers lie there, so none runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from bench.simulation import START_MS, SteppingLink, now_s, simulate
from cache_manager.reconciler import keep_reconciling
from local.redis_server import RedisServer
from shared.bodies import BlobsUnavailable
from shared.services import Services
from shared.settings import Settings
from shared.store.upkeep_steps import BLOB_GRACE_S
from shared.store.uploads import UPLOAD_GRACE_S
from shared.tasks.task import Content, NewTask, Task
from shared.tasks.uploads import NewUpload

PATH = "/v1/test"
HOUR_S = 3600.0
INTERVAL_S = 5.0
REPUBLISH_S = 7.0
RETENTION_S = 60.0
BLOB_TIMEOUT_S = 20.0
TASKS = 60
LOOK_S = 0.25
SLACK_S = 2 * LOOK_S

pytestmark = pytest.mark.slow


class Storage:
    """Blob Storage as two processes see it. While it is away a call hangs until the client gives up."""

    def __init__(self) -> None:
        self.is_away = True
        self.hangs = 0
        self.most_hangs = 0
        self.removed: set[str] = set()

    async def delete_all(self, task: Task) -> None:
        await self.delete(task.id)

    async def delete(self, name: str) -> None:
        if self.is_away:
            self.hangs += 1
            self.most_hangs = max(self.most_hangs, self.hangs)
            await asyncio.sleep(BLOB_TIMEOUT_S)
            self.hangs -= 1
            raise BlobsUnavailable("timed out")
        self.removed.add(name)


def process(client: redis.Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Services:
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": "redis://simulated.example.org:6379",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "RECONCILER_INTERVAL_S": str(INTERVAL_S),
            "REPUBLISH_S": str(REPUBLISH_S),
            "RETENTION_S": str(RETENTION_S),
        }
    )
    services = Services.compose(settings, link=SteppingLink(client), now_ms=lambda: START_MS + round(now_s() * 1000))
    monkeypatch.setattr(services.bodies, "delete_all", storage.delete_all)
    monkeypatch.setattr(services.bodies, "delete", storage.delete)
    return services


def test_what_is_overdue_is_taken_up_within_two_intervals_and_blobs_are_removed_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    delays_s: list[float] = []

    async def hour(client: redis.Redis) -> None:
        first, second = (process(client, storage, monkeypatch) for _ in range(2))
        rounds = [each.run_beside(keep_reconciling(each)) for each in (first, second)]
        store = second.store
        await store.queues.configure(PATH, {"paused": True})
        for number in range(TASKS):
            if number == TASKS // 2:
                assert not await second.store.rounds.begin(), "the first process has the rounds"
                rounds[0].cancel()
            await asyncio.sleep(number * HOUR_S / TASKS - now_s())
            large = Content("text/plain", 100_000, f"old{number}/blob")
            await store.create_unqueued(NewTask(f"old{number}", "/v1/ended", lease_s=60, body=large))
            await store.cancel(f"old{number}")
            await store.uploads.create(NewUpload(f"up{number}", f"u-{number}", 1, "a/b"), valid_s=1)
            await store.create_unqueued(NewTask(f"new{number}", PATH, lease_s=60))
            due_s = now_s() + REPUBLISH_S
            while (await store.queues.status(PATH)).waiting == number:  # noqa: ASYNC110 (the time is simulated)
                await asyncio.sleep(LOOK_S)
            delays_s.append(now_s() - due_s)
        await asyncio.sleep(HOUR_S - now_s())
        storage.is_away = False
        await asyncio.sleep(max(RETENTION_S, UPLOAD_GRACE_S) + BLOB_GRACE_S + BLOB_TIMEOUT_S + 2 * INTERVAL_S)
        for each in rounds:
            each.cancel()

    with RedisServer(tmp_path) as server:
        client = redis.Redis.from_url(server.url, socket_timeout=60, single_connection_client=True)
        simulate(hour(client))
        client.close()
    assert len(delays_s) == TASKS
    assert max(delays_s) <= 2 * INTERVAL_S + SLACK_S
    assert storage.removed == {f"{kind}{number}" for kind in ("old", "u-") for number in range(TASKS)}
    # Of the tasks that are removed and of the uploads: one call for each round that is not yet given up.
    assert storage.most_hangs <= 2 * (BLOB_TIMEOUT_S / INTERVAL_S + 1)
