"""With ``DURABILITY``, what a client hears as stored is on a replica or on the disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from local.redis_server import RedisCluster, RedisServer
from shared import telemetry
from shared.store.policy import StorePolicy
from shared.store.redis import durability, loan, pipelining
from shared.store.redis.client import RedisAddress, connect
from shared.store.redis.durability import WAITAOF_SINCE, Durability, DurabilityUnavailable
from shared.store.redis.link import NotAcknowledged, RedisLink, StoreUnavailable
from shared.store.redis.scripts import read_scripts
from shared.store.store import TaskStore
from shared.tasks.outcomes import Applied, Claimed, Created, Existing, Full, SlotGrant, Unacknowledged
from shared.tasks.task import Content, NewTask, State
from shared.tasks.uploads import NewUpload
from tests.faults.hostile_redis import SmallDisk
from tests.shared.store.conftest import POLICY, Clock, Store, answered
from tests.waiting import PATIENCE_S, eventually

LIMIT_BYTES = 400_000
"""The size of the disk: more than what scripts and a few tasks take, and less than some hundred tasks."""


_READS: Final = "it writes nothing that counts"
_UPKEEP: Final = "nobody hears of it; done again at the next deadline or round"
_QUEUE: Final = "a queue is rebuilt from the records"
_PASSING: Final = "it is reported again all the time"
_BATCH: Final = "a batch looks for what became of its children"
UNHEARD: Final = {
    **dict.fromkeys(("backend/endpoints", "backend/outages", "batch/children", "keyed/secret"), _READS),
    **dict.fromkeys(("queue/held_paths", "queue/holds", "queue/owners", "queue/status", "queue/waiting"), _READS),
    **dict.fromkeys(("queue/paths_with_settings", "requests/count", "requests/counts", "requests/fields"), _READS),
    **dict.fromkeys(("queue/series", "queue/series_paths", "queue/totals"), _READS),
    **dict.fromkeys(("task/depths", "task/idle_entries", "task/list", "task/open_paths", "task/paths"), _READS),
    **dict.fromkeys(("task/publish_command", "task/queue_entries", "task/records", "upload/get"), _READS),
    **dict.fromkeys(("combined/claim", "reconciler/begin_round", "reconciler/note_events"), _UPKEEP),
    **dict.fromkeys(("task/check_slots", "task/completions_published", "task/lost", "task/note_fenced"), _UPKEEP),
    **dict.fromkeys(("task/purge", "task/start", "task/sweep", "upload/forget", "upload/give_back"), _UPKEEP),
    **dict.fromkeys(("queue/accepted", "queue/away", "queue/enqueue", "queue/failed", "queue/maintain"), _QUEUE),
    **dict.fromkeys(
        ("queue/grant_free_slots", "queue/mark_held", "queue/mark_rebuilt", "queue/note_holders", "queue/refused"),
        _QUEUE,
    ),
    **dict.fromkeys(("queue/release", "queue/released", "queue/reschedule_check", "queue/return_entry"), _QUEUE),
    **dict.fromkeys(
        ("backend/admit", "backend/note", "queue/note_oldest", "queue/told", "requests/report"), _PASSING
    ),
    **dict.fromkeys(("batch/acknowledge", "batch/forget", "batch/mark", "batch/report", "batch/rest"), _BATCH),
    **dict.fromkeys(("callback/counts", "callback/due", "callback/state"), _READS),
    **dict.fromkeys(("callback/claim", "callback/look", "callback/note"), _UPKEEP),
    "audit/read": _READS,
    "audit/begin": "the action's own write comes after it: where that has arrived, this has too",
    "audit/finish": "the action is on record, as one of which nobody knows what came of it",
    "callback/record": "a message whose delivery is forgotten is delivered again: at least once",
    "combined/report_ends": _BATCH,
    **dict.fromkeys(("schedule/due", "schedule/get", "schedule/page"), _READS),
    **dict.fromkeys(("schedule/expect_blob", "schedule/forget_blobs", "schedule/look_later"), _UPKEEP),
    "queue/forget_delayed": "what counts for longer is forgotten an hour after its start",
    "schedule/settle": "the run is started again, and finds its task",
    "task/mend": _UPKEEP,
    "task/watch_clock": _UPKEEP,
}
"""The scripts of which no client hears that something is stored, and why what they lose does no harm."""
SLOW_ACKNOWLEDGEMENT: Final = 600_000
"""In ms: longer than a test waits."""


def opened(url: str, what: Durability) -> Store:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), no_identity, what), what)
    return Store(link, POLICY, Clock())


def whole(url: str, what: Durability, policy: StorePolicy = POLICY) -> TaskStore:
    """A store with its queues."""
    return TaskStore(RedisLink(lambda: connect(RedisAddress.parse(url), no_identity, what), what), policy)


def no_identity() -> Any:
    raise AssertionError("no managed identity is needed")


def new_task(number: int, size_bytes: int = 10) -> NewTask:
    body = b"x" * size_bytes
    return NewTask(f"t{number}", "/v1/a", 60, body=Content("text/plain", len(body)), inline_body=body)


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
    small_disk.fill(LIMIT_BYTES)
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
    with RedisServer(tmp_path / "primary", minimum_version=WAITAOF_SINCE) as server:
        yield server


@pytest.fixture
def replica(tmp_path: Path, primary: RedisServer) -> Iterator[RedisServer]:
    arguments = ("--replicaof", f"127.0.0.1 {primary.port}")
    with RedisServer(tmp_path / "replica", extra_arguments=arguments, minimum_version=WAITAOF_SINCE) as server:
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


async def test_a_repetition_is_acknowledged_as_little_as_the_first_time(
    primary: RedisServer, replica: RedisServer
) -> None:
    """It writes nothing itself, so its connection alone has nothing that a replica could lack."""
    replicates(primary)
    store, other = opened(primary.url, "replica"), opened(primary.url, "replica")
    await store.create(new_task(1))
    assert isinstance(await other.create(new_task(1)), Existing | Created)
    os.kill(replica.pid, signal.SIGSTOP)  # still connected
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.create(new_task(2))
        with pytest.raises(StoreUnavailable):
            await other.create(new_task(2))
    finally:
        os.kill(replica.pid, signal.SIGCONT)
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
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
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
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
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
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
        store = whole(cluster.url, "replica")
        with pytest.raises(NotAcknowledged) as raised:
            await store.create(new_task(1))
        assert [grant for each in raised.value.granted for grant in each.grants] == [SlotGrant("t1", 1)]
        await store.aclose()


async def test_a_server_that_does_not_know_the_question_is_refused_in_words(tmp_path: Path) -> None:
    arguments = ("--rename-command", "WAITAOF", "GONE")
    with (
        RedisServer(tmp_path / "old", extra_arguments=arguments, minimum_version=WAITAOF_SINCE) as server,
        pytest.raises(DurabilityUnavailable, match=r"it has no WAITAOF, which needs Redis 7\.2 or Valkey"),
    ):
        await connect(RedisAddress.parse(server.url), no_identity, "fsync")


async def test_every_node_of_a_cluster_is_asked(tmp_path: Path) -> None:
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
        address = RedisAddress.parse(cluster.url)
        with cluster.nodes[2].connect() as client:
            client.config_set("appendonly", "no")
        with pytest.raises(DurabilityUnavailable, match="append-only file is off"):
            await connect(address, no_identity, "fsync")
        with cluster.nodes[2].connect() as client:
            client.config_set("appendonly", "yes")
        await (await connect(address, no_identity, "fsync")).aclose()
        cluster.nodes[2].kill()  # one that is away keeps nobody from the others
        await (await connect(address, no_identity, "fsync")).aclose()


async def test_a_server_that_never_syncs_its_file_is_refused_in_words(primary: RedisServer) -> None:
    """It would acknowledge nothing, ever."""
    with primary.connect() as client:
        client.config_set("appendfsync", "no")
    with pytest.raises(DurabilityUnavailable, match="set appendfsync to always"):
        await connect(RedisAddress.parse(primary.url), no_identity, "fsync")


@pytest.mark.parametrize(("policy", "is_warned_of"), [("everysec", True), ("always", False)])
async def test_a_file_that_is_synced_each_second_is_warned_of(
    primary: RedisServer, caplog: pytest.LogCaptureFixture, policy: str, is_warned_of: bool
) -> None:
    """Valkey 9 says up to a second too early that it has synced it."""
    with primary.connect() as client:
        client.config_set("appendfsync", policy)
    await (await connect(RedisAddress.parse(primary.url), no_identity, "fsync")).aclose()
    assert ("Against a loss of power, set it to always" in caplog.text) is is_warned_of


async def test_a_server_that_keeps_its_configuration_to_itself_is_used(primary: RedisServer) -> None:
    with primary.connect() as client:
        client.execute_command("ACL SETUSER app on >secret ~* &* +@all -config")
    address = RedisAddress.parse(f"redis://app:secret@127.0.0.1:{primary.port}")
    await (await connect(address, no_identity, "fsync")).aclose()


async def test_a_server_without_a_replica_is_used_and_the_log_says_what_that_means(
    primary: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await (await connect(RedisAddress.parse(primary.url), no_identity, "replica")).aclose()
    assert "Redis has no replica now" in caplog.text


async def test_a_replica_is_no_server_that_cannot_do_it(
    primary: RedisServer, replica: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name may lead to it for a while, as after a failover."""
    replicates(primary)
    with pytest.raises(ReadOnlyError):
        await connect(RedisAddress.parse(replica.url), no_identity, "replica")
    assert "cannot do what DURABILITY" not in caplog.text


async def test_a_file_that_is_turned_off_meanwhile_is_named_in_the_log(
    primary: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(telemetry, "unacknowledged", lambda reason, steps: counted.append((reason, steps)))
    store = opened(primary.url, "fsync")
    assert isinstance(await store.create(new_task(1)), Created)
    with primary.connect() as client:
        client.config_set("appendonly", "no")
    for number in (2, 3):
        with pytest.raises(NotAcknowledged):
            await store.create(new_task(number))
    said = [record.getMessage() for record in caplog.records if "DURABILITY=fsync" in record.getMessage()]
    assert len(said) == 1  # not one for each step
    assert "its append-only file is off: set appendonly to yes" in said[0]
    assert counted == [("refused", 1), ("refused", 1)]
    with primary.connect() as client:
        client.config_set("appendonly", "yes")
    assert isinstance(await answered(lambda: store.create(new_task(2))), Existing)
    await store.aclose()


@pytest.fixture
def patient_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis goes on waiting for what does not come, and so does the app."""
    monkeypatch.setattr(durability, "ACKNOWLEDGE_TIMEOUT_MS", SLOW_ACKNOWLEDGEMENT)
    monkeypatch.setattr(loan, "REPLY_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(pipelining, "CALL_TIMEOUT_S", PATIENCE_S)


async def waiting_create(store: Store, primary: RedisServer) -> asyncio.Task[object]:
    """A create that was run, and whose acknowledgement is waited for."""
    plain = opened(primary.url, "none")
    await plain.create(new_task(2))  # else the server would not know the script yet, and wait for what was not run
    await plain.aclose()
    creating = asyncio.ensure_future(store.create(new_task(1)))

    def waits() -> bool:
        with primary.connect() as client:
            return cast("dict[str, int]", client.info("clients"))["blocked_clients"] > 0

    await asyncio.to_thread(eventually, waits)
    return creating


@pytest.mark.usefixtures("patient_acknowledgements")
async def test_a_store_that_closes_meanwhile_acknowledges_nothing(primary: RedisServer) -> None:
    store = opened(primary.url, "replica")
    creating = await waiting_create(store, primary)
    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await creating


@pytest.mark.usefixtures("patient_acknowledgements")
async def test_a_primary_that_is_demoted_meanwhile_acknowledges_nothing(primary: RedisServer, tmp_path: Path) -> None:
    store = opened(primary.url, "replica")
    creating = await waiting_create(store, primary)
    with RedisServer(tmp_path / "other", minimum_version=WAITAOF_SINCE) as other, primary.connect() as client:
        client.replicaof("127.0.0.1", other.port)
        with pytest.raises(StoreUnavailable):
            await creating
    await store.aclose()


@pytest.mark.usefixtures("patient_acknowledgements")
async def test_a_wait_that_somebody_interrupts_acknowledges_nothing(primary: RedisServer) -> None:
    store = opened(primary.url, "replica")
    creating = await waiting_create(store, primary)
    with primary.connect() as client:
        client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    with pytest.raises(StoreUnavailable):
        await creating
    await store.aclose()


def test_without_its_write_the_question_says_nothing() -> None:
    """Of a connection that has written nothing, whatever replicas there are have all."""
    assert durability.arrived([b"OK", 1])
    assert not durability.arrived([OutOfMemoryError("command not allowed"), 1])
    assert not durability.arrived([b"OK"])
    assert not durability.arrived([])


async def test_the_secret_of_keys_is_acknowledged_before_an_id_hangs_on_it(tmp_path: Path) -> None:
    """On a cluster it lies on another node than the task, whose acknowledgement says nothing of it."""
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
        store = opened(cluster.url, "replica")
        with pytest.raises(NotAcknowledged):
            await store.keyed_ids.id_of("", "/v1/a", "key")
        plain = opened(cluster.url, "none")
        assert await plain.keyed_ids.id_of("", "/v1/a", "key")
        await store.aclose()
        await plain.aclose()


async def test_a_full_queue_keeps_no_task_that_was_created_without_acknowledgement(tmp_path: Path) -> None:
    """It would come to the queue at its deadline, and the queue would grow with each repetition."""
    with RedisCluster(tmp_path / "cluster", minimum_version=WAITAOF_SINCE) as cluster:
        policy = replace(POLICY, max_backlog=1)
        plain, store = whole(cluster.url, "none", policy), whole(cluster.url, "replica", policy)
        await plain.queues.configure("/v1/a", {"paused": True})
        assert isinstance(await plain.create(new_task(1)), Created)
        assert isinstance(await plain.create(new_task(2)), Full)
        for number in range(3, 6):
            with pytest.raises(NotAcknowledged):
                await store.create(new_task(number))
            assert await plain.get(f"t{number}") is None
        await plain.aclose()
        await store.aclose()


async def test_an_upload_for_which_nobody_comes_again_is_given_back(primary: RedisServer) -> None:
    plain, store = opened(primary.url, "none"), opened(primary.url, "replica")
    await plain.uploads.create(NewUpload("u1", "u-u1", 70_000, "image/tiff"), 100)
    with pytest.raises(NotAcknowledged):
        await store.uploads.take("u1", "t1", "u-u1?snapshot=1", comes_again=False)
    taken = await plain.uploads.take("u1", "t2", "u-u1?snapshot=2")
    assert taken is not None
    assert taken.upload.taker == "t2"
    with pytest.raises(NotAcknowledged):
        await store.uploads.take("u1", "t2", "")
    kept = await plain.uploads.get("u1")
    assert kept is not None
    assert kept.taker == "t2"
    await plain.aclose()
    await store.aclose()


def test_each_script_is_known_to_be_heard_of_as_stored_or_not() -> None:
    """Whoever adds one decides: does a client hear that what it did is stored?"""
    unheard = {name for name in read_scripts() if not durability.is_acknowledged(name)}
    assert unheard == UNHEARD.keys()
