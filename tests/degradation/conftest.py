"""Stores and stacks that reach their dependencies through switches."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.azurite import Azurite
from local.processes import free_port
from local.redis_server import RedisServer
from local.stack import TOPIC, Stack
from shared.store import TaskStore
from shared.store.redis.link import RedisLink
from tests.conftest import IN_A_HURRY
from tests.degradation.switch import Switch
from tests.patience import patient
from tests.scripted_backend import ScriptedBackend
from tests.shared.store.conftest import opener
from tests.shared.store.policies import store_policy

# The reconciler's module reads the settings at import.
os.environ.setdefault("REDIS_CONNECTION_STRING", "redis://127.0.0.1")
os.environ.setdefault("EVENT_GRID_TOPIC_URI", "https://topic.example.org/api/events")
os.environ.setdefault("BACKENDS", '{"/v1": "https://models.example.org"}')

__all__ = ["patient"]

SHORT_S = 1.0
"""The timeout of calls that a test knows to get no answer."""


@pytest.fixture(scope="package")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    """An empty single server, even if other tests use a cluster."""
    own_server.flush()
    return own_server


@pytest.fixture
def switch(server: RedisServer) -> Iterator[Switch]:
    with Switch(server.port) as switch:
        yield switch


OpenStore = Callable[[int], TaskStore]


@pytest.fixture
async def open_store() -> AsyncIterator[OpenStore]:
    """A function that opens a store at a port; the store uses the server's clock."""
    stores: list[TaskStore] = []

    def open_store(port: int) -> TaskStore:
        stores.append(TaskStore(RedisLink(opener(f"redis://127.0.0.1:{port}")), store_policy()))
        return stores[-1]

    yield open_store
    for each in stores:
        await each.aclose()


@dataclass(frozen=True)
class Fragile:
    """A stack whose app reaches its dependencies through switches."""

    stack: Stack
    redis: Switch
    blobs: Switch
    grid: Switch

    def restore(self) -> None:
        for switch in (self.redis, self.blobs, self.grid):
            switch.flow()
            switch.cut()


@contextmanager
def fragile_stack(
    directory: Path, azurite: Azurite, backend: ScriptedBackend, settings: Mapping[str, str]
) -> Iterator[Fragile]:
    with (
        RedisServer(directory / "redis") as redis,
        Switch(redis.port) as to_redis,
        Switch(azurite.blob_port) as to_blobs,
        Switch(free_port()) as to_grid,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings={
                **IN_A_HURRY,
                "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{to_redis.port}",
                "AzureWebJobsStorage": azurite.connection_string.replace(str(azurite.blob_port), str(to_blobs.port)),
                "BLOB_CONTAINER": directory.name,
                "EVENT_GRID_TOPIC_URI": f"http://127.0.0.1:{to_grid.port}/{TOPIC}/api/events",
                **settings,
            },
        ) as stack,
    ):
        to_grid.target_port = int(stack.event_grid_url.rsplit(":", 1)[1])
        yield Fragile(stack, to_redis, to_blobs, to_grid)
