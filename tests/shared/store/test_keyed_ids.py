"""Promise: the same idempotency key has the same id in every process, nobody can compute it, and what an earlier
version of the app created with a key is found."""

from __future__ import annotations

import pytest

from shared.store import StoreUnavailable, keyed_ids
from shared.store.keyed_ids import UPGRADE_S, former_keyed_id
from shared.store.redis.partitions import HASH_TAGS, partition
from shared.tasks.outcomes import Created
from shared.tasks.task import NewTask
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory, opener

NAME = ("ada", "/v1/test", "order-7")
FORMER = former_keyed_id(*NAME)
RETENTION_S = POLICY.retention_s


@pytest.fixture(autouse=True)
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the tests stands still, and that of a process, by which it reads the secret again, does not."""
    monkeypatch.setattr(keyed_ids, "FRESH_S", 0)


async def create(store: Store, task_id: str, *, owner: str = "", fingerprint: str = "") -> None:
    created = await store.create(NewTask(task_id, "/v1/test", 60, owner=owner, fingerprint=fingerprint))
    assert isinstance(created, Created)


async def used_before(store: Store) -> None:
    """An earlier version has created a task where the secret will lie."""
    await create(store, next(name for name in map(str, range(1000)) if partition(name) == 0))


async def test_a_key_has_one_id_in_all_processes_and_another_with_another_redis(
    open_store: StoreFactory, redis_url: str
) -> None:
    one, other = open_store(), open_store()
    first = await one.keyed_ids.id_of(*NAME)
    assert await one.keyed_ids.id_of(*NAME) == await other.keyed_ids.id_of(*NAME) == first
    redis = await opener(redis_url)()
    await redis.flushall()
    await redis.aclose()
    assert await one.keyed_ids.id_of(*NAME) == await other.keyed_ids.id_of(*NAME) != first


@pytest.mark.parametrize(
    "name", [("eve", *NAME[1:]), (NAME[0], "/v1/other", NAME[2]), (*NAME[:2], "order-8"), ("", *NAME[1:])]
)
async def test_owner_path_and_key_make_the_id(store: Store, name: tuple[str, str, str]) -> None:
    assert await store.keyed_ids.id_of(*name) != await store.keyed_ids.id_of(*NAME)


async def test_nobody_can_compute_an_id(store: Store) -> None:
    assert await store.keyed_ids.id_of(*NAME) != FORMER


async def test_what_an_earlier_version_created_is_found_for_a_retention(store: Store, clock: Clock) -> None:
    await store.keyed_ids.id_of("", "", "")
    await create(store, FORMER, owner="ada", fingerprint="f")
    assert await store.keyed_ids.id_of(*NAME) == FORMER
    clock.advance(UPGRADE_S + RETENTION_S - 1)
    assert await store.keyed_ids.id_of(*NAME) == FORMER
    clock.advance(1)
    assert await store.keyed_ids.id_of(*NAME) != FORMER


@pytest.mark.parametrize(("owner", "fingerprint"), [("eve", "f"), ("", "f"), ("ada", "")])
async def test_an_id_taken_in_advance_is_not_found(store: Store, owner: str, fingerprint: str) -> None:
    await used_before(store)
    await create(store, FORMER, owner=owner, fingerprint=fingerprint)
    assert await store.keyed_ids.id_of(*NAME) != FORMER


async def test_an_earlier_version_finds_what_is_created_during_an_upgrade(store: Store, clock: Clock) -> None:
    await used_before(store)
    assert await store.keyed_ids.id_of(*NAME) == FORMER
    await create(store, FORMER, owner="ada", fingerprint="f")
    clock.advance(UPGRADE_S)
    assert await store.keyed_ids.id_of(*NAME) == FORMER
    assert await store.keyed_ids.id_of("eve", *NAME[1:]) != former_keyed_id("eve", *NAME[1:])


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"zz 1 1", b"ab 1"])
async def test_garbage_in_place_of_the_secret_is_replaced(
    open_store: StoreFactory, redis_url: str, garbage: bytes
) -> None:
    redis = await opener(redis_url)()
    await redis.set(f"{HASH_TAGS[0]}keyed", garbage)
    one, other = open_store(), open_store()
    assert await one.keyed_ids.id_of(*NAME) == await other.keyed_ids.id_of(*NAME) != FORMER
    await redis.delete(f"{HASH_TAGS[0]}keyed")
    await redis.hset(f"{HASH_TAGS[0]}keyed", "of another", "type")
    assert await one.keyed_ids.id_of(*NAME) == await other.keyed_ids.id_of(*NAME)
    await redis.aclose()


async def test_clock_that_steps_back_keeps_the_secret(store: Store, clock: Clock) -> None:
    first = await store.keyed_ids.id_of(*NAME)
    clock.advance(-7200)
    assert await store.keyed_ids.id_of(*NAME) == first


async def test_process_knows_the_secret_while_its_node_is_silent(
    open_store: StoreFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ignorant = open_store(), open_store()
    first = await store.keyed_ids.id_of(*NAME)

    async def silent(*_: object) -> None:
        raise StoreUnavailable("silent")

    for link in (store.link, ignorant.link):
        monkeypatch.setattr(link, "script", silent)
    assert await store.keyed_ids.id_of(*NAME) == first
    with pytest.raises(StoreUnavailable):
        await ignorant.keyed_ids.id_of(*NAME)
