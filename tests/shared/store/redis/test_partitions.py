"""All keys of a task stay in one hash slot, and the partitions spread evenly over a cluster."""

from __future__ import annotations

from collections import Counter

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from local.redis_server import RedisCluster
from shared.store.redis.partitions import PARTITIONS, TAGS, partition
from shared.tasks.task import Content, NewTask, State
from tests.shared.store.conftest import Clock, Store
from tests.shared.store.world import Server, nodes

SIXTEENTH = REDIS_CLUSTER_HASH_SLOTS // PARTITIONS


def slot(key: str) -> int:
    return key_slot(key.encode())


def test_there_are_sixteen_partitions() -> None:
    assert PARTITIONS == len(set(TAGS)) == 16


@pytest.mark.parametrize("index", range(PARTITIONS))
def test_a_hash_tag_lies_in_the_middle_of_its_sixteenth_of_the_slots(index: int) -> None:
    middle = index * SIXTEENTH + SIXTEENTH // 2
    assert abs(slot("{" + TAGS[index] + "}") - middle) <= SIXTEENTH // 16


@pytest.mark.parametrize("primaries", range(1, 17))
def test_every_primary_of_a_cluster_gets_an_even_share_of_the_partitions(primaries: int) -> None:
    shares = Counter(slot("{" + tag + "}") * primaries // REDIS_CLUSTER_HASH_SLOTS for tag in TAGS)
    assert len(shares) == primaries
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize(
    ("task_id", "index"), [("", 0xDA39A3EE >> 28), ("abc", 0xA9993E36 >> 28), ("123456789", 0xF7C3BC1D >> 28)]
)
def test_the_partition_of_an_id_is_the_first_digit_of_its_sha1_and_never_changes(task_id: str, index: int) -> None:
    assert partition(task_id) == index


def test_ids_spread_evenly_over_the_partitions() -> None:
    shares = Counter(partition(f"task-{number}") for number in range(16_000))
    assert all(850 < share < 1150 for share in shares.values())


async def test_all_keys_of_a_task_are_in_one_slot_for_its_whole_life(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    for number in range(40):
        task_id = f"t{number}"
        redis_server.flush()
        await store.create(
            NewTask(task_id, "/v1/{a}", 60, body=Content("text/plain", 5), inline_body=b"hello", owner="{x}")
        )
        await store.put_result(task_id, Content("text/plain", 3), b"png")
        await store.update(task_id, state=State.RUNNING, status="{running}")
        keys: list[str] = []
        for node in nodes(redis_server):
            with node.connect() as client:
                keys += [str(key) for key in client.scan_iter()]
        assert len(keys) == 6
        assert {slot(key) for key in keys} == {slot("{" + TAGS[partition(task_id)] + "}")}


async def test_on_a_cluster_the_tasks_are_spread_over_all_primaries(store: Store, redis_server: Server) -> None:
    if not isinstance(redis_server, RedisCluster):
        pytest.skip("a single server has all partitions: run with BACKBONE_TEST_REDIS=cluster")
    for number in range(64):
        await store.create(NewTask(f"t{number}", "/v1/a", 60))
    for node in nodes(redis_server):
        with node.connect() as client:
            assert client.dbsize()
