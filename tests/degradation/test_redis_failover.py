"""Failover: the store's server is no longer the primary, or a slot has moved to another node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from local.redis_server import RedisCluster, RedisServer
from shared.store import TaskStore
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import TAGS, partition
from shared.tasks.outcomes import Claimed, Created, Existing, Granted, Refused, SlotGrant
from shared.tasks.task import Content, NewTask, State, Task
from tests.degradation.conftest import OpenStore
from tests.degradation.switch import Switch
from tests.shared.store.conftest import answered
from tests.shared.store.test_changes import IDS, begun, nothing, report, soon
from tests.waiting import PATIENCE_S, eventually


def new_task(task_id: str) -> NewTask:
    return NewTask(task_id, "/v1/a", 60, body=Content("text/plain", 5), inline_body=b"hello")


async def claim(store: TaskStore, task_id: str) -> Claimed | Refused:
    """Claim a task as if its queue had granted it a slot."""
    return await store.claim_granted(Granted("/v1/a", []), SlotGrant(task_id, 1))


def replicate_at_once(primary: RedisServer) -> None:
    """Let *primary* copy itself to a replica without waiting for more replicas."""
    with primary.connect() as client:
        client.config_set("repl-diskless-sync-delay", 0)


def offset(server: RedisServer) -> int:
    with server.connect() as client:
        return int(client.info("replication")["master_repl_offset"])


@pytest.fixture
def replica(tmp_path: Path, server: RedisServer) -> Iterator[RedisServer]:
    replicate_at_once(server)
    with RedisServer(tmp_path / "replica") as replica:
        with replica.connect() as client:
            client.replicaof("127.0.0.1", str(server.port))
            eventually(lambda: client.info("replication")["master_link_status"] == "up")
        yield replica
    with server.connect() as client:
        client.replicaof("NO", "ONE")


def swap_roles(primary: RedisServer, replica: RedisServer) -> None:
    eventually(lambda: offset(primary) == offset(replica))
    with primary.connect() as old, replica.connect() as new:
        new.replicaof("NO", "ONE")
        old.replicaof("127.0.0.1", str(replica.port))
        eventually(lambda: old.info("replication")["master_link_status"] == "up")


async def test_store_reconnects_by_name_when_its_primary_becomes_a_replica(
    open_store: OpenStore, switch: Switch, server: RedisServer, replica: RedisServer
) -> None:
    store = open_store(switch.port)
    await asyncio.gather(*(store.create(new_task(task_id)) for task_id in IDS))
    swap_roles(server, replica)
    switch.target_port = replica.port  # for new connections; the store's open ones stay up
    with pytest.raises(StoreUnavailable):
        await claim(store, IDS[0])
    # The store uses none of its old connections again.
    claimed = await asyncio.gather(*(claim(store, task_id) for task_id in IDS))
    assert {type(outcome) for outcome in claimed} == {Claimed}


async def test_replica_refuses_steps_and_serves_reads_until_the_name_changes(
    open_store: OpenStore, switch: Switch, server: RedisServer, replica: RedisServer
) -> None:
    store = open_store(switch.port)
    await store.create(new_task("t1"))
    swap_roles(server, replica)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await claim(store, "t1")
        assert await store.get("t1")
    switch.target_port = replica.port
    assert isinstance(await answered(lambda: claim(store, "t1")), Claimed)


class Node:
    """A node of a cluster, with the commands that the tests send it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.id = str(self("MYID"))

    def __call__(self, *words: str | int) -> Any:
        with self.server.connect() as client:
            return client.execute_command(f"CLUSTER {words[0]}", *words[1:])

    def role(self) -> str:
        with self.server.connect() as client:
            return str(client.info("replication")["role"])


def slot_of(task_id: str) -> int:
    return key_slot(TAGS[partition(task_id)].encode())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Node]]:
    """Three primaries, and last a replica of the first one."""
    with RedisCluster(tmp_path) as cluster:
        nodes = [Node(server) for server in cluster.nodes]
        replicate_at_once(nodes[0].server)
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-announce-ip", "127.0.0.1")
        with RedisServer(tmp_path / "replica", extra_arguments=options) as server:
            replica = Node(server)
            replica("MEET", "127.0.0.1", nodes[0].server.port)
            eventually(lambda: nodes[0].id in str(replica("NODES")))
            replica("REPLICATE", nodes[0].id)
            with server.connect() as client:
                eventually(lambda: client.info("replication").get("master_link_status") == "up")
            eventually(lambda: all(replica.id in str(node("NODES")) for node in nodes))
            yield [*nodes, replica]


FIRST_THIRD = [task_id for task_id in IDS if slot_of(task_id) < 16384 // 3]
SECOND_THIRD = [task_id for task_id in IDS if 16384 // 3 < slot_of(task_id) < 16384 * 2 // 3]
REST = [task_id for task_id in IDS if task_id not in FIRST_THIRD]


async def claim_all(store: TaskStore, task_ids: list[str]) -> None:
    for task_id in task_ids:
        assert isinstance(await answered(lambda task_id=task_id: claim(store, task_id)), Claimed)


async def test_store_finds_a_replica_that_takes_over(open_store: OpenStore, cluster: list[Node]) -> None:
    store = open_store(cluster[0].server.port)
    await asyncio.gather(*(store.create(new_task(task_id)) for task_id in IDS))
    cluster[-1]("FAILOVER", "TAKEOVER")
    eventually(lambda: cluster[-1].role() == "master" and cluster[0].role() == "slave")
    await claim_all(store, IDS)


async def test_dead_primary_stops_only_its_own_tasks_until_its_replica_takes_over(
    open_store: OpenStore, cluster: list[Node]
) -> None:
    store = open_store(cluster[0].server.port)
    await asyncio.gather(*(store.create(new_task(task_id)) for task_id in IDS))
    primary, replica = cluster[0], cluster[-1]
    eventually(lambda: offset(primary.server) == offset(replica.server))
    with replica.server.connect() as client:
        client.config_set("cluster-replica-no-failover", "yes")
        primary.server.kill()
        with pytest.raises(StoreUnavailable):
            await claim(store, FIRST_THIRD[0])
        client.config_set("cluster-replica-no-failover", "no")
    claimed = await asyncio.gather(*(claim(store, task_id) for task_id in REST))
    assert {type(outcome) for outcome in claimed} == {Claimed}
    await claim_all(store, FIRST_THIRD)
    assert replica.role() == "master"


async def sweep(store: TaskStore) -> None:
    async for _ in store.sweep():
        pass


def give_slot(cluster: list[Node], slot: int, target: Node) -> None:
    for node in (target, *(node for node in cluster[:3] if node is not target)):
        node("SETSLOT", slot, "NODE", target.id)


async def test_tasks_of_a_migrating_slot_are_unavailable_until_it_has_moved(
    open_store: OpenStore, cluster: list[Node]
) -> None:
    """Keys move one by one, so a script would find only a part of a task on either node."""
    store = open_store(cluster[0].server.port)
    source, target = cluster[1], cluster[2]
    task_id = SECOND_THIRD[0]
    slot, created = slot_of(task_id), await store.create(new_task(task_id))
    assert isinstance(created, Created)
    target("SETSLOT", slot, "IMPORTING", source.id)
    source("SETSLOT", slot, "MIGRATING", target.id)
    with source.server.connect() as client:
        keys: list[str] = source("GETKEYSINSLOT", slot, 100)
        for moved in range(len(keys) + 1):
            for step in (
                lambda: claim(store, task_id),
                lambda: store.create(new_task(task_id)),
                lambda: sweep(store),
            ):
                with pytest.raises(StoreUnavailable):
                    await step()
            with suppress(StoreUnavailable):
                assert await store.get(task_id) == created.task
            if moved < len(keys):
                client.migrate("127.0.0.1", target.server.port, keys[moved], 0, 1000 * PATIENCE_S)
    give_slot(cluster, slot, target)
    assert await answered(lambda: store.get(task_id)) == created.task
    assert isinstance(await store.create(new_task(task_id)), Existing)
    await claim_all(store, [task_id])


Waiting = dict[str, "asyncio.Task[Task | None]"]


async def waiting_for(store: TaskStore, *task_ids: str) -> Waiting:
    """A wait for the end of each of these new tasks."""
    created = await asyncio.gather(*(store.create_unqueued(new_task(task_id)) for task_id in task_ids))
    tasks = [outcome.task for outcome in created if isinstance(outcome, Created)]
    return {task.id: asyncio.create_task(store.wait(task, nothing)) for task in tasks}


async def hear_of_their_ends(store: TaskStore, waiting: Waiting) -> None:
    """End the tasks, each by a step that another process takes, and so will all waits."""
    ended = {
        task_id: await answered(lambda task_id=task_id: report(store, task_id, "done", State.COMPLETED))
        for task_id in waiting
    }
    assert {task_id: await soon(wait) for task_id, wait in waiting.items()} == ended


async def test_a_wait_outlives_the_change_of_its_primary_to_a_replica(
    open_store: OpenStore, switch: Switch, server: RedisServer, replica: RedisServer
) -> None:
    waiting = await waiting_for(open_store(switch.port), *IDS)
    await begun(server, *IDS)
    swap_roles(server, replica)
    switch.target_port = replica.port
    await hear_of_their_ends(open_store(replica.port), waiting)


async def test_a_wait_outlives_a_failover_of_a_cluster(open_store: OpenStore, cluster: list[Node]) -> None:
    waiting = await waiting_for(open_store(cluster[0].server.port), *IDS)
    await begun(cluster[0].server, *FIRST_THIRD)
    cluster[-1]("FAILOVER", "TAKEOVER")
    eventually(lambda: cluster[-1].role() == "master" and cluster[0].role() == "slave")
    await hear_of_their_ends(open_store(cluster[1].server.port), waiting)


async def test_a_wait_moves_with_its_slot(open_store: OpenStore, cluster: list[Node]) -> None:
    source, target = cluster[1], cluster[2]
    task_id = SECOND_THIRD[0]
    waiting = await waiting_for(open_store(cluster[0].server.port), task_id)
    await begun(source.server, task_id)
    slot = slot_of(task_id)
    target("SETSLOT", slot, "IMPORTING", source.id)
    source("SETSLOT", slot, "MIGRATING", target.id)
    with source.server.connect() as client:
        keys: list[str] = source("GETKEYSINSLOT", slot, 100)
        client.migrate("127.0.0.1", target.server.port, keys, 0, 1000 * PATIENCE_S)
    give_slot(cluster, slot, target)
    await begun(target.server, task_id)
    await hear_of_their_ends(open_store(cluster[0].server.port), waiting)
