"""An operator replays a thousand failed tasks: whatever dies in between, each is replayed once and on record."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import new_path
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.slow

TASKS = 1_000
PIECE = 100
BEFORE = 2
"""How many pieces are answered before something dies."""


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def own_stack(
    tmp_path_factory: pytest.TempPathFactory, own_redis: RedisServer, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("stack"),
        redis=own_redis,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings=IN_A_HURRY,
    ) as stack:
        yield stack


@pytest.fixture
def app(own_stack: Stack) -> Iterator[httpx.Client]:
    with own_stack.client() as client:
        yield client


@dataclass
class Operation:
    """A bulk replay, as a caller goes through it who repeats what fails from the last cursor.

    Attributes:
        answers: those that came.
        failures: how many calls had none, or an error.
        goes_on: what it waits for after the first pieces.
    """

    app: httpx.Client
    path: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    cursor: str | None = None
    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failures: int = 0
    goes_on: threading.Event = field(default_factory=threading.Event)

    @property
    def replayed(self) -> int:
        return sum(answer["Done"] for answer in self.answers)

    def step(self) -> bool:
        """One call. Returns whether it was the last one."""
        if len(self.answers) == BEFORE:
            self.goes_on.wait(PATIENCE_S)
        request = {"Action": "replay", "Path": self.path, "Limit": PIECE, "OperationId": self.id}
        try:
            answer = self.app.post("/api/v1/bulk", json=request | ({"Cursor": self.cursor} if self.cursor else {}))
        except httpx.HTTPError:
            self.failures += 1
            return False
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            self.failures += 1
            return False
        self.answers.append(answer.json())
        assert self.answers[-1]["Refused"] == []
        self.cursor = self.answers[-1]["NextCursor"]
        return self.cursor is None

    def run(self) -> None:
        eventually(self.step)


def failed_tasks(app: httpx.Client, endpoint: str) -> list[str]:
    def failed(_: int) -> str:
        kept = app.post("/api/CacheConnectorUpsert", json={"Endpoint": endpoint, "Body": "{}"})
        task_id: str = kept.raise_for_status().json()["TaskId"]
        update = {"TaskId": task_id, "BackendStatus": "failed", "Status": "no room"}
        app.post("/api/CacheConnectorUpsert", json=update).raise_for_status()
        return task_id

    with ThreadPoolExecutor(8) as threads:
        return [*threads.map(failed, range(TASKS))]


def replays(app: httpx.Client, task_ids: list[str]) -> list[tuple[int, int]]:
    """Of each task its attempt, and how many replays are in its history."""

    def found(task_id: str) -> tuple[int, int]:
        events = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
        return events[-1]["Attempt"], [event["Reason"] for event in events].count("replay")

    with ThreadPoolExecutor(8) as threads:
        return [*threads.map(found, task_ids)]


def audited(app: httpx.Client, operation: Operation) -> list[int | None]:
    """What is on record of each call, the last one first."""
    entries = app.get("/api/v1/audit", params={"limit": "200"}).raise_for_status().json()["Entries"]
    return [entry["Count"] for entry in entries if entry["OperationId"] == operation.id]


@pytest.mark.parametrize("what", ["the app is killed", "Redis is stopped"])
def test_each_of_a_thousand_tasks_is_replayed_once_whatever_dies_in_the_middle(
    what: str, own_stack: Stack, own_redis: RedisServer, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    task_ids = failed_tasks(app, backend.url + path)
    operation = Operation(app, path)
    running = threading.Thread(target=operation.run)
    running.start()
    eventually(lambda: len(operation.answers) == BEFORE)
    operation.goes_on.set()
    if what == "the app is killed":
        own_stack.host.kill()
        own_stack.host.start()
    else:
        own_redis.stop()
        eventually(lambda: operation.failures > 0)
        own_redis.start()
    running.join()
    assert operation.cursor is None
    assert operation.failures > 0
    assert set(replays(app, task_ids)) == {(2, 1)}
    # What a call had done whose answer was lost is on record as unknown, or it had done nothing.
    counts = audited(app, operation)
    assert len(counts) >= len(operation.answers)
    assert sum(count or 0 for count in counts) <= TASKS
    assert sum(count or 0 for count in counts) == TASKS or None in counts
    # Once more from the beginning, as by somebody who has lost the cursor: there is nothing left.
    again = Operation(app, path, operation.id)
    again.run()
    assert (again.replayed, again.failures) == (0, 0)
