"""Commands of one moment share a batch, but no error, cancellation or delay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio.connection import Connection
from redis.crc import key_slot
from redis.exceptions import NoScriptError

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.client import ClusterClient
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import TAGS, partition
from shared.store.redis.pipelining import BATCH_BYTES, BATCH_COMMANDS, BATCHES_IN_FLIGHT
from shared.tasks.outcomes import Created
from shared.tasks.task import Content, NewTask, Task
from tests.shared.store.conftest import Store, StoreFactory
from tests.shared.store.wire import Wire
from tests.shared.store.world import Server, World, nodes, tag_of
from tests.waiting import PATIENCE_S

HANG_S = PATIENCE_S
MANY = 200
IDS = [f"t{number}" for number in range(MANY)]
LARGE_BYTES = 64 * 1024


def new_task(task_id: str, size_bytes: int = 0) -> NewTask:
    body = b"x" * size_bytes or task_id.encode()
    return NewTask(task_id, "/v1/a", 60, body=Content("text/plain", len(body)), inline_body=body)


async def create_all(store: Store, size_bytes: int = 0) -> list[object]:
    async with asyncio.timeout(HANG_S):
        return [
            type(outcome)
            for outcome in await asyncio.gather(*(store.create(new_task(id_, size_bytes)) for id_ in IDS))
        ]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Each write to a connection of Redis, with the commands that it carried."""
    writes: list[list[bytes]] = []
    send = asyncio.StreamWriter.writelines

    def spying(self: asyncio.StreamWriter, commands: Iterable[bytes]) -> None:
        writes.append([*commands])
        send(self, writes[-1])

    monkeypatch.setattr(asyncio.StreamWriter, "writelines", spying)
    return writes


def evalshas(write: list[bytes]) -> int:
    return b"".join(write).count(b"EVALSHA")


async def test_steps_of_one_moment_share_few_batches_and_few_connections(
    open_store: StoreFactory, redis_server: Server, sent: list[list[bytes]]
) -> None:
    store, other = open_store(), open_store()
    await create_all(other)  # loads the script
    redis_server.flush()
    await store.ping()
    sent.clear()
    assert await create_all(store) == [Created] * MANY
    steps = [count for count in map(evalshas, sent) if count]
    assert sum(steps) == MANY
    assert max(steps) <= BATCH_COMMANDS
    assert len(steps) <= MANY / BATCH_COMMANDS + len(nodes(redis_server))
    World(redis_server).assert_consistent()


async def test_commands_sent_while_batches_are_in_flight_share_the_next_batch(
    open_store: StoreFactory, redis_server: Server
) -> None:
    """The number of connections does not grow with the number of calls."""
    store, other = open_store(), open_store()
    await create_all(other)  # loads the script
    await other.aclose()
    redis_server.flush()
    await store.ping()
    asked: list[asyncio.Future[Any]] = []
    for id_ in IDS:
        asked.append(asyncio.ensure_future(store.create(new_task(id_))))
        await asyncio.sleep(0)
    assert {type(outcome) for outcome in await asyncio.gather(*asked)} == {Created}
    for node in nodes(redis_server):
        with node.connect() as client:
            assert 1 <= sum(each["cmd"] == "evalsha" for each in client.client_list()) <= BATCHES_IN_FLIGHT


async def test_no_command_waits_for_a_connection_that_is_opened_while_another_is_there(
    open_store: StoreFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    for id_ in IDS:
        await store.get(id_)  # one connection to each node
    connect = Connection._connect  # pyright: ignore[reportPrivateUsage]
    may_open, opening = asyncio.Event(), 0

    async def connect_later(self: Connection) -> None:
        nonlocal opening
        opening += 1
        await may_open.wait()
        await connect(self)

    monkeypatch.setattr(Connection, "_connect", connect_later)
    asked: list[asyncio.Future[Task | None]] = []
    for id_ in IDS:
        asked.append(asyncio.ensure_future(store.get(id_)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [None] * MANY
    assert opening
    may_open.set()


async def test_a_new_connection_reads_no_metadata_of_packages(
    open_store: StoreFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await store.ping()
    opened, read = 0, 0
    connect = Connection._connect  # pyright: ignore[reportPrivateUsage]

    async def counted(self: Connection) -> None:
        nonlocal opened
        opened += 1
        await connect(self)

    def lib_version() -> str:
        nonlocal read
        read += 1
        return "8"

    monkeypatch.setattr(Connection, "_connect", counted)
    monkeypatch.setattr("redis.utils.get_lib_version", lib_version)
    await asyncio.gather(*map(store.get, IDS))
    assert opened
    assert not read


async def test_large_bodies_do_not_make_a_batch_exceed_its_limit(
    open_store: StoreFactory, redis_server: Server, sent: list[list[bytes]]
) -> None:
    store = open_store()
    assert await create_all(store, LARGE_BYTES) == [Created] * MANY
    sizes = [sum(map(len, write)) for write in sent]
    assert BATCH_BYTES < max(sizes) < BATCH_BYTES + LARGE_BYTES + 1024
    assert {len(data) for data in World(redis_server).contents.values()} == {LARGE_BYTES}


async def test_an_error_of_one_command_does_not_affect_the_others_in_its_batch(
    open_store: StoreFactory, redis_server: Server
) -> None:
    store = open_store()
    await create_all(store)
    damaged = IDS[::3]
    for id_ in damaged:
        for node in nodes(redis_server):
            with node.connect() as client:
                key = f"{{{tag_of(id_)}}}t:{id_}"
                if isinstance(redis_server, RedisServer) or client.execute_command(
                    "CLUSTER COUNTKEYSINSLOT", key_slot(key.encode())
                ):
                    client.delete(key)
                    client.rpush(key, "not a record")
    reads = await asyncio.gather(*map(store.get, IDS), return_exceptions=True)
    heartbeats = await asyncio.gather(*map(store.heartbeat, IDS), return_exceptions=True)
    for id_, read, heartbeat in zip(IDS, reads, heartbeats, strict=True):
        if id_ in damaged:
            assert isinstance(read, StoreUnavailable)
            assert isinstance(heartbeat, StoreUnavailable)
        else:
            assert isinstance(read, Task)
            assert read.id == id_
            assert not isinstance(heartbeat, Exception)


async def test_all_calls_succeed_after_redis_has_flushed_its_scripts(
    open_store: StoreFactory, redis_server: Server, sent: list[list[bytes]]
) -> None:
    store = open_store()
    await store.create(new_task("first"))
    for node in nodes(redis_server):
        with node.connect() as client:
            client.script_flush()
    sent.clear()
    assert await create_all(store) == [Created] * MANY
    assert {rec["v"] for rec in World(redis_server).records.values()} == {1}
    # Only one command of each of the first batches is sent alone, to load the script; the others wait for it.
    alone = [evalshas(write) for write in sent].count(1)
    assert 1 <= alone <= 2 * BATCHES_IN_FLIGHT * len(nodes(redis_server))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "own") as server:
        yield server


async def test_all_calls_succeed_after_a_restart_of_redis(open_store: StoreFactory, own_server: RedisServer) -> None:
    store = open_store(url=own_server.url)
    assert await create_all(store) == [Created] * MANY
    own_server.flush()
    own_server.restart()
    assert await create_all(store) == [Created] * MANY
    assert {rec["v"] for rec in World(own_server).records.values()} == {1}


async def test_each_step_has_its_effect_once_if_the_answers_to_its_batch_are_lost(
    open_store: StoreFactory, wire: Wire, redis_server: Server
) -> None:
    store = open_store(url=wire.url)
    await store.ping()
    wire.lose_answers = 1
    assert await create_all(store) == [Created] * MANY
    assert wire.lose_answers == 0
    picture = World(redis_server)
    picture.assert_consistent()
    assert {rec["v"] for rec in picture.records.values()} == {1}


@pytest.mark.parametrize("ticks", range(8))
async def test_a_cancelled_call_affects_no_other_and_leaves_its_answer_to_none(
    open_store: StoreFactory, redis_server: Server, ticks: int
) -> None:
    store = open_store()
    await store.create(new_task("first"))
    asked = [asyncio.ensure_future(store.create(new_task(id_))) for id_ in IDS]
    for _ in range(ticks):
        await asyncio.sleep(0)
    for each in asked[::2]:
        each.cancel()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[1::2]} == {Created}
    tasks = await asyncio.gather(*map(store.get, IDS))
    assert all(task is None or task.id == id_ for task, id_ in zip(tasks, IDS, strict=True))
    assert all(tasks[1::2])
    bodies = World(redis_server).contents
    assert all(body.decode() == name.partition(":")[2] for name, body in bodies.items())


async def test_closing_a_store_ends_the_calls_that_wait(open_store: StoreFactory) -> None:
    store = open_store()
    await store.ping()
    asked = [asyncio.ensure_future(store.create(new_task(id_))) for id_ in IDS]
    await asyncio.sleep(0)
    await store.aclose()
    async with asyncio.timeout(HANG_S):
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {Created, StoreUnavailable}


@pytest.mark.parametrize("until", [1, BATCH_COMMANDS, BATCH_COMMANDS + 1])
async def test_closing_a_store_while_a_script_is_loaded_ends_the_calls_that_need_it(
    open_store: StoreFactory, redis_server: Server, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    store = open_store()
    await store.ping()
    read = Connection.read_response
    refusals: list[NoScriptError] = []
    closing: list[asyncio.Future[None]] = []

    async def closing_then(self: Connection, **options: Any) -> Any:
        try:
            return await read(self, **options)
        except NoScriptError as error:
            refusals.append(error)
            if len(refusals) == until:
                closing.append(asyncio.ensure_future(store.aclose()))
            raise

    monkeypatch.setattr(Connection, "read_response", closing_then)
    outcomes: set[type] = set()
    async with asyncio.timeout(HANG_S):
        # All calls may be answered before the store is closed, which proves nothing.
        while StoreUnavailable not in outcomes:
            refusals.clear()
            for node in nodes(redis_server):
                with node.connect() as client:
                    client.flushall()
                    client.script_flush()
            asked = [asyncio.ensure_future(store.create(new_task(id_))) for id_ in IDS]
            outcomes = {type(outcome) for outcome in await asyncio.gather(*asked, return_exceptions=True)}
            await asyncio.gather(*closing)
            assert outcomes <= {Created, StoreUnavailable}
    assert closing


async def answers_of(server: Server, callers: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until the servers have answered all *callers*. Meanwhile no answer is read, so all arrive together."""
    async with asyncio.timeout(HANG_S):
        with ExitStack() as opened:
            clients = [opened.enter_context(node.connect()) for node in nodes(server)]
            while True:
                stats = [cast("dict[str, Any]", client.info("commandstats")) for client in clients]
                if sum(each["cmdstat_get"]["calls"] for each in stats if "cmdstat_get" in each) >= len(callers):
                    return
                await asyncio.sleep(0)  # lets the callers send


def reset_stats(server: Server) -> None:
    for node in nodes(server):
        with node.connect() as client:
            client.config_resetstat()


async def test_calls_whose_answers_have_arrived_get_them_even_if_the_store_is_closed(
    open_store: StoreFactory, redis_server: Server
) -> None:
    store = open_store()
    await asyncio.gather(*map(store.get, IDS))  # opens connections
    answers: list[Task | None] = []

    async def ask_and_close() -> None:
        answers.append(await store.get("t1"))
        if len(answers) == 1:
            await store.aclose()

    reset_stats(redis_server)
    callers = [asyncio.ensure_future(ask_and_close()) for _ in range(2 * BATCH_COMMANDS)]
    await answers_of(redis_server, callers)
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*callers)
    assert answers == [None] * len(callers)


async def test_the_second_of_two_answered_batches_waits_until_the_first_callers_have_sent_again(
    open_store: StoreFactory, redis_server: Server, sent: list[list[bytes]]
) -> None:
    store = open_store()
    await asyncio.gather(*map(store.get, IDS))  # opens connections
    asked_before_answer: list[int] = []

    async def ask_twice() -> None:
        await store.get("t1")
        asked_before_answer.append(sum(b"".join(write).count(b"GET") for write in sent))
        await store.get("t1")

    reset_stats(redis_server)
    sent.clear()
    callers = [asyncio.ensure_future(ask_twice()) for _ in range(2 * BATCH_COMMANDS)]
    await answers_of(redis_server, callers)
    await asyncio.gather(*callers)
    first, second = asked_before_answer[:BATCH_COMMANDS], asked_before_answer[BATCH_COMMANDS:]
    assert set(first) == {2 * BATCH_COMMANDS}
    assert set(second) == {3 * BATCH_COMMANDS}


async def test_all_connections_are_given_back_when_all_is_answered(open_store: StoreFactory) -> None:
    store = open_store()
    assert await create_all(store) == [Created] * MANY
    pipelines = cast("Any", store.link)._pipelines
    client = pipelines.client

    def lent() -> int:
        if isinstance(client, ClusterClient):
            return sum(len(node._connections) - len(node._free) for node in cast("Any", client).get_nodes())
        return len(client.connection_pool._in_use_connections)

    await asyncio.gather(*pipelines._tasks)
    assert not lent()


async def test_a_dead_node_fails_only_the_calls_to_it(open_store: StoreFactory, tmp_path: Path) -> None:
    with RedisCluster(tmp_path / "cluster") as cluster:
        store = open_store(url=cluster.url)
        assert await create_all(store) == [Created] * MANY
        cluster.nodes[1].kill()
        async with asyncio.timeout(HANG_S):
            outcomes = await asyncio.gather(*map(store.get, IDS), return_exceptions=True)
        bounds = [node * 16384 // 3 for node in range(4)]
        of_node = [
            next(
                index
                for index, (low, high) in enumerate(pairwise(bounds))
                if low <= key_slot(TAGS[partition(id_)].encode()) < high
            )
            for id_ in IDS
        ]
        assert set(of_node) == {0, 1, 2}
        for id_, node, outcome in zip(IDS, of_node, outcomes, strict=True):
            if node == 1:
                assert isinstance(outcome, StoreUnavailable)
            else:
                assert isinstance(outcome, Task)
                assert outcome.id == id_
