"""Uploads: what is declared of them, who takes them, and when they are found by their deadline."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from shared.store.redis.partitions import HASH_TAGS, PARTITIONS, partition
from shared.store.upkeep_steps import BLOB_GRACE_S, SWEEP_LIMIT, Overdue
from shared.store.uploads import UPLOAD_GRACE_S
from shared.tasks.task import Content, NewTask, State
from shared.tasks.uploads import NewUpload, Purpose, Taken, Upload, taker_of
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import sweep_all
from tests.shared.store.test_cost import cost
from tests.shared.store.wire import Wire
from tests.shared.store.world import Server, World, nodes, text, world

VALID_S = 100
PLAIN = NewUpload("u1", "u-u1", 70_000, "image/tiff")
WHOLE = NewUpload(
    "u1",
    "t-t1/u-u1",
    2**41,
    "text/plain",
    encoding="gzip",
    sha256="ab" * 32,
    owner="ann",
    purpose=Purpose("t1", 3),
)


def declared(new: NewUpload, taker: str = "", snapshot: str = "") -> Upload:
    return Upload(
        id=new.id,
        blob=new.blob,
        size_bytes=new.size_bytes,
        content_type=new.content_type,
        encoding=new.encoding,
        sha256=new.sha256,
        owner=new.owner,
        purpose=new.purpose,
        taker=taker,
        snapshot=snapshot,
    )


async def taken(store: Store, taker: str = "t1", snapshot: str = "u-u1?snapshot=1") -> Taken:
    found = await store.uploads.take("u1", taker, snapshot)
    assert found is not None
    return found


@pytest.mark.parametrize("new", [PLAIN, WHOLE], ids=["plain", "whole"])
async def test_an_upload_is_kept_as_it_was_declared(store: Store, new: NewUpload) -> None:
    assert await store.uploads.get("u1") is None
    await store.uploads.create(new, VALID_S)
    assert await store.uploads.get("u1") == declared(new)
    assert await store.uploads.get("u2") is None


async def test_a_new_upload_has_one_deadline(store: Store, redis_server: Server) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    assert world(redis_server) == text("""
        due u/u1@700
        u:u1 e100 b=u-u1 t=image/tiff z=70000
    """)


async def test_it_can_be_used_until_its_time_is_up_and_by_its_taker_as_long_as_it_is_known(
    store: Store, clock: Clock
) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    clock.advance(VALID_S - 0.001)
    assert await store.uploads.get("u1") is not None
    clock.advance(0.001)
    assert await store.uploads.get("u1") is None
    assert await store.uploads.take("u1", "t1", "s") is None
    clock.advance(-1)
    await taken(store)
    clock.advance(1)
    assert (await taken(store)).upload.taker == "t1"
    assert await store.uploads.get("u1") is not None


async def test_the_first_to_take_it_has_it_always_with_the_same_snapshot(store: Store) -> None:
    await store.uploads.create(WHOLE, VALID_S)
    first = declared(WHOLE, "t1 3", "s1")
    assert (await taken(store, "t1 3", "s1")).upload == first
    assert (await taken(store, "t1 3", "s2")).upload == first
    assert (await taken(store, "t1 3", "")).upload == first
    assert (await taken(store, "t2", "s3")).upload == first
    assert first.task_id == "t1"
    assert first.content == Content("text/plain", 2**41, "s1", "gzip", "ab" * 32)


async def test_of_many_at_once_one_takes_it(open_store: StoreFactory) -> None:
    stores = [open_store() for _ in range(4)]
    await stores[0].uploads.create(PLAIN, VALID_S)
    takers = [f"t{number}" for number in range(40)]
    random.shuffle(takers)
    outcomes = await asyncio.gather(
        *(stores[n % 4].uploads.take("u1", taker, f"of {taker}") for n, taker in enumerate(takers))
    )
    found = {(each.upload.taker, each.upload.snapshot) for each in outcomes if each}
    [(taker, snapshot)] = found
    assert snapshot == f"of {taker}"


async def test_it_is_given_back_by_the_last_one_that_took_it_only(store: Store) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    first, second = await taken(store), await taken(store)
    assert not await store.uploads.give_back(first), "the second one may have made a task of it"
    assert (await taken(store, "t2")).upload.taker == "t1"
    for _ in range(2):
        assert await store.uploads.give_back(second)
        assert await store.uploads.get("u1") == declared(PLAIN)
    assert (await taken(store, "t2", "s2")).upload == declared(PLAIN, "t2", "s2")


async def test_one_who_found_it_taken_does_not_take_it_without_a_snapshot(store: Store) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    first = await taken(store)
    await store.uploads.give_back(first)
    assert (await taken(store, "t1", "")).upload == declared(PLAIN)
    assert (await taken(store, "t2", "s2")).upload.taker == "t2"


async def test_its_deadline_finds_it_until_it_is_forgotten(store: Store, clock: Clock, redis_server: Server) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    await taken(store)
    clock.advance(VALID_S + UPLOAD_GRACE_S - 0.001)
    assert await sweep_all(store) == []
    clock.advance(0.001)
    due = Overdue("upload", "u1", None, upload=declared(PLAIN, "t1", "u-u1?snapshot=1"))
    assert await sweep_all(store) == ([] if store.is_repeating else [due])
    assert World(redis_server).due_s == {"u/u1": VALID_S + UPLOAD_GRACE_S + BLOB_GRACE_S}
    assert await sweep_all(store) == []
    clock.advance(BLOB_GRACE_S)
    assert await sweep_all(store) == ([] if store.is_repeating else [due]), "its blob could not be deleted"
    await store.uploads.forget(["u1"])
    assert world(redis_server) == ""


async def test_a_deadline_without_its_upload_is_dropped(store: Store, clock: Clock, redis_server: Server) -> None:
    await store.uploads.create(PLAIN, VALID_S)
    tag = HASH_TAGS[partition("u1")]
    clock.advance(VALID_S + UPLOAD_GRACE_S)
    for node in nodes(redis_server):
        with node.connect() as client:
            if client.keys(f"{tag}u:u1"):
                client.delete(f"{tag}u:u1")
    assert await sweep_all(store) == []
    assert world(redis_server) == ""


async def test_many_uploads_are_found_in_pieces_and_tasks_beside_them(open_store: StoreFactory, clock: Clock) -> None:
    store = open_store()
    ids = [name for number in range(10_000) if partition(name := f"u{number}") == 3][: 3 * SWEEP_LIMIT]
    for upload_id in ids:
        await store.uploads.create(NewUpload(upload_id, f"u-{upload_id}", 1, "a/b"), VALID_S)
    clock.advance(VALID_S + UPLOAD_GRACE_S)
    found: list[Overdue] = []
    for _ in range(3):
        piece = await store.sweep(3, {})
        assert len(piece) == SWEEP_LIMIT
        found += piece
    assert await store.sweep(3, {}) == []
    assert Counter(item.id for item in found) == Counter(ids)


async def test_uploads_that_are_not_due_cost_a_sweep_nothing(
    open_store: StoreFactory, redis_server: Server, clock: Clock
) -> None:
    store = open_store()

    async def rounds() -> None:
        assert await sweep_all(store) == []

    await rounds()
    before = await cost(redis_server, rounds)
    for number in range(1000):
        await store.uploads.create(NewUpload(f"u{number}", f"u-{number}", 1, "a/b"), VALID_S)
    assert await cost(redis_server, rounds) == before
    assert before == {"evalsha": PARTITIONS, "zrangebyscore": 2 * PARTITIONS, "zrange": 2 * PARTITIONS}


async def test_to_look_at_an_upload_writes_nothing_and_each_step_is_one_round_trip(
    open_store: StoreFactory, wire: Wire, redis_server: Server
) -> None:
    plain, store = open_store(), open_store(url=wire.url)
    for each in (plain, store):
        await each.uploads.create(PLAIN, VALID_S)
        found = await taken(each)
        await each.uploads.get("u1")
        await each.uploads.give_back(found)
    assert await cost(redis_server, lambda: plain.uploads.get("u1")) == {"evalsha": 1, "get": 1}
    wire.commands.clear()
    await store.uploads.create(PLAIN, VALID_S)
    await store.uploads.give_back(await taken(store))
    await store.uploads.get("u1")
    assert [command[0] for command in wire.commands] == [b"EVALSHA"] * 4


def test_a_taker_has_the_form_that_a_record_of_the_upload_has() -> None:
    assert (taker_of("t1"), taker_of("t1", 3)) == ("t1", "t1 3")
    assert declared(PLAIN).task_id == ""


async def test_the_content_of_an_upload_is_kept_with_the_task_and_goes_on_by_its_name(store: Store) -> None:
    body = Content("image/tiff", 2**41, "u-u1?snapshot=1", "gzip", "ab" * 32)
    plain = Content("image/tiff", 2**41, "u-u1?snapshot=1", sha256="cd" * 32)
    await store.create(NewTask("t1", "/v1/a", 60, body=body))
    await store.create(NewTask("t2", "/v1/a", 60, body=plain))
    task, other = await store.get("t1"), await store.get("t2")
    assert task is not None
    assert other is not None
    assert (task.body, other.body) == (body, plain)
    assert task.names("u-u1?snapshot=1")
    assert not task.names("u-u1")
    await store.put_result("t1", plain, b"")
    task = await store.get("t1")
    assert task is not None
    assert (task.result, task.state) == (plain, State.CREATED)
