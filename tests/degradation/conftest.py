"""Stores that reach their Redis through a switch, and may wait a second for it, not five."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from local.redis_server import RedisServer
from shared.task_store import StorePolicy, TaskStore, connection, store
from tests.degradation.switch import Switch
from tests.shared.task_store.conftest import opener

# The reconciler's room reads the settings when it is imported.
os.environ.setdefault("REDIS_CONNECTION_STRING", "redis://127.0.0.1")
os.environ.setdefault("EVENT_GRID_TOPIC_URI", "https://topic.example.org/api/events")
os.environ.setdefault("BACKENDS", '{"/v1": "https://models.example.org"}')

SHORT_S = 1.0


@pytest.fixture(scope="package")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    """An empty single server, also where other tests have a cluster."""
    own_server.flush()
    return own_server


@pytest.fixture
def switch(server: RedisServer) -> Iterator[Switch]:
    with Switch(server.port) as switch:
        yield switch


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CALL_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(connection, "OPEN_TIMEOUT_S", SHORT_S)


OpenStore = Callable[[int], TaskStore]


@pytest.fixture
async def open_store(in_a_hurry: None) -> AsyncIterator[OpenStore]:
    """Opens a store at a port, by the server's clock."""
    stores: list[TaskStore] = []

    def open_store(port: int) -> TaskStore:
        stores.append(TaskStore(opener(f"redis://127.0.0.1:{port}"), StorePolicy()))
        return stores[-1]

    yield open_store
    for each in stores:
        await each.aclose()
