"""Waiting for a change: it costs Redis nothing meanwhile, and no change is missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from local.redis_server import RedisCluster, RedisServer
from shared.store import TaskStore
from shared.store.changes import _shown
from shared.store.redis import link as redis_link
from shared.store.redis import subscriptions
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import PARTITIONS, partition
from shared.store.task_steps import record_key
from shared.tasks.outcomes import Applied, Created
from shared.tasks.task import State, Task
from tests.shared.store.conftest import POLICY, Clock, StoreFactory, answered, opener
from tests.shared.store.steps import HELLO, Step, each_step
from tests.shared.store.test_cost import commands_run
from tests.shared.store.world import Server, nodes
from tests.waiting import PATIENCE_S, until

IDS = [next(f"t{n}" for n in range(10_000) if partition(f"t{n}") == index) for index in range(PARTITIONS)]
"""One task id for each partition, so that each node of a cluster has some."""


def anything(_: Task) -> bool:
    return True


def nothing(_: Task) -> bool:
    return False


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[TaskStore]:
    store = TaskStore(RedisLink(opener(url)), POLICY)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def tasks(redis_url: str) -> AsyncIterator[TaskStore]:
    """A store on an empty Redis."""
    async with opened(redis_url) as store:
        yield store


@pytest.fixture(params=["channels of slots", "plain channels"])
def channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain channels, the scripts are as on a server before 7.0."""
    if request.param == "plain channels":
        scripts = {
            name: (source.replace("redis.REDIS_VERSION_NUM", "false"), "")
            for name, (source, _) in redis_link._SCRIPTS.items()
        }
        for name, (source, _) in scripts.items():
            sha = redis_link.hashlib.sha1(source.encode()).hexdigest()
            monkeypatch.setitem(redis_link._SCRIPTS, name, (source, sha))
        for cached in (redis_link._script_prefix, redis_link._combined_prefix):
            cached.cache_clear()
            request.addfinalizer(cached.cache_clear)


async def new(store: TaskStore, task_id: str) -> Task:
    created = await store.create_unqueued(replace(HELLO, id=task_id))
    assert isinstance(created, Created)
    return created.task


async def report(store: TaskStore, task_id: str, status: str | None, state: State = State.RUNNING) -> Task:
    outcome = await store.update(task_id, state=state, status=status)
    assert isinstance(outcome, Applied)
    return outcome.task


def heard(server: Server) -> set[str]:
    """The channels that anybody listens to."""
    found: set[str] = set()
    for node in nodes(server):
        with node.connect() as client:
            for command in ("PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"):
                found.update(map(str, client.execute_command(command)))
    return found


async def begun(server: Server, *task_ids: str) -> None:
    """Until the waits for these tasks are heard of."""
    await until(lambda: heard(server) >= {record_key(task_id) for task_id in task_ids})


async def soon(waiting: Awaitable[Task | None]) -> Task | None:
    async with asyncio.timeout(PATIENCE_S):
        return await waiting


@pytest.mark.usefixtures("channels")
async def test_a_wait_ends_with_the_change(tasks: TaskStore, redis_server: Server) -> None:
    known = [await new(tasks, task_id) for task_id in IDS]
    waits = [asyncio.ensure_future(tasks.wait(task, anything)) for task in known]
    await begun(redis_server, *IDS)
    for task_id, wait in zip(IDS, waits, strict=True):
        changed = await report(tasks, task_id, "on it")
        assert await soon(wait) == changed


async def test_a_wait_ends_with_a_change_that_came_before_it(tasks: TaskStore) -> None:
    known = await new(tasks, "t1")
    changed = await report(tasks, "t1", "on it")
    assert await soon(tasks.wait(known, anything)) == changed


async def test_a_wait_for_a_task_that_is_gone_ends(tasks: TaskStore, redis_server: Server) -> None:
    known = await new(tasks, "t1")
    redis_server.flush()
    assert await soon(tasks.wait(known, anything)) is None


async def test_a_wait_goes_on_until_a_change_is_enough_or_the_end(tasks: TaskStore, redis_server: Server) -> None:
    known = await new(tasks, "t1")
    to_half = asyncio.ensure_future(tasks.wait(known, lambda task: task.status == "50 %"))
    to_end = asyncio.ensure_future(tasks.wait(known, nothing))
    await begun(redis_server, "t1")
    await report(tasks, "t1", "10 %")
    half = await report(tasks, "t1", "50 %")
    assert await soon(to_half) == half
    ended = await report(tasks, "t1", "done", State.COMPLETED)
    assert await soon(to_end) == ended


async def test_a_change_that_is_undone_at_once_ends_a_wait(tasks: TaskStore, redis_server: Server) -> None:
    await new(tasks, "t1")
    known = await report(tasks, "t1", "a")
    before = commands_run(redis_server)
    wait = asyncio.ensure_future(tasks.wait(known, anything))
    await until(lambda: (commands_run(redis_server) - before)["get"] == 1)  # it has looked
    await asyncio.gather(report(tasks, "t1", "b"), report(tasks, "t1", "a"))
    found = await soon(wait)
    assert found is not None
    assert found.version > known.version


async def test_a_heartbeat_ends_no_wait_and_costs_it_nothing(tasks: TaskStore, redis_server: Server) -> None:
    await new(tasks, "t1")
    known = await report(tasks, "t1", "on it")
    before = commands_run(redis_server)
    wait = asyncio.ensure_future(tasks.wait(known, anything))
    await until(lambda: (commands_run(redis_server) - before)["get"] == 1)
    before = commands_run(redis_server)
    for _ in range(3):
        await tasks.heartbeat("t1")
        await report(tasks, "t1", "on it")  # says nothing new
    cost = commands_run(redis_server) - before
    assert (cost["get"], cost["spublish"]) == (6, 0)  # each step reads the record
    ended = await report(tasks, "t1", "done")
    assert await soon(wait) == ended


async def test_waits_cost_no_commands_and_a_change_one_read_for_each_that_it_ends(
    tasks: TaskStore, redis_server: Server
) -> None:
    known = [await new(tasks, task_id) for task_id in IDS]
    before = commands_run(redis_server)
    waits = [asyncio.ensure_future(tasks.wait(task, anything)) for task in known for _ in range(5)]
    await until(lambda: (commands_run(redis_server) - before)["get"] == len(waits))
    before = commands_run(redis_server)
    await asyncio.gather(*(new(tasks, f"other-{number}") for number in range(50)))
    assert (commands_run(redis_server) - before)["get"] == 0
    assert not any(wait.done() for wait in waits)
    before = commands_run(redis_server)
    await report(tasks, IDS[0], "on it")
    await soon(asyncio.gather(*waits[:5]))  # type: ignore[arg-type]
    cost = commands_run(redis_server) - before
    assert (cost["get"], cost["spublish"]) == (1 + 5, 1)
    assert not any(wait.done() for wait in waits[5:])
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_all_waits_share_a_connection_to_each_server_and_leave_no_channel(
    tasks: TaskStore, redis_server: Server
) -> None:
    known = [await new(tasks, task_id) for task_id in IDS]
    waits = [asyncio.ensure_future(tasks.wait(task, nothing)) for task in known for _ in range(3)]
    await begun(redis_server, *IDS)
    for node in nodes(redis_server):
        with node.connect() as client:
            assert len(client.client_list(_type="pubsub")) == 1
    for wait in waits[1:]:
        wait.cancel()
    await until(lambda: heard(redis_server) == {record_key(IDS[0])})
    again = asyncio.ensure_future(tasks.wait(known[1], nothing))
    await begun(redis_server, IDS[1])
    ended = [await report(tasks, task_id, "done", State.COMPLETED) for task_id in IDS[:2]]
    assert [await soon(waits[0]), await soon(again)] == ended
    await until(lambda: not heard(redis_server))


@each_step
async def test_a_step_publishes_what_it_shows_and_nothing_else(
    open_store: StoreFactory, redis_server: Server, clock: Clock, step: Step
) -> None:
    """Of a task that somebody may wait for: one that has not ended and is not new."""
    store = open_store()
    before = await step.prepare(store, clock)
    link = store.link
    tag = record_key("t1").partition("}")[0] + "}"
    async with link.listen(tag, record_key("t1")) as listener:
        assert await listener.news() is None
        published = commands_run(redis_server)["spublish"]
        await step.take(store, before)
        published = commands_run(redis_server)["spublish"] - published
        after = await store.get("t1")
        is_awaited = before is not None and not before.state.is_terminal and after is not None
        if is_awaited and _shown(before) != _shown(after):
            assert await listener.news() == str(after.version).encode()
            assert published == 1
        elif is_awaited:
            assert published == 0


OPERATIONS = ("wait", "change", "undo", "heartbeat", "cut", "pause")


@pytest.mark.usefixtures("channels")
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=25))
async def test_no_interleaving_of_waits_changes_and_cuts_misses_a_change(
    tasks: TaskStore, redis_server: Server, operations: list[str]
) -> None:
    redis_server.flush()
    await new(tasks, "t1")
    known = await report(tasks, "t1", "0")
    waits: list[tuple[int, asyncio.Future[Task | None]]] = []
    changes = 0
    working: list[asyncio.Future[Any]] = []
    for operation in operations:
        match operation:
            case "wait":
                waits.append((changes, asyncio.ensure_future(tasks.wait(known, anything))))
            case "change":
                changes += 1
                known = await report(tasks, "t1", f"{changes}")
            case "undo":
                changes += 1
                await asyncio.gather(report(tasks, "t1", "other"), report(tasks, "t1", f"{changes}"))
                known = await report(tasks, "t1", f"{changes}")
            case "heartbeat":
                working.append(asyncio.ensure_future(tasks.heartbeat("t1")))
            case "cut":
                for node in nodes(redis_server):
                    with node.connect() as client:
                        client.client_kill_filter(_type="pubsub")
            case _:
                for _ in range(20):
                    await asyncio.sleep(0)
    await asyncio.gather(*working)
    await soon(asyncio.gather(*(wait for since, wait in waits if since < changes)))  # type: ignore[arg-type]
    last = await report(tasks, "t1", "the last", State.COMPLETED)
    for since, wait in waits:
        found = await soon(wait)
        assert found is not None
        assert found.state.is_terminal or since < changes
    assert await tasks.get("t1") == last


async def test_a_wait_outlives_a_restart_of_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with opened(server.url) as store:
            known = [await new(store, task_id) for task_id in IDS[:3]]
            waits = [asyncio.ensure_future(store.wait(task, anything)) for task in known]
            await begun(server, *IDS[:3])
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            async with opened(server.url) as other:  # before this process has listened again, perhaps
                changed = [await report(other, task_id, "on it") for task_id in IDS[:2]]
            assert [await soon(wait) for wait in waits[:2]] == changed
            await begun(server, IDS[2])
            assert await _changed(store, IDS[2]) == await soon(waits[2])


async def test_waits_on_one_node_outlive_its_death(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        with cluster.nodes[0].connect() as client:
            client.config_set("appendfsync", "always")
        async with opened(cluster.url) as store:
            known = [await new(store, task_id) for task_id in IDS]
            waits = {task.id: asyncio.ensure_future(store.wait(task, anything)) for task in known}
            await begun(cluster, *IDS)
            mine = [task_id for task_id in IDS if key_slot(record_key(task_id).encode()) < 16384 // 3]
            await asyncio.to_thread(cluster.nodes[0].kill)
            for task_id in IDS:
                if task_id not in mine:
                    assert await _changed(store, task_id) == await soon(waits[task_id])
            await asyncio.to_thread(cluster.nodes[0].start)
            for task in known:
                if task.id in mine:
                    await answered(lambda task=task: _changed(store, task.id))
                    found = await soon(waits[task.id])
                    assert found is not None
                    assert found.version > task.version


async def test_waits_outlive_the_death_of_a_whole_cluster(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        for node in cluster.nodes:
            with node.connect() as client:
                client.config_set("appendfsync", "always")
        async with opened(cluster.url) as store:
            known = [await new(store, task_id) for task_id in IDS]
            waits = [asyncio.ensure_future(store.wait(task, anything)) for task in known]
            await begun(cluster, *IDS)
            failures = store._link._subscriptions._failures
            for node in cluster.nodes:
                node.kill()
            await until(lambda: len(failures) >= len(cluster.nodes) and max(failures.values()) > 2)
            for node in cluster.nodes:
                node.start()
            for task, wait in zip(known, waits, strict=True):
                await answered(lambda task=task: _changed(store, task.id))
                found = await soon(wait)
                assert found is not None
                assert found.version > task.version


@pytest.fixture
def restricted(redis_server: Server, redis_url: str) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a user with fewer rights on an empty Redis."""

    def make(rights: str) -> str:
        for node in nodes(redis_server):
            with node.connect() as client:
                client.execute_command("ACL SETUSER", "less", "on", ">secret", "~*", "+@all", *rights.split())
        return nodes(redis_server)[0].url.replace("redis://", "redis://less:secret@")

    yield make
    for node in nodes(redis_server):
        with node.connect() as client:
            client.execute_command("ACL DELUSER", "less")


async def test_a_server_that_refuses_messages_refuses_no_step_and_no_wait(
    restricted: Callable[[str], str],
) -> None:
    async with opened(restricted("resetchannels")) as store:
        known = await new(store, "t1")
        changed = await report(store, "t1", "on it")
        assert await soon(store.wait(known, anything)) == changed
        wait = asyncio.ensure_future(store.wait(changed, anything))
        for _ in range(3):
            await store.get("t1")
        assert await _changed(store, "t1") == await soon(wait)


async def test_a_server_that_lets_nobody_listen_is_complained_of_once(
    restricted: Callable[[str], str], redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(restricted("resetchannels")) as store:
        waits: list[asyncio.Future[Task | None]] = []
        failures = store._link._subscriptions._failures
        for task_id in IDS:  # each begins to wait after a further attempt has failed
            waits.append(asyncio.ensure_future(store.wait(await new(store, task_id), anything)))
            await until(lambda: sum(failures.values()) > len(waits) // 4)
        for task_id, wait in zip(IDS, waits, strict=True):
            assert await _changed(store, task_id) == await soon(wait)
    complaints = [record for record in caplog.records if "cannot be heard" in record.message]
    assert len(complaints) <= len(nodes(redis_server))


async def _changed(store: TaskStore, task_id: str) -> Task:
    return await report(store, task_id, f"further {time.monotonic()}")


async def test_a_quiet_connection_is_asked_and_stays(
    tasks: TaskStore, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_SILENCE_S", 0.02)
    known = await new(tasks, "t1")
    wait = asyncio.ensure_future(tasks.wait(known, anything))
    await begun(redis_server, "t1")

    def asked() -> bool:
        clients = [client for node in nodes(redis_server) for client in pubsub_clients(node)]
        return [client["cmd"] for client in clients] == ["ping"]

    await until(asked)
    assert await _changed(tasks, "t1") == await soon(wait)


async def test_a_connection_that_nobody_needs_any_more_is_closed(
    tasks: TaskStore, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_SILENCE_S", 0.02)
    for _ in range(2):
        known = await tasks.get("t1") or await new(tasks, "t1")
        wait = asyncio.ensure_future(tasks.wait(known, anything))
        await begun(redis_server, "t1")
        assert await _changed(tasks, "t1") == await soon(wait)
        await until(lambda: not heard(redis_server) and not tasks._link._subscriptions._lines)


def pubsub_clients(node: RedisServer) -> list[dict[str, str]]:
    with node.connect() as client:
        return client.client_list(_type="pubsub")
