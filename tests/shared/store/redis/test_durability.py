"""With ``DURABILITY``, what a client hears as stored is on a replica or on the disk."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.client import RedisAddress, connect
from shared.store.redis.durability import Durability, DurabilityUnavailable
from shared.store.redis.link import NotAcknowledged, RedisLink, StoreUnavailable
from shared.store.store import TaskStore
from shared.tasks.outcomes import Applied, Claimed, Created, SlotGrant, Unacknowledged
from shared.tasks.task import Content, NewTask, State
from tests.shared.store.conftest import POLICY, Clock, Store
from tests.waiting import eventually

LIMIT_BYTES = 400_000
"""The size of the disk: more than what scripts and a few tasks take, and less than some hundred tasks."""


def opened(url: str, durability: Durability) -> Store:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), no_identity, durability), durability)
    return Store(link, POLICY, Clock())


def whole(url: str, durability: Durability) -> TaskStore:
    """A store with its queues."""
    return TaskStore(RedisLink(lambda: connect(RedisAddress.parse(url), no_identity, durability), durability), POLICY)


def no_identity() -> Any:
    raise AssertionError("no managed identity is needed")


def new_task(number: int, size_bytes: int = 10) -> NewTask:
    body = b"x" * size_bytes
    return NewTask(f"t{number}", "/v1/a", 60, body=Content("text/plain", len(body)), inline_body=body)


class SmallDisk(RedisServer):
    """A server whose disk can be full: its files stay below a limit, and the kernel refuses what would exceed it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        # The signal of the limit would end the server. Ignored, as a child inherits it, the write fails instead.
        self._command = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *self._command]

    def fill(self) -> None:
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "redis") as server:
        yield server


async def submitted(store: Store, numbers: Sequence[int]) -> list[int]:
    """The tasks among *numbers* whose create was acknowledged."""

    async def submit(number: int) -> int | None:
        try:
            return number if isinstance(await store.create(new_task(number, 2000)), Created) else None
        except StoreUnavailable:
            return None

    done = await asyncio.gather(*map(submit, numbers))
    return [number for number in done if number is not None]


async def test_no_task_that_was_acknowledged_is_lost_with_a_full_disk(small_disk: SmallDisk) -> None:
    store = opened(small_disk.url, "fsync")
    assert await submitted(store, [0]) == [0]
    small_disk.fill()
    acknowledged = [0]
    for begin in range(1, 400, 20):
        more = await submitted(store, range(begin, begin + 20))
        acknowledged += more
        if len(more) < 20:
            break
    else:
        pytest.fail("the disk never became full")
    small_disk.kill()
    await store.aclose()
    small_disk.start()
    again = opened(small_disk.url, "none")
    lost = [number for number in acknowledged if await again.get(f"t{number}") is None]
    await again.aclose()
    assert lost == []
    assert len(acknowledged) > 10


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "primary") as server:
        yield server


@pytest.fixture
def replica(tmp_path: Path, primary: RedisServer) -> Iterator[RedisServer]:
    arguments = ("--replicaof", f"127.0.0.1 {primary.port}")
    with RedisServer(tmp_path / "replica", extra_arguments=arguments) as server:
        yield server


def replicates(primary: RedisServer) -> None:
    def connected() -> bool:
        with primary.connect() as client:
            client.set("written", "")
            return client.execute_command("WAIT", 1, 100) == 1

    eventually(connected)


async def test_what_was_acknowledged_is_on_the_replica(primary: RedisServer, replica: RedisServer) -> None:
    replicates(primary)
    store = opened(primary.url, "replica")
    acknowledged = await submitted(store, range(100))
    primary.kill()
    await store.aclose()
    assert len(acknowledged) == 100
    with replica.connect() as client:
        records = sum(1 for key in client.scan_iter(match="*t:t*", count=1000) if "t:t" in key)
    assert records == 100


async def test_without_a_replica_nothing_is_acknowledged_and_the_task_is_kept(primary: RedisServer) -> None:
    store = opened(primary.url, "replica")
    with pytest.raises(StoreUnavailable):
        await store.create(new_task(1))
    task = await store.get("t1")
    assert task is not None
    assert task.state is State.CREATED
    with pytest.raises(NotAcknowledged):
        await store.create(new_task(1))
    assert isinstance(await store.cancel("t1"), Unacknowledged)
    await store.aclose()


async def test_a_repetition_is_acknowledged_as_little_as_the_first_time(primary: RedisServer) -> None:
    """It writes nothing itself, so its connection alone has nothing that a replica could lack."""
    store = opened(primary.url, "replica")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.create(new_task(1))
    other = opened(primary.url, "replica")
    with pytest.raises(StoreUnavailable):
        await other.create(new_task(1))
    await store.aclose()
    await other.aclose()


async def test_a_claim_needs_no_acknowledgement(primary: RedisServer) -> None:
    """Given up, it would cost the task an attempt, and with the replica gone for long all of them."""
    plain, store = opened(primary.url, "none"), opened(primary.url, "replica")
    await plain.create(new_task(1))
    claimed = await store.claim("t1", None)
    assert isinstance(claimed, Claimed)
    assert isinstance(await store.accepted(claimed.task), Applied)
    await plain.aclose()
    await store.aclose()


async def test_a_script_that_the_server_lacks_is_brought_and_acknowledged(
    primary: RedisServer, replica: RedisServer
) -> None:
    replicates(primary)
    store = opened(primary.url, "replica")
    for number in range(3):
        with primary.connect() as client:
            client.script_flush()
        assert isinstance(await store.create(new_task(number)), Created)
    await store.aclose()


async def test_a_cluster_acknowledges_on_each_of_its_nodes(tmp_path: Path) -> None:
    with RedisCluster(tmp_path / "cluster") as cluster:
        store = opened(cluster.url, "fsync")
        assert len(await submitted(store, range(60))) == 60
        await store.aclose()
        unreplicated = opened(cluster.url, "replica")
        assert await submitted(unreplicated, range(100, 120)) == []
        assert all([await unreplicated.get(f"t{number}") for number in range(100, 120)])
        await unreplicated.aclose()


async def test_a_server_without_a_file_is_refused_in_words(
    primary: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with primary.connect() as client:
        client.config_set("appendonly", "no")
    with pytest.raises(DurabilityUnavailable, match="append-only file is off"):
        await connect(RedisAddress.parse(primary.url), no_identity, "fsync")
    assert "DURABILITY=fsync" in caplog.text


async def test_a_server_that_forbids_the_question_is_refused_in_words(primary: RedisServer) -> None:
    with primary.connect() as client:
        client.execute_command("ACL SETUSER app on >secret ~* &* +@all -wait")
    with pytest.raises(DurabilityUnavailable, match=r"\+wait"):
        await connect(RedisAddress.parse(f"redis://app:secret@127.0.0.1:{primary.port}"), no_identity, "replica")


async def test_a_completion_without_acknowledgement_grants_its_slot_on_a_cluster_too(tmp_path: Path) -> None:
    with RedisCluster(tmp_path / "cluster") as cluster:
        plain, store = whole(cluster.url, "none"), whole(cluster.url, "replica")
        await plain.queues.configure("/v1/a", {"limit": 1})
        followed: list[Applied] = []
        store.after_unacknowledged = followed.append
        first, second = [await plain.create(new_task(number)) for number in (1, 2)]
        assert isinstance(first, Created)
        assert isinstance(second, Created)
        claimed = await plain.claim("t1", 1)
        assert isinstance(claimed, Claimed)
        await plain.accept(claimed.task)
        with pytest.raises(StoreUnavailable):
            await store.update("t1", state=State.COMPLETED, status="completed")
        (applied,) = followed
        assert [grant for each in applied.granted for grant in each.grants] == [SlotGrant("t2", 1)]
        await plain.aclose()
        await store.aclose()


async def test_a_task_that_was_created_without_acknowledgement_has_its_slot(primary: RedisServer) -> None:
    store = whole(primary.url, "replica")
    with pytest.raises(NotAcknowledged) as raised:
        await store.create(new_task(1))
    assert [grant for each in raised.value.granted for grant in each.grants] == [SlotGrant("t1", 1)]
    await store.aclose()


async def test_a_task_that_was_created_apart_from_its_queue_keeps_its_slot_too(tmp_path: Path) -> None:
    with RedisCluster(tmp_path / "cluster") as cluster:
        store = whole(cluster.url, "replica")
        with pytest.raises(NotAcknowledged) as raised:
            await store.create(new_task(1))
        assert [grant for each in raised.value.granted for grant in each.grants] == [SlotGrant("t1", 1)]
        await store.aclose()


async def test_a_server_that_does_not_know_the_question_is_refused_in_words(tmp_path: Path) -> None:
    arguments = ("--rename-command", "WAITAOF", "GONE")
    with (
        RedisServer(tmp_path / "old", extra_arguments=arguments) as server,
        pytest.raises(DurabilityUnavailable, match=r"it has no WAITAOF, which needs Redis 7\.2 or Valkey"),
    ):
        await connect(RedisAddress.parse(server.url), no_identity, "fsync")
