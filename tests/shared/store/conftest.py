"""Fixtures of a store with a manual clock, on a Redis that no stack of another test uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import pytest

from local.redis_server import RedisCluster, RedisServer
from shared.store.batch_steps import BatchSteps
from shared.store.callbacks import Callbacks
from shared.store.create_steps import CreateSteps
from shared.store.keyed_ids import KeyedIds
from shared.store.policy import StorePolicy
from shared.store.queries import Queries
from shared.store.queue_steps import QueueSteps
from shared.store.redis import client as connection
from shared.store.redis.client import RedisAddress, RedisClient, connect
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.request_counts import RequestCounts
from shared.store.schedules import Schedules
from shared.store.starts import Starts
from shared.store.store import TaskStore
from shared.store.task_steps import TaskSteps
from shared.store.upkeep_steps import UpkeepSteps
from shared.store.uploads import Uploads
from tests.patience import patient
from tests.shared.store.policies import store_policy
from tests.shared.store.wire import Wire
from tests.shared.store.world import START_MS, Server, nodes
from tests.waiting import PATIENCE_S

__all__ = ["patient"]

T = TypeVar("T")

POLICY = store_policy(republish_s=30, retention_s=1000, max_attempts=3, dispatch_window_s=40)


class Clock:
    """Stands still until a test advances it."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat *call* until the store is available, and return its answer. An earlier one may have been taken too."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            # While Redis does not answer, each call waits for a probe before it is refused.
            with suppress(StoreUnavailable):
                return await call()


class RepeatingLink(RedisLink):
    """Sends each script twice and returns the second answer, as if the first had been lost."""

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        await super().script(name, tag, *args)
        return await super().script(name, tag, *args)

    async def combined(self, name: str, *args: bytes) -> Any | None:
        await super().combined(name, *args)
        return await super().combined(name, *args)

    async def combined_steps(self, name: str, *args: bytes) -> list[Any] | None:
        await super().combined_steps(name, *args)
        return await super().combined_steps(name, *args)


class StoreFactory(Protocol):
    def __call__(self, policy: StorePolicy = ..., *, url: str = ..., repeating: bool = ...) -> Store: ...


def opener(url: str) -> Callable[[], Awaitable[RedisClient]]:
    def no_identity() -> Any:
        raise AssertionError("no managed identity is needed")

    async def open_redis() -> RedisClient:
        return await connect(RedisAddress.parse(url), no_identity)

    return open_redis


class LifeSteps(CreateSteps, TaskSteps):
    """All steps of a task's life, with its queue if that is given."""

    def __init__(
        self, link: RedisLink, policy: StorePolicy, clock: Callable[[], int], queues: QueueSteps | None = None
    ) -> None:
        CreateSteps.__init__(self, link, policy, clock, queues)
        TaskSteps.__init__(self, link, policy, clock, queues)


class Store(LifeSteps, UpkeepSteps):
    """All steps and queries on tasks of one Redis, and none on queues."""

    def __init__(self, link: RedisLink, policy: StorePolicy, clock: Clock) -> None:
        LifeSteps.__init__(self, link, policy, clock)
        UpkeepSteps.__init__(self, link, policy, clock)
        self.link = link
        self.is_repeating = isinstance(link, RepeatingLink)
        self.queries = Queries(link, clock)
        self.starts = Starts(link, policy, QueueSteps(link, policy, now_ms=clock), clock)
        self.batches = BatchSteps(link, policy, clock)
        self.uploads = Uploads(link, clock)
        self.callbacks = Callbacks(link, clock)
        self.schedules = Schedules(link, clock)
        self.keyed_ids = KeyedIds(link, policy, self.get, clock)
        self.request_counts = RequestCounts(link, clock)

    async def ping(self) -> None:
        await self.link.ping()

    async def aclose(self) -> None:
        await self.link.aclose()


def store_at(url: str, policy: StorePolicy, clock: Clock, *, repeating: bool = False) -> Store:
    return Store((RepeatingLink if repeating else RedisLink)(opener(url)), policy, clock)


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server apart from that of the other tests: the reconciler of a stack there uses the real time."""
    kind = RedisCluster if os.environ.get("BACKBONE_TEST_REDIS") == "cluster" else RedisServer
    with kind(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_store(redis_url: str, clock: Clock) -> AsyncIterator[StoreFactory]:
    """Opens stores on the empty Redis, as several processes would. They share the clock."""
    stores: list[Store] = []

    def open_store(policy: StorePolicy = POLICY, *, url: str = redis_url, repeating: bool = False) -> Store:
        stores.append(store_at(url, policy, clock, repeating=repeating))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.aclose()


@pytest.fixture(params=[False, True], ids=["once", "each-script-twice"])
def store(request: pytest.FixtureRequest, open_store: StoreFactory) -> Store:
    """A store on an empty Redis. In the second run of each test it sends every step twice, with the same outcomes."""
    return open_store(repeating=request.param)


@pytest.fixture
async def task_store(redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    """All tasks of an empty Redis, with their queues."""
    store = TaskStore(RedisLink(opener(redis_url)), store_policy(max_attempts=3), lambda path: None, clock)
    yield store
    await store.aclose()


@pytest.fixture
async def repeating_task_store(redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    """Sends each script twice, as if the first answer had been lost."""
    link = RepeatingLink(opener(redis_url))
    store = TaskStore(link, store_policy(max_attempts=3), lambda path: None, clock)
    yield store
    await store.aclose()


@pytest.fixture
async def wire(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """A relay to the Redis of the tests, for a store that is opened with the relay's URL."""
    async with Wire([node.port for node in nodes(redis_server)]) as wire:

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            return address[0], wire.ports.get(address[1], address[1])

        cluster_client = connection.ClusterClient

        def open_cluster(**options: Any) -> Any:
            behind = options["port"] in wire.ports.values()
            return cluster_client(**{**options, "address_remap": remap if behind else None})

        # The nodes of a cluster publish their own addresses, which bypass the relay.
        monkeypatch.setattr(connection, "ClusterClient", open_cluster)
        yield wire
