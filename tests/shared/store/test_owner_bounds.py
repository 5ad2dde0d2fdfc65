"""How much of a queue one owner may have: what waits, and what is in flight."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Protocol, cast

import pytest
import redis

from shared.store.policy import StorePolicy
from shared.store.queue_status import OwnerShare
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.requeue import BackendAway
from shared.store.store import TaskStore
from shared.tasks.outcomes import Applied, Claimed, Created, Enqueued, Full, SlotGrant
from shared.tasks.owner_bounds import UNBOUNDED, OwnerBounds
from shared.tasks.task import Content, NewBatch, NewTask, State, Task
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.fleet import PATH, Fleet, completed, new_task, release
from tests.shared.store.policies import store_policy
from tests.shared.store.test_cost import cost
from tests.shared.store.test_queues import delete, enqueue, grant_of, next_attempt, order_of_grants, tasks
from tests.shared.store.world import Server, World, nodes

POLICY = store_policy(slot_claim_s=30, slot_check_s=20, busy_retry_s=5, backoff_base_s=2)
MANY = 1000


class BoundedQueues(Protocol):
    def __call__(
        self,
        bounds: OwnerBounds = ...,
        limit: int | None = ...,
        policy: StorePolicy = ...,
        *,
        repeating: bool = ...,
    ) -> QueueSteps: ...


@pytest.fixture
async def bounded(redis_url: str, clock: Clock) -> AsyncIterator[BoundedQueues]:
    links: list[RedisLink] = []

    def bounded(
        bounds: OwnerBounds = UNBOUNDED,
        limit: int | None = None,
        policy: StorePolicy = POLICY,
        *,
        repeating: bool = False,
    ) -> QueueSteps:
        links.append((RepeatingLink if repeating else RedisLink)(opener(redis_url)))
        return QueueSteps(
            links[-1],
            policy,
            lambda path: limit,
            clock,
            bounds_of=lambda path: bounds,
        )

    yield bounded
    for link in links:
        await link.aclose()


def holders(server: Server) -> set[str]:
    """Whose entries hold a slot, as the queue has noted it: ``owner entry``."""
    found: set[str] = set()
    for node in nodes(server):
        with cast("Any", redis.Redis(port=node.port)) as client:
            for key in client.scan_iter(f"*qb:{PATH}"):
                found |= {member.decode() for member in client.zrange(key, 0, -1)}
    return found


async def hold(queues: QueueSteps, clock: Clock, count: int, owner: str, name: str) -> list[Task]:
    """Let *count* tasks of an owner hold slots, and the estimate rise to what is held."""
    held = tasks(count, clock, owner, name=name)
    await queues.enqueue([QueueEntry.of(task) for task in held])
    for task in held:
        await queues.accepted(task)
    return held


# What waits


async def test_an_owner_that_has_as_many_tasks_waiting_as_may_is_refused_and_others_are_not(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(waiting=3))
    await queues.configure(PATH, {"paused": True})
    for task in tasks(3, clock, "greedy", name="mine"):
        assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    refused = await queues.enqueue_new(QueueEntry.of(new_task("more", clock, "greedy")))
    assert refused == Full(None, is_owners=True)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task("other", clock, "modest"))), Enqueued)
    assert (await queues.status(PATH)).waiting == 4


async def test_all_tasks_without_an_owner_count_as_one_owners(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(waiting=2))
    await queues.configure(PATH, {"paused": True})
    for task in tasks(2, clock):
        assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task("more", clock))), Full)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task("other", clock, "owner"))), Enqueued)


async def test_what_is_no_new_task_is_never_refused_and_counts(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(waiting=2))
    held = await hold(queues, clock, 1, "a", "held")
    await queues.configure(PATH, {"paused": True})
    await enqueue(queues, *tasks(2, clock, "a", name="steps"))  # next steps, replays, retries
    assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task("new", clock, "a"))), Full)
    await enqueue(queues, new_task("step", clock, "a"))
    await queues.refused(held[0], next_attempt(held[0]), after_s=None)
    assert (await queues.status(PATH)).waiting == 4
    assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task("new", clock, "a"))), Full)


async def test_a_repeated_create_of_a_full_owner_finds_its_entry(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(waiting=1), repeating=True)
    await queues.configure(PATH, {"paused": True})
    (task,) = tasks(1, clock, "a")
    for _ in range(2):
        assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    assert (await queues.status(PATH)).waiting == 1


@pytest.mark.parametrize("bounds", [OwnerBounds(waiting=2), OwnerBounds(waiting=2, in_flight=1, is_hard=True)])
async def test_a_full_owner_hears_when_it_has_room(bounded: BoundedQueues, clock: Clock, bounds: OwnerBounds) -> None:
    """With two slots and four seconds a task, a slot is free every two seconds; an owner that may hold one gets one
    every four."""
    queues = bounded(bounds, limit=2)
    fleet = Fleet(queues, clock, slots=2, service_s=lambda: 4)
    await fleet.submit(*tasks(20, clock, "a", name="first"), *tasks(20, clock, "b", name="second"))
    await fleet.run(60)
    extra = new_task("extra", clock, "a")
    full = await queues.enqueue_new(QueueEntry.of(extra))
    assert isinstance(full, Full)
    assert full.is_owners
    assert full.room_in_s is not None
    waiting = [task for task in fleet.tasks.values() if task.owner == "a" and task.id not in fleet.started]
    # Only one more may wait once all but one have started.
    before_s = (len(waiting) - 1) * 4 - 4
    await fleet.run(full.room_in_s - 4.1)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(extra)), Full)
    assert full.room_in_s == pytest.approx(before_s, abs=4.5)
    await fleet.run(8.2)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(extra)), Enqueued)


async def test_an_owner_and_a_queue_that_are_full_have_room_when_both_have(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(waiting=1), limit=1, policy=store_policy(max_backlog=5))
    fleet = Fleet(queues, clock, slots=1, service_s=lambda: 2)
    await fleet.submit(*tasks(4, clock, "a", name="a"), *tasks(10, clock, "b", name="b"))
    await fleet.run(5)
    full = await queues.enqueue_new(QueueEntry.of(new_task("extra", clock, "a")))
    assert isinstance(full, Full)
    waiting = (await queues.status(PATH)).waiting
    assert full.room_in_s is not None
    assert full.room_in_s >= (waiting - 5 + 1) * 2 - 0.1
    await queues.configure(PATH, {"paused": True})
    assert await queues.enqueue_new(QueueEntry.of(new_task("extra", clock, "a"))) == Full(None, is_owners=True)


# What is in flight


async def test_an_owner_gets_more_than_its_bound_only_while_no_other_waits_that_holds_less(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(in_flight=2), limit=4)
    held = await hold(queues, clock, 4, "greedy", "mine")
    assert await enqueue(queues, *tasks(2, clock, "greedy", name="more")) == []
    status = await queues.status(PATH)
    assert (status.holding, status.waiting) == (4, 2), "slots that nobody else wants are not left idle"
    theirs = tasks(3, clock, "modest", name="theirs")
    assert await enqueue(queues, *theirs) == []
    granted = [grant.task_id for task in held[:3] for grant in (await release(queues, grant_of(task))).grants]
    assert granted[:2] == ["theirs0", "theirs1"], "the first two, though the other's virtual time may be less"
    assert len(granted) == 3


async def test_a_hard_bound_leaves_slots_idle_and_an_end_grants_the_next(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=4)
    held = await hold(queues, clock, 2, "greedy", "mine")
    for task in await hold(queues, clock, 2, "modest", "theirs"):
        await release(queues, grant_of(task), completed(task, clock, since_ms=clock()))
    await queues.mark_rebuilt(PATH, (await queues.maintain(PATH)).loss or 0)
    waiting = tasks(3, clock, "greedy", name="more")
    assert await enqueue(queues, *waiting) == []
    maintained = await queues.maintain(PATH)
    assert (maintained.granted.grants, maintained.loss) == ([], None), "nothing was lost"
    status = await queues.status(PATH)
    assert (status.holding, status.waiting, status.slots) == (2, 3, 4), "what was learned of the backend stays"
    assert await enqueue(queues, new_task("other", clock, "modest")) == [SlotGrant("other", 1)]
    assert (await release(queues, grant_of(held[0]))).grants == [grant_of(waiting[0])]
    requeued = next_attempt(held[1])
    assert (await queues.refused(held[1], requeued, after_s=60)).grants in ([], [grant_of(requeued)])


async def test_a_refused_returned_or_released_attempt_frees_its_owners_slot(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=4)
    refused, returned = await hold(queues, clock, 2, "a", "t")
    assert holders(redis_server) == {"a t0.1", "a t1.1"}
    await queues.configure(PATH, {"paused": True})
    await queues.refused(refused, next_attempt(refused), after_s=None)
    assert holders(redis_server) == {"a t1.1"}
    await queues.return_entry(returned, next_attempt(returned))
    assert holders(redis_server) == set()
    clock.advance(60)
    await queues.configure(PATH, {"paused": False})
    assert holders(redis_server) <= {"a t0.2", "a t1.2"}
    assert holders(redis_server)


async def test_a_slot_is_freed_of_its_owner_by_those_who_do_not_know_whose_it_is(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=1, is_hard=True), limit=4)
    (held,) = await hold(queues, clock, 1, "a", "t")
    (next_one,) = tasks(1, clock, "a", name="next")
    assert await enqueue(queues, next_one) == []
    assert (await queues.release(PATH, grant_of(held))).grants == [grant_of(next_one)]
    assert holders(redis_server) == {"a next0.1"}


async def test_what_its_bound_keeps_an_owner_from_it_does_not_catch_up_on(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(in_flight=1), limit=2)
    slow = await hold(queues, clock, 1, "slow", "slow")
    quick = tasks(60, clock, "quick", name="quick")
    assert await enqueue(queues, *quick) == [grant_of(quick[0])]
    await queues.accepted(quick[0])
    assert await enqueue(queues, *tasks(50, clock, "slow", name="more")) == []
    # The slow one's task goes on, while the other's come and go.
    last = quick[0].id
    for number in range(1, 41):
        assert (await release(queues, SlotGrant(last, 1))).grants == [grant_of(quick[number])]
        last = quick[number].id
        await queues.accepted(quick[number])
    await queues.configure(PATH, {"limit": 1})
    await release(queues, grant_of(slow[0]))
    (grant,) = (await release(queues, SlotGrant(last, 1))).grants
    order = [grant.task_id]
    for _ in range(9):
        (grant,) = (await release(queues, grant)).grants
        order.append(grant.task_id)
    assert Counter(task_id[:4] for task_id in order) == {"more": 5, "quic": 5}


async def test_during_an_outage_a_probe_is_never_of_an_owner_at_its_hard_bound(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded(OwnerBounds(in_flight=1, is_hard=True), limit=4)
    await hold(queues, clock, 1, "a", "held")
    probes = tasks(2, clock, "b", name="b")
    assert await enqueue(queues, probes[0]) == [grant_of(probes[0])]
    await enqueue(queues, *tasks(2, clock, "a", name="a"), probes[1])
    away = BackendAway("the backend could not be reached", "/v1")
    present = probes[0]
    for _ in range(6):
        granted = [*(await queues.away(present, away)).granted.grants]
        probes = [next_attempt(task) if task.id == present.id else task for task in probes]
        granted += await enqueue(queues, *probes)
        clock.advance(60)
        granted += (await queues.grant_free_slots(PATH)).grants
        assert [grant.task_id for grant in granted] in (["b0"], ["b1"])
        present = next(task for task in probes if task.id == granted[0].task_id)


# How long it will take


@pytest.mark.parametrize("seed", range(12))
async def test_the_reported_position_is_that_of_the_order_of_grants(
    bounded: BoundedQueues, clock: Clock, seed: int
) -> None:
    chance = random.Random(seed)
    queues = bounded(OwnerBounds(in_flight=chance.randrange(1, 5)))
    fleet = Fleet(queues, clock, slots=5, service_s=lambda: chance.expovariate(1))
    owners = [f"owner{chance.randrange(99)}" for _ in range(5)]
    for number in range(90):
        owner = chance.choice(owners[: 1 + number // 12])
        await fleet.submit(new_task(f"t{number}", clock, owner, chance.randrange(4, 7)))
        if chance.random() < 0.3:
            await fleet.run(chance.random())
    await queues.configure(PATH, {"paused": True})
    waiting = [task for task in fleet.tasks.values() if task.id not in fleet.started]
    reported = {task.id: (await queues.status(PATH, task)).position for task in waiting}
    await queues.configure(PATH, {"limit": 1000})
    fleet.slots, fleet.service_s = 1000, lambda: 1000
    fleet.forget_ends()
    started = len(fleet.started)
    await fleet.take(await queues.configure(PATH, {"paused": False}))
    await fleet.run(20)
    order = fleet.started[started:]
    assert len(order) == len(waiting) > 3
    assert {task_id: position.ahead for task_id, position in reported.items() if position} == {
        task_id: ahead for ahead, task_id in enumerate(order)
    }


async def test_an_estimate_knows_that_an_owner_holds_no_more(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(in_flight=1, is_hard=True), limit=4)
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 10)
    mine = tasks(8, clock, "a")
    await fleet.submit(*mine)
    await fleet.run(21)
    last = mine[-1]
    position = (await queues.status(PATH, last)).position
    assert position
    assert position.wait_s is not None
    estimated_s = clock() / 1000 + position.wait_s
    started_s = None
    for _ in range(100):
        await fleet.run(1)
        if last.id in fleet.started:
            started_s = clock() / 1000
            break
    assert started_s is not None
    assert estimated_s == pytest.approx(started_s, abs=11)
    assert estimated_s >= started_s - 1, "it promises nothing sooner"


# Losses, and changes of the configuration


async def repair(queues: QueueSteps, owners: dict[str, str]) -> None:
    """What the reconciler does for a queue, as far as it is about owners."""
    found = (await queues.maintain(PATH)).without_owner
    if found:
        await queues.note_holders(PATH, {grant: owners[grant.task_id] for grant in found})


async def test_holders_that_were_lost_are_found_again(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=4)
    held = await hold(queues, clock, 2, "a", "t")
    delete(redis_server, "qb")
    await repair(queues, {task.id: "a" for task in held})
    assert holders(redis_server) == {"a t0.1", "a t1.1"}
    assert await enqueue(queues, *tasks(1, clock, "a", name="more")) == []


async def test_holders_whose_slots_were_lost_are_forgotten(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=4)
    held = await hold(queues, clock, 2, "a", "t")
    delete(redis_server, "qh")
    await repair(queues, {})
    assert holders(redis_server) == set()
    await queues.mark_held([QueueEntry.of(task) for task in held])
    assert holders(redis_server) == {"a t0.1", "a t1.1"}


async def test_a_holder_whose_slot_was_lost_with_the_queue_is_forgotten_at_its_end(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=1, is_hard=True))
    [first] = await hold(queues, clock, 1, "a", "first")
    delete(redis_server, "q", "qh")
    await queues.release(PATH, grant_of(first), "a")
    assert holders(redis_server) == set()
    [more] = tasks(1, clock, "a", name="more")
    assert await enqueue(queues, more) == [grant_of(more)]


async def test_a_key_of_another_kind_in_their_place_is_removed(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=4)
    held = await hold(queues, clock, 2, "a", "t")
    for node in nodes(redis_server):
        with cast("Any", redis.Redis(port=node.port)) as client:
            for key in client.scan_iter(f"*qb:{PATH}"):
                client.set(key, "what somebody else wrote")
    await repair(queues, {task.id: "a" for task in held})
    assert holders(redis_server) == {"a t0.1", "a t1.1"}


async def test_a_bound_that_is_new_counts_what_is_in_flight_already(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    before = bounded(limit=8)
    held = await hold(before, clock, 4, "a", "t")
    assert holders(redis_server) == set(), "without a bound, there is nothing of it"
    queues = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=8)
    await repair(queues, {task.id: "a" for task in held})
    more = tasks(2, clock, "a", name="more")
    assert await enqueue(queues, *more) == []
    for task in held[:2]:
        assert (await release(queues, grant_of(task))).grants == []
    assert (await release(queues, grant_of(held[2]))).grants == [grant_of(more[0])]


async def test_without_a_bound_any_more_nothing_is_left_of_it(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=1, is_hard=True), limit=8)
    await hold(queues, clock, 1, "a", "t")
    (more,) = tasks(1, clock, "a", name="more")
    assert await enqueue(queues, more) == []
    after = bounded(limit=8)
    assert (await after.grant_free_slots(PATH)).grants == [grant_of(more)]
    assert holders(redis_server) == set()


async def test_a_process_without_the_bound_leaves_no_wrong_count_for_long(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    """While the configuration is rolled out, others free and grant slots and note nothing."""
    queues, other = bounded(OwnerBounds(in_flight=2, is_hard=True), limit=8), bounded(limit=8)
    held = await hold(queues, clock, 2, "a", "t")
    await release(other, grant_of(held[0]))
    new = tasks(1, clock, "b", name="new")
    await enqueue(other, *new)
    await repair(queues, {"t1": "a", "new0": "b"})
    assert holders(redis_server) == {"a t1.1", "b new0.1"}


# Cost


async def test_a_grant_looks_at_no_more_owners_than_are_at_their_bound(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(OwnerBounds(in_flight=1), limit=3)
    held = [task for number in range(3) for task in await hold(queues, clock, 1, f"a{number}", f"held{number}-")]
    await enqueue(
        queues, *(task for number in range(3) for task in tasks(2, clock, f"a{number}", name=f"m{number}-"))
    )
    counts: list[int] = []
    for more in (10, 400):
        for first in range(0, more, 100):
            names = range(first, min(more, first + 100))
            await enqueue(queues, *(new_task(f"w{more}-{number}", clock, f"b{more}-{number}") for number in names))
        steps = await cost(redis_server, lambda: release(queues, grant_of(held.pop())))
        counts.append(steps["zlexcount"])
    assert max(counts) <= 5


async def test_a_queue_without_bounds_takes_the_same_commands_as_ever(
    bounded: BoundedQueues, clock: Clock, redis_server: Server
) -> None:
    queues = bounded(limit=1)
    held = await hold(queues, clock, 1, "a", "held")
    await enqueue(queues, *tasks(3, clock, "a"))
    steps = await cost(redis_server, lambda: release(queues, grant_of(held[0])))
    assert "zlexcount" not in steps


# All of it


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("names", [("many", "few"), ("a-many", "z-few")], ids=["few first", "many first"])
async def test_ten_thousand_tasks_of_one_owner_cost_another_one_service_time(
    bounded: BoundedQueues, clock: Clock, slots: int, names: tuple[str, str]
) -> None:
    many, few = names
    service_s = 10.0
    queues = bounded(OwnerBounds(in_flight=max(1, slots - 1)), limit=slots)
    fleet = Fleet(queues, clock, slots=slots, service_s=lambda: service_s)
    await fleet.submit(*tasks(MANY, clock, many))
    await fleet.run(301)
    for number in range(5):
        task = new_task(f"few{number}", clock, few)
        since = clock()
        await fleet.submit(task)
        while task.id not in fleet.started:
            await fleet.run(0.1)
        assert (clock() - since) / 1000 <= service_s + 0.2
        await fleet.run(37)


async def test_a_refused_probe_of_a_lone_owner_gives_it_no_turn_before_others_that_come(
    bounded: BoundedQueues, clock: Clock
) -> None:
    queues = bounded()
    held = await hold(queues, clock, 1, "many", "held")
    first, *others = tasks(3, clock, "many")
    granted = await enqueue(queues, first, *others)
    for _ in range(3):
        assert granted == [grant_of(first)], "the probe"
        refused, first = first, next_attempt(first)
        assert (await queues.refused(refused, first, after_s=None)).grants == []
        clock.advance(60)
        granted = (await queues.grant_free_slots(PATH)).grants
    refused, first = first, next_attempt(first)
    await queues.refused(refused, first, after_s=None)
    (few,) = tasks(1, clock, "z-few", name="few")
    assert await enqueue(queues, few) == []
    assert (await release(queues, grant_of(held[0]))).grants == [grant_of(few)]


@pytest.mark.parametrize("way", ["refused", "return entry", "released"])
async def test_what_was_granted_while_its_owner_was_alone_gives_it_no_turn_before_others_that_came(
    bounded: BoundedQueues, clock: Clock, way: str
) -> None:
    queues = bounded()
    held = await hold(queues, clock, 1, "many", "held")
    probe, *others = tasks(3, clock, "many")
    assert await enqueue(queues, probe, *others) == [grant_of(probe)]
    few = tasks(2, clock, "a-few", name="few")
    assert await enqueue(queues, *few) == []
    await queues.configure(PATH, {"limit": 1})
    if way == "refused":
        await queues.refused(probe, next_attempt(probe), after_s=60)
    elif way == "return entry":
        await queues.return_entry(probe, next_attempt(probe))
    else:
        await queues.released(next_attempt(probe), probe.attempt)
    assert (await release(queues, grant_of(held[0]))).grants == [grant_of(few[0])]
    assert (await release(queues, grant_of(few[0]))).grants == [grant_of(next_attempt(probe))]
    assert (await release(queues, grant_of(next_attempt(probe)))).grants == [grant_of(few[1])]


async def test_what_was_granted_while_others_waited_gives_its_turn_back(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(limit=1)
    await queues.configure(PATH, {"paused": True})
    mine, theirs = tasks(3, clock, "a", name="mine"), tasks(3, clock, "b", name="theirs")
    await enqueue(queues, *mine, *theirs)
    task = mine[0]
    granted = (await queues.configure(PATH, {"paused": False})).grants
    for _ in range(3):
        assert granted == [grant_of(task)]
        await queues.accepted(task)
        granted = (await queues.released(next_attempt(task), task.attempt)).grants
        task = next_attempt(task)
    assert granted == [grant_of(task)]
    assert (await release(queues, grant_of(task))).grants == [grant_of(theirs[0])]


async def test_an_owner_that_is_alone_by_now_gets_no_turn_back(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(limit=2)
    await queues.configure(PATH, {"paused": True})
    many, few = tasks(3, clock, "many"), tasks(2, clock, "z-few", name="few")
    await enqueue(queues, *many, few[0])
    granted = (await queues.configure(PATH, {"paused": False})).grants
    assert granted == [grant_of(many[0])], "the probe"
    assert (await queues.accepted(many[0])).grants == [grant_of(few[0])]
    await queues.released(next_attempt(many[0]), many[0].attempt)
    await enqueue(queues, few[1])
    await queues.configure(PATH, {"limit": 1})
    assert (await release(queues, grant_of(few[0]))).grants == [grant_of(few[1])]


async def test_no_slot_is_idle_while_any_owner_may_have_it(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(in_flight=2), limit=5)
    fleet = Fleet(queues, clock, slots=5, service_s=lambda: 3)
    await fleet.submit(*tasks(60, clock, "only"))
    await fleet.run(30)
    assert fleet.busy == 5
    await fleet.submit(*tasks(30, clock, "other", name="o"))
    await fleet.run(1)
    for _ in range(20):
        await fleet.run(1.7)
        waiting = [task for task in fleet.tasks if task not in fleet.started]
        assert fleet.busy == 5 or len(waiting) == 0


async def test_the_order_of_grants_is_fair_within_the_bound(bounded: BoundedQueues, clock: Clock) -> None:
    queues = bounded(OwnerBounds(in_flight=10))
    await queues.configure(PATH, {"paused": True})
    waiting = [*tasks(3, clock, "a", name="a"), *tasks(3, clock, "b", name="b")]
    await enqueue(queues, *waiting)
    order = await order_of_grants(queues, waiting)
    assert [task_id[0] for task_id in order] == ["a", "b"] * 3
    assert completed(waiting[0], clock, since_ms=clock()).owner == "a"


# By the store's face, on one server or several


class LinkToSeveralServers(RedisLink):
    """As on a cluster: no server has all partitions."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def store(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    bounds = OwnerBounds(waiting=2, in_flight=1, is_hard=True)
    store = TaskStore(request.param(opener(redis_url)), POLICY, lambda path: 4, clock, bounds_of=lambda path: bounds)
    yield store
    await store.aclose()


def new(task_id: str, owner: str) -> NewTask:
    return NewTask(task_id, PATH, 60, body=Content("text/plain", 5), inline_body=b"hello", owner=owner)


async def begin(store: TaskStore, task_id: str, owner: str) -> None:
    created = await store.create(new(task_id, owner))
    assert isinstance(created, Created)
    [granted] = created.granted
    claimed = await store.claim_granted(granted, SlotGrant(task_id, 1))
    assert isinstance(claimed, Claimed)
    await store.accept(claimed.task)


async def test_a_task_that_its_owner_has_no_room_for_is_not_stored(store: TaskStore, redis_server: Server) -> None:
    await begin(store, "t0", "a")
    for number in (1, 2):
        created = await store.create(new(f"t{number}", "a"))
        assert isinstance(created, Created)
        assert created.position
    refused = await store.create(new("t3", "a"))
    assert isinstance(refused, Full)
    assert refused.is_owners
    assert await store.get("t3") is None
    assert "t3" not in World(redis_server).records
    await begin(store, "other", "b")


async def test_the_owners_that_have_most_of_a_queue_are_known(store: TaskStore) -> None:
    await begin(store, "h0", "holds")
    await begin(store, "h1", "")
    await store.queues.configure(PATH, {"paused": True})
    assert await store.queues.largest_owners("/v1/nowhere") == []
    assert await store.queues.largest_owners(PATH) == [OwnerShare("", 0, 1), OwnerShare("holds", 0, 1)]
    for number, owner in enumerate(["b", "holds", "a", "holds", "b", "b"]):
        await store.create(new(f"t{number}", owner))
    assert await store.queues.largest_owners(PATH) == [
        OwnerShare("holds", 2, 1),
        OwnerShare("b", 2, 0),
        OwnerShare("", 0, 1),
        OwnerShare("a", 1, 0),
    ]


async def test_ten_thousand_owners_are_looked_at_piece_by_piece(
    bounded: BoundedQueues, store: TaskStore, redis_server: Server, clock: Clock
) -> None:
    queues = bounded()
    await queues.configure(PATH, {"paused": True})
    waiting = [new_task(f"t{number}", clock, f"o{number}") for number in range(10_010)]
    more = [new_task(f"m{number}", clock, f"o{number}") for number in range(9_000, 9_018)]
    await queues.enqueue([QueueEntry.of(task) for task in [*waiting, *more]])
    largest = await store.queues.largest_owners(PATH)
    assert largest[:18] == [OwnerShare(task.owner, 2, 0) for task in more]
    assert (len(largest), largest[18].waiting) == (20, 1)
    # A call counts the tasks of 500 owners.
    assert (await cost(redis_server, lambda: queues.owners(PATH))).total() < 510


async def test_the_end_of_an_owners_task_grants_its_next_one(store: TaskStore, redis_server: Server) -> None:
    await begin(store, "t0", "a")
    await store.create(new("t1", "a"))
    await store.create(new("t2", "a"))
    ended = await store.update("t0", state=State.COMPLETED, status="completed", attempt=1)
    assert isinstance(ended, Applied)
    assert [grant for granted in ended.granted for grant in granted.grants] == [SlotGrant("t1", 1)]
    assert holders(redis_server) == {"a t1.1"}
    cancelled = await store.cancel("t1")
    assert isinstance(cancelled, Applied)
    assert [grant for granted in cancelled.granted for grant in granted.grants] == [SlotGrant("t2", 1)]
    assert holders(redis_server) == {"a t2.1"}


async def test_a_child_of_a_batch_is_refused_too(store: TaskStore) -> None:
    await store.batches.create(NewBatch("batch", "", owner="a"))
    await store.queues.configure(PATH, {"paused": True})
    for number in range(2):
        assert isinstance(await store.create(replace(new(f"c{number}", "a"), batch="batch")), Created)
    assert isinstance(await store.create(replace(new("c2", "a"), batch="batch")), Full)
