"""Redis is down or cannot run a command: every operation reports that, and no step is applied in part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from local.processes import free_port
from local.redis_server import RedisServer
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import partition
from shared.tasks.outcomes import Claimed
from shared.tasks.task import NewTask, State, Task
from tests.shared.store import steps
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory, opener
from tests.shared.store.steps import Step, each_step
from tests.shared.store.wire import Wire
from tests.shared.store.world import START_MS, nodes, world
from tests.waiting import PATIENCE_S

HANG_S = PATIENCE_S
"""Far longer than any call may take: a test that reaches it hangs."""

OPERATIONS: dict[str, Callable[[Store, Task], Awaitable[Any]]] = {
    **{step.name: step.take for step in steps.STEPS},
    "get": lambda store, _: store.get("t1"),
    "inline_result": lambda store, _: store.inline_result("t1"),
    "depths": lambda store, _: store.queries.depths(),
    "depths of a path": lambda store, _: store.queries.depths("/v1/a"),
    "requests": lambda store, _: store.request_counts.count("aks", "/v1/a"),
    "ping": lambda store, _: store.ping(),
}


@pytest.fixture(scope="module")
def fragile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A single server for this module, even if the other tests use a cluster."""
    with RedisServer(tmp_path_factory.mktemp("fragile-redis")) as server:
        yield server


@pytest.fixture
def server(fragile_server: RedisServer) -> Iterator[RedisServer]:
    """An empty server that a test may damage. It is repaired for the next test."""
    yield fragile_server
    if not fragile_server.is_running:
        fragile_server.start()
    with fragile_server.connect() as client:
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")
        client.flushall()


@pytest.fixture
async def store(server: RedisServer, open_store: StoreFactory) -> Store:
    return open_store(url=server.url)


@pytest.fixture
async def task(store: Store, clock: Clock) -> Task:
    """The running task that the operations use."""
    await steps.running(store, clock)
    task = await store.get("t1")
    assert task
    return task


async def test_every_operation_fails_as_unavailable_without_redis_and_works_after_its_return(
    server: RedisServer, store: Store, task: Task
) -> None:
    server.stop()
    for name, take in OPERATIONS.items():
        async with asyncio.timeout(HANG_S):
            with pytest.raises(StoreUnavailable):
                await take(store, task)
                pytest.fail(f"{name} succeeded without Redis")
    server.start()
    for take in OPERATIONS.values():
        await take(store, task)


async def test_a_store_that_was_opened_while_redis_was_down_connects_later(
    server: RedisServer, store: Store, clock: Clock
) -> None:
    server.stop()
    async with asyncio.timeout(HANG_S):
        results = await asyncio.gather(*(store.get("t1") for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    server.start()
    await steps.created(store, clock)
    assert await store.get("t1")


async def test_an_address_where_nothing_listens_is_unavailable(clock: Clock) -> None:
    store = Store(RedisLink(opener(f"redis://127.0.0.1:{free_port()}")), POLICY, clock)
    async with asyncio.timeout(HANG_S):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    await store.aclose()


async def test_a_task_survives_a_restart_of_redis_after_each_of_its_steps(
    server: RedisServer, store: Store, clock: Clock
) -> None:
    await store.create(steps.HELLO)
    server.restart()
    claimed = await store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    assert claimed.inline_body == b"hello"
    server.restart()
    await store.update("t1", state=State.RUNNING, status="running")
    server.restart()
    await store.put_result("t1", steps.RESULT, b"png")
    server.kill()
    server.start()
    await store.update("t1", state=State.COMPLETED, status="completed")
    server.restart()
    assert await store.inline_result("t1") == b"png"
    task = await store.get("t1")
    assert task
    assert [event.state for event in task.history] == ["created", "dispatched", "running", "completed"]
    clock.advance(1000)
    await asyncio.gather(*(store.sweep(partition, {}) for partition in range(16)))
    assert world(server) == ""


REFUSED_WHEN_FULL = {
    "create",
    "create in a pipeline",
    "next step of a pipeline",
    "accepted",
    "heartbeat",
    "an end that the text tells",
    "an end that is kept aside",
    "a second end",
    "heartbeat only",
    "put_result",
    "put_result that completes",
    "complete",
    "put_checkpoint",
    "progress",
    "check that publishes",
    "create to start later",
    "report",
    "report of an instance",
}
"""All other steps begin with a removal, so Redis runs them: tasks in flight can come to an end."""


@each_step
async def test_a_full_redis_applies_a_step_completely_or_not_at_all(
    server: RedisServer, store: Store, clock: Clock, step: Step
) -> None:
    by_chance = {"t1": (0.0, 10_000.0)}
    await step.take(store, await step.prepare(store, clock))
    done = world(server, by_chance)
    server.flush()
    clock.ms = START_MS
    task = await step.prepare(store, clock)
    before = world(server)
    with server.connect() as client:
        client.config_set("maxmemory", 1)
    if step.name in REFUSED_WHEN_FULL:
        with pytest.raises(StoreUnavailable):
            await step.take(store, task)
        assert world(server) == before
        with server.connect() as client:
            client.config_set("maxmemory", 0)
    await step.take(store, task)
    assert world(server, by_chance) == done


async def test_a_full_redis_is_swept_even_if_the_most_overdue_task_needs_memory(
    server: RedisServer, store: Store, clock: Clock
) -> None:
    first, second = [task_id for number in range(99) if partition(task_id := f"t{number}") == 3][:2]
    await store.create(NewTask(first, "/v1/a", 60))
    await store.create(NewTask(second, "/v1/a", 60, state=State.COMPLETED, dispatch_requested=False))
    clock.advance(1000)
    with server.connect() as client:
        client.config_set("maxmemory", 1)
    assert [(item.what, item.id) for item in await store.sweep(3, {})] == [("waits", first), ("purged", second)]


@each_step
async def test_a_redis_that_became_a_replica_refuses_every_step_completely(
    server: RedisServer, store: Store, clock: Clock, step: Step
) -> None:
    task = await step.prepare(store, clock)
    before = world(server)
    with server.connect() as client:
        client.replicaof("127.0.0.1", str(free_port()))
    with pytest.raises(StoreUnavailable):
        await step.take(store, task)
    assert world(server) == before


@pytest.fixture
async def forging_wire(server: RedisServer) -> AsyncIterator[Wire]:
    async with Wire([node.port for node in nodes(server)]) as wire:
        yield wire


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
    ],
    ids=lambda error: error.split()[0],
)
async def test_a_temporary_error_of_redis_counts_as_unavailable(
    open_store: StoreFactory, forging_wire: Wire, clock: Clock, error: str
) -> None:
    store = open_store(url=forging_wire.url)
    await steps.created(store, clock)
    forging_wire.forged_answer = f"-{error}\r\n".encode()
    for name in ("running", "get", "depths"):
        async with asyncio.timeout(HANG_S):
            with pytest.raises(StoreUnavailable) as unavailable:
                await OPERATIONS[name](store, None)  # type: ignore[arg-type]
        assert error not in str(unavailable.value)
    forging_wire.forged_answer = None
    assert await store.get("t1")


async def test_a_permanent_error_of_redis_does_not_count_as_unavailable(
    open_store: StoreFactory, forging_wire: Wire, clock: Clock
) -> None:
    store = open_store(url=forging_wire.url)
    await steps.created(store, clock)
    forging_wire.forged_answer = b"-ERR Error compiling script (new function): user_script:1: '=' expected\r\n"
    with pytest.raises(ResponseError):
        await store.update("t1", state=State.RUNNING, status="running")
