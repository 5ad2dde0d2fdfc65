"""How many tasks that start later a queue takes, and one owner may have there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import redis

from shared.rate import Rate
from shared.store import RedisLink, TaskStore
from shared.store.redis.partitions import HASH_TAGS, partition
from shared.tasks.outcomes import Applied, Created, Existing, Full
from shared.tasks.owner_bounds import OwnerBounds
from shared.tasks.task import NewTask, State
from shared.tasks.timing import Moment, Timing
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.policies import store_policy
from tests.shared.store.test_cost import cost
from tests.shared.store.test_starts import DELAY_S, PATH, begin_all, later, sweep
from tests.shared.store.test_store import LinkToSeveralServers
from tests.shared.store.world import Server, nodes

BACKLOG, OWN = 4, 2


Opened = Callable[..., TaskStore]


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def opened(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Opened]:
    stores: list[TaskStore] = []

    def open_store(
        backlog: int | None = None, bounds: OwnerBounds | None = None, rate: Rate | None = None
    ) -> TaskStore:
        policy = store_policy(republish_s=30, max_backlog=backlog)
        link = request.param(opener(redis_url))
        stores.append(
            TaskStore(
                link, policy, now_ms=clock, rate_of=lambda path: rate, bounds_of=lambda path: bounds or OwnerBounds()
            )
        )
        return stores[-1]

    yield open_store
    for store in stores:
        await store.aclose()


def owned(task_id: str, owner: str = "a", **more: Any) -> NewTask:
    return later(task_id, owner=owner, **more)


def at_once(task_id: str, owner: str = "a") -> NewTask:
    return replace(owned(task_id, owner), timing=Timing())


def delayed_keys(server: Server) -> dict[str, int]:
    """How many each key of them has that are to start later."""
    found: dict[str, int] = {}
    for node in nodes(server):
        with cast("Any", redis.Redis(port=node.port)) as client:
            for key in client.scan_iter("*}ql:*"):
                assert client.pttl(key) > 0, "it outlives no start by much"
                found[key.decode().partition("ql:")[2]] = client.zcard(key)
    return found


async def is_taken(tasks: TaskStore, new: NewTask) -> bool:
    created = await tasks.create(new)
    if isinstance(created, Full):
        assert await tasks.get(new.id) is None
    return isinstance(created, Created)


async def test_an_owner_cannot_pile_up_tasks_that_start_later(opened: Opened, redis_server: Server) -> None:
    tasks = opened(bounds=OwnerBounds(waiting=OWN))
    assert [await is_taken(tasks, owned(f"t{number}")) for number in range(4)] == [True, True, False, False]
    refused = await tasks.create(owned("more"))
    assert refused == Full(DELAY_S, is_owners=True, is_delayed=True), "until the first one starts"
    assert await is_taken(tasks, owned("other", "b"))
    assert delayed_keys(redis_server) == {f"{PATH} a": OWN, f"{PATH} b": 1}


async def test_a_queue_takes_no_more_of_them_than_may_wait(opened: Opened) -> None:
    tasks = opened(backlog=BACKLOG)
    taken = [await is_taken(tasks, owned(f"t{number}", f"owner{number}")) for number in range(BACKLOG + 1)]
    assert taken == [True] * BACKLOG + [False]
    assert await tasks.create(owned("more", "c", delay_s=1)) == Full(DELAY_S, is_delayed=True)


async def test_those_that_wait_count_with_them(opened: Opened, clock: Clock) -> None:
    tasks = opened(backlog=BACKLOG, bounds=OwnerBounds(waiting=OWN))
    await tasks.queues.configure(PATH, {"paused": True})
    assert await is_taken(tasks, at_once("w0"))
    assert await is_taken(tasks, owned("d0"))
    assert cast("Full", await tasks.create(owned("d1"))).is_owners
    assert await is_taken(tasks, at_once("w1")), "what is to start does not wait yet"
    assert await is_taken(tasks, owned("d2", "b"))
    assert await tasks.create(owned("d3", "c")) == Full(None, is_delayed=True), (
        "nobody knows when a paused queue goes on"
    )
    clock.advance(DELAY_S)
    await begin_all(tasks)
    assert (await tasks.queues.status(PATH)).waiting == BACKLOG, "a start is never refused"
    assert not await is_taken(tasks, owned("d4", "c"))


@pytest.mark.parametrize("start", [begin_all, sweep], ids=["at its moment", "by a round"])
async def test_one_that_has_started_counts_as_one_that_waits_or_is_done(
    opened: Opened, clock: Clock, redis_server: Server, start: Callable[[TaskStore], Any]
) -> None:
    tasks = opened(backlog=OWN, bounds=OwnerBounds(waiting=OWN))
    for number in range(OWN):
        assert await is_taken(tasks, owned(f"t{number}"))
    assert not await is_taken(tasks, owned("more"))
    await tasks.queues.configure(PATH, {"paused": True})
    clock.advance(DELAY_S)
    await start(tasks)
    assert delayed_keys(redis_server) == {}
    assert not await is_taken(tasks, owned("more"))
    await tasks.queues.configure(PATH, {"paused": False})
    assert (await tasks.queues.status(PATH)).waiting == OWN - 1
    assert await is_taken(tasks, owned("more"))


async def test_one_that_is_cancelled_or_expires_makes_room(
    opened: Opened, clock: Clock, redis_server: Server
) -> None:
    tasks = opened(backlog=OWN, bounds=OwnerBounds(waiting=OWN))
    assert await is_taken(tasks, owned("t0"))
    assert await is_taken(tasks, owned("t1", expiry=Moment("create", 10_000)))
    assert isinstance(await tasks.cancel("t0"), Applied)
    assert delayed_keys(redis_server) == {PATH: 1, f"{PATH} a": 1}
    clock.advance(11)
    await sweep(tasks)
    ended = await tasks.get("t1")
    assert ended is not None and ended.state is State.FAILED
    assert delayed_keys(redis_server) == {}


async def test_a_repeated_submit_finds_its_task_and_counts_once(
    opened: Opened, clock: Clock, redis_server: Server
) -> None:
    tasks = opened(backlog=1, bounds=OwnerBounds(waiting=1))
    await tasks.queues.configure(PATH, {"paused": True})
    assert await is_taken(tasks, owned("t0"))
    clock.advance(1)
    assert isinstance(await tasks.create(owned("t0")), Existing)
    assert delayed_keys(redis_server) == {PATH: 1, f"{PATH} a": 1}
    clock.advance(DELAY_S)
    await begin_all(tasks)
    assert isinstance(await tasks.create(owned("t0")), Existing)
    assert delayed_keys(redis_server) == {}


async def test_what_is_not_said_to_have_started_is_forgotten_in_the_end(
    opened: Opened, clock: Clock, redis_server: Server
) -> None:
    tasks = opened(bounds=OwnerBounds(waiting=1))
    assert await is_taken(tasks, owned("t0"))
    await tasks.starts.start_due(0)
    clock.advance(DELAY_S + 3_601)
    assert await is_taken(tasks, owned("t1"))
    assert delayed_keys(redis_server) == {f"{PATH} a": 1}


@contextmanager
def unknown_indexes(server: Server) -> Iterator[None]:
    """What happens within leaves everything of starts as it is: an earlier version does not know that."""
    clients = [cast("Any", redis.Redis(port=node.port)) for node in nodes(server)]
    names = ("*}z:*:delayed", "*}starts", "*}delayed_paths", "*}ql:*")
    kept = [
        (client, key, client.pttl(key), client.dump(key))
        for client in clients
        for name in names
        for key in client.scan_iter(name)
    ]
    yield
    for client, key, ttl_ms, dumped in kept:
        client.restore(key, max(0, ttl_ms), dumped, replace=True)
    for client in clients:
        client.close()


@pytest.mark.parametrize("is_replayed", [False, True], ids=["ended", "begun again"])
async def test_what_an_earlier_version_has_ended_is_soon_not_counted_any_more(
    opened: Opened, redis_server: Server, is_replayed: bool
) -> None:
    tasks = opened(backlog=BACKLOG, bounds=OwnerBounds(waiting=OWN))
    await tasks.queues.configure(PATH, {"paused": True})
    for number in range(OWN):
        assert await is_taken(tasks, owned(f"t{number}"))
    with unknown_indexes(redis_server):
        if not is_replayed:
            assert isinstance(await tasks.cancel("t0"), Applied)
        else:
            failed = await tasks.update("t0", state=State.FAILED, status="failed")
            assert isinstance(failed, Applied)
            assert isinstance(await tasks.replay("t0"), Applied)
    assert (await tasks.queues.depths(PATH))[PATH].delayed == OWN
    assert not await is_taken(tasks, owned("more"))
    for _ in HASH_TAGS:  # a round looks in one partition
        await tasks.queues.paths_to_maintain()
    depth = (await tasks.queues.depths(PATH))[PATH]
    assert (depth.delayed, depth.created) == (OWN - 1, int(is_replayed))
    assert delayed_keys(redis_server) == {PATH: OWN - 1, f"{PATH} a": OWN - 1}
    assert await is_taken(tasks, owned("more")) is not is_replayed


async def test_a_round_reads_records_of_a_few_of_them_in_one_partition(opened: Opened, redis_server: Server) -> None:
    tasks = opened()
    for number in range(100):
        assert await is_taken(tasks, owned(f"t{number}"))
    for _ in HASH_TAGS:
        assert (await cost(redis_server, tasks.queues.paths_to_maintain))["mget"] == 1


async def test_apps_that_wake_for_one_round_come_to_all_partitions(
    opened: Opened, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = opened()
    for number in range(100):
        assert await is_taken(tasks, owned(f"t{number}"))
    with unknown_indexes(redis_server):
        for number in range(100):
            assert isinstance(await tasks.cancel(f"t{number}"), Applied)
    assert (await tasks.queues.depths(PATH))[PATH].delayed == 100
    for number in range(len(HASH_TAGS)):
        monkeypatch.setattr("shared.store.upkeep_steps.seed", partial(int, number))
        await opened().queues.paths_to_maintain()
    assert (await tasks.queues.depths(PATH))[PATH].delayed == 0


async def test_without_a_bound_there_is_nothing_of_it(opened: Opened, redis_server: Server) -> None:
    tasks = opened()
    for number in range(10):
        assert await is_taken(tasks, owned(f"t{number}"))
    assert delayed_keys(redis_server) == {}


async def test_a_key_of_another_kind_in_their_place_is_replaced(
    opened: Opened, clock: Clock, redis_server: Server
) -> None:
    tasks = opened(backlog=BACKLOG, bounds=OwnerBounds(waiting=OWN))
    assert await is_taken(tasks, owned("t0"))
    for node in nodes(redis_server):
        with cast("Any", redis.Redis(port=node.port)) as client:
            for key in client.scan_iter("*}ql:*"):
                client.set(key, "what somebody else wrote")
    assert await is_taken(tasks, owned("t1"))
    assert delayed_keys(redis_server) == {PATH: 1, f"{PATH} a": 1}
    clock.advance(DELAY_S)
    assert len(await begin_all(tasks)) == 1, "one is the probe of a queue that knows nothing"


@pytest.mark.parametrize("is_burst", [False, True], ids=["evenly", "burst"])
async def test_the_first_that_start_at_a_fresh_rated_path_do_not_look_like_a_loss(
    opened: Opened, clock: Clock, is_burst: bool
) -> None:
    tasks = opened(rate=Rate(1, 3_600, is_burst=is_burst))
    # In one partition, so that they start by one step.
    ids = ["t0"]
    number = 0
    while len(ids) < 3:
        number += 1
        if partition(f"t{number}") == partition("t0"):
            ids.append(f"t{number}")
    for task_id in ids:
        assert await is_taken(tasks, owned(task_id))
    clock.advance(DELAY_S)
    assert len(await begin_all(tasks)) == 1, "the first one goes at once"
    clock.advance(3_000)
    assert (await tasks.queues.status(PATH)).waiting == 2
