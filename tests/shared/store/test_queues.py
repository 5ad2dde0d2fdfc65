"""Task queues: the capacity estimate, the order of grants, reported positions, and the loss of keys."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import msgpack
import pytest
import redis

from shared.store.outages import Outage
from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueEntry, QueueStatus, QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.requeue import BackendAway
from shared.tasks import status_texts
from shared.tasks.outcomes import Draining, Enqueued, Full, Granted, QueuePosition, SlotGrant
from shared.tasks.task import Task
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.fleet import PATH, Fleet, completed, new_task, release
from tests.shared.store.policies import store_policy
from tests.shared.store.world import Server, nodes, tag_of

AWAY = BackendAway("the backend could not be reached", "/v1")
POLICY = store_policy(slot_claim_s=30, slot_check_s=20, busy_retry_s=5, backoff_base_s=2)


class QueuesFactory(Protocol):
    def __call__(
        self, policy: StorePolicy = ..., limit: int | None = ..., *, repeating: bool = ...
    ) -> QueueSteps: ...


@pytest.fixture
async def open_queues(redis_url: str, clock: Clock) -> AsyncIterator[QueuesFactory]:
    links: list[RedisLink] = []

    def open_queues(policy: StorePolicy = POLICY, limit: int | None = None, *, repeating: bool = False) -> QueueSteps:
        links.append((RepeatingLink if repeating else RedisLink)(opener(redis_url)))
        return QueueSteps(links[-1], policy, lambda path: limit, clock)

    yield open_queues
    for link in links:
        await link.aclose()


@pytest.fixture
def queues(open_queues: QueuesFactory) -> QueueSteps:
    return open_queues()


def grant_of(task: Task) -> SlotGrant:
    return SlotGrant.of(task)


def next_attempt(task: Task) -> Task:
    """The task with the attempt that it gets after a refusal."""
    return replace(task, attempt=task.attempt + 1)


def tasks(count: int, clock: Clock, owner: str = "", priority: int = 5, name: str = "t") -> list[Task]:
    """Tasks that are created one after another."""
    made: list[Task] = []
    for number in range(count):
        made.append(new_task(f"{name}{number}", clock, owner, priority))
        clock.advance(0.001)
    return made


async def enqueue(queues: QueueSteps, *offered: Task) -> list[SlotGrant]:
    return (await queues.enqueue([QueueEntry.of(task) for task in offered])).grants


async def found_away(queues: QueueSteps, task: Task, reason: BackendAway = AWAY) -> Granted:
    """The backend was away for *task*, which waits again."""
    found = await queues.away(task, reason)
    assert found.what == "away"
    assert (await queues.enqueue([QueueEntry.of(next_attempt(task))])).grants == []
    return found.granted


async def learn(queues: QueueSteps, clock: Clock, slots: int) -> list[Task]:
    """Let the backend accept *slots* tasks that do not end, and refuse one more if there is no limit, so that the
    search is over."""
    *held, last = tasks(slots + 1, clock, name="held")
    granted = await enqueue(queues, *held, last)
    for task in held:
        assert grant_of(task) in granted
        granted += (await queues.accepted(task)).grants
    if grant_of(last) in granted:
        await queues.refused(last, next_attempt(last), after_s=0.001)
        last = next_attempt(last)
    await release(queues, grant_of(last))
    clock.advance(0.001)
    return held


async def order_of_grants(queues: QueueSteps, waiting: list[Task]) -> list[str]:
    """Let the queue grant all waiting tasks one by one. Returns their ids."""
    by_id = {task.id: task for task in waiting}
    order: list[str] = []
    granted = (await queues.configure(PATH, {"paused": False})).grants
    while granted:
        order.append(granted.pop(0).task_id)
        granted += (await queues.accepted(by_id[order[-1]])).grants
    return order


def keys(server: Server, pattern: str) -> dict[str, Any]:
    """The keys of the queue that match *pattern*, with their values."""
    found: dict[str, Any] = {}
    for node in nodes(server):
        with redis.Redis(port=node.port) as client:
            for key in client.scan_iter("*" + pattern + "*"):
                tag, name = key.decode().split("}")
                assert tag == "{" + tag_of(PATH)
                if client.type(key) == b"string":
                    found[name] = msgpack.unpackb(client.get(key))
                else:
                    found[name] = dict(cast("Any", client).zrange(key, 0, -1, withscores=True))
    return found


def delete(server: Server, *prefixes: str) -> None:
    for node in nodes(server):
        with redis.Redis(port=node.port) as client:
            for prefix in prefixes:
                for key in client.scan_iter("{" + tag_of(PATH) + "}" + prefix + ":*"):
                    client.delete(key)


# The capacity estimate


async def test_beyond_the_estimate_one_task_probes_at_a_time_until_it_is_accepted(
    queues: QueueSteps, clock: Clock
) -> None:
    await learn(queues, clock, 3)
    first, second = tasks(2, clock)
    assert await enqueue(queues, first, second) == [grant_of(first)]
    assert await enqueue(queues, *tasks(3, clock, name="more")) == []
    assert (await queues.accepted(first)).grants == [grant_of(second)]
    status = await queues.status(PATH)
    assert (status.slots, status.holding) == (4, 5)


async def test_the_next_probe_begins_if_a_probe_has_no_answer_for_a_second(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(3, clock)
    started_ms = clock()
    granted = await queues.enqueue([QueueEntry.of(task) for task in waiting])
    assert granted == Granted(PATH, [grant_of(waiting[0])], 1)
    clock.ms = started_ms + 999
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [], 0.001)
    clock.ms = started_ms + 1000
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [grant_of(waiting[1])], 2)
    # The answer to the first task says nothing about the second, which is still in flight.
    assert (await queues.accepted(waiting[0])).grants == []
    assert (await queues.status(PATH)).slots == 1
    assert (await queues.accepted(waiting[1])).grants == [grant_of(waiting[2])]
    assert (await queues.status(PATH)).slots == 2


async def test_a_task_completed_before_its_acceptance_is_recorded_counts_as_accepted(
    queues: QueueSteps, clock: Clock
) -> None:
    first, second, third = waiting = tasks(3, clock)
    await enqueue(queues, *waiting)
    granted = await release(queues, grant_of(first), completed(first, clock, since_ms=clock()))
    # One grant for the freed slot, and one probe.
    assert granted.grants == [grant_of(second), grant_of(third)]
    assert (await queues.status(PATH)).slots == 1
    assert (await queues.accepted(first)).grants == []
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=False)


async def test_a_task_that_ends_without_service_does_not_raise_the_estimate(queues: QueueSteps, clock: Clock) -> None:
    first, second = tasks(2, clock)
    await enqueue(queues, first, second)
    assert (await release(queues, grant_of(first), None)).grants == [grant_of(second)]
    assert (await queues.status(PATH)).slots == 0


async def test_one_answer_per_slot_and_one_refusal_fill_a_backend(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=12)
    await fleet.submit(*tasks(40, clock))
    assert (fleet.busy, [held for _, held in fleet.refusals]) == (12, [12])
    assert len(fleet.started) == 12
    status = await queues.status(PATH)
    assert (status.holding, status.slots, status.waiting) == (12, 12, 28)


async def test_a_refusal_sets_the_estimate_and_delays_the_next_probe(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 3)
    first, second = tasks(2, clock)
    assert await enqueue(queues, first, second) == [grant_of(first)]
    assert await queues.refused(first, next_attempt(first), after_s=None) == Granted(PATH, [], 0.05)
    status = await queues.status(PATH)
    assert (status.slots, status.holding, status.waiting) == (3, len(held), 2)
    clock.advance(0.049)
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [], 0.001)
    clock.advance(0.001)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(next_attempt(first))]


async def test_the_probe_delay_doubles_with_each_refusal_up_to_a_limit_and_resets_with_an_acceptance(
    queues: QueueSteps, clock: Clock
) -> None:
    await learn(queues, clock, 1)
    (task,) = tasks(1, clock)
    assert await enqueue(queues, task) == [grant_of(task)]
    delays_s: list[float | None] = []
    for _ in range(10):
        task, before = next_attempt(task), task
        granted = await queues.refused(before, task, after_s=None)
        assert not granted.grants
        delays_s.append(granted.ask_again_s)
        clock.advance(granted.ask_again_s or 0)
        assert (await queues.grant_free_slots(PATH)).grants == [grant_of(task)]
    assert delays_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    await queues.accepted(task)
    (other,) = tasks(1, clock, name="other")
    assert await enqueue(queues, other) == [grant_of(other)]
    assert (await queues.refused(other, next_attempt(other), after_s=None)).ask_again_s == 0.05


async def test_refusals_at_the_same_time_lengthen_the_probe_delay_only_once(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 4)
    waiting = tasks(4, clock)
    assert await enqueue(queues, *waiting) == [grant_of(waiting[0])]
    refused = waiting[0]
    for task in held:
        clock.advance(0.01)
        assert (await queues.refused(refused, next_attempt(refused), after_s=None)).ask_again_s is not None
        granted = await release(queues, grant_of(task), completed(task, clock, since_ms=clock()))
        ((grant,),) = [granted.grants]
        refused = next_attempt(refused)
        assert grant == grant_of(refused)
    status = await queues.status(PATH)
    assert status.slots == 1
    granted = await queues.refused(refused, next_attempt(refused), after_s=None)
    assert granted.ask_again_s is not None
    assert granted.ask_again_s <= 0.05


async def test_a_freed_slot_within_the_estimate_is_granted_during_a_probe(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 2)
    probing, next_, after, last = tasks(4, clock)
    assert await enqueue(queues, probing, next_, after, last) == [grant_of(probing)]
    clock.advance(0.01)
    granted = await release(queues, grant_of(held[0]), completed(held[0], clock, since_ms=clock()))
    assert granted.grants == [grant_of(next_)]
    # The backend probably holds three; the queue assumes so.
    assert (await queues.accepted(probing)).grants == [grant_of(after)]
    assert (await queues.status(PATH)).slots == 3


async def test_a_refusal_during_a_probe_reverts_the_capacity_estimate(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 2)
    for pause_s in (0.05, 0.1, 0.2):
        probing, next_ = tasks(2, clock, name=f"after{pause_s}s-")
        assert await enqueue(queues, probing, next_) == [grant_of(probing)]
        clock.advance(0.01)
        ended = held.pop(0)
        granted = await release(queues, grant_of(ended), completed(ended, clock, since_ms=clock()))
        assert granted.grants == [grant_of(next_)]
        await queues.accepted(probing)
        assert (await queues.status(PATH)).slots == 3
        granted = await queues.refused(next_, next_attempt(next_), after_s=None)
        assert (await queues.status(PATH)).slots == 2
        assert granted == Granted(PATH, [], pause_s)
        await release(queues, grant_of(next_attempt(next_)), None)
        held.append(probing)
        clock.advance(60)


async def test_no_probe_begins_before_the_backends_retry_after_is_over(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    first, second = tasks(2, clock)
    await enqueue(queues, first, second)
    assert await queues.refused(first, next_attempt(first), after_s=40) == Granted(PATH, [], 40)
    clock.advance(39.999)
    assert (await queues.grant_free_slots(PATH)).grants == []
    clock.advance(0.001)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(next_attempt(first))]


async def test_a_freed_slot_is_granted_even_while_probes_are_delayed(queues: QueueSteps, clock: Clock) -> None:
    one, other = await learn(queues, clock, 2)
    first, second = tasks(2, clock)
    await enqueue(queues, first, second)
    await queues.refused(first, next_attempt(first), after_s=60)
    clock.advance(1)
    granted = await release(queues, grant_of(one), completed(one, clock, since_ms=clock()))
    assert granted.grants == [grant_of(next_attempt(first))]
    granted = await release(queues, grant_of(other), None)
    assert granted.grants == [grant_of(second)]


@pytest.mark.parametrize("by", ["configuration", "operator"])
async def test_a_limit_caps_the_held_slots_and_stops_probing(
    open_queues: QueuesFactory, clock: Clock, by: str
) -> None:
    queues = open_queues(limit=3 if by == "configuration" else None)
    if by == "operator":
        await queues.configure(PATH, {"limit": 3})
    fleet = Fleet(queues, clock, slots=10)
    await fleet.submit(*tasks(20, clock))
    await fleet.run(100)
    assert (fleet.most, fleet.refusals) == (3, [])
    assert len(fleet.ended) == 20
    assert (await queues.status(PATH)).limit == 3


async def test_the_operators_limit_overrides_the_configured_one_until_it_is_removed(
    open_queues: QueuesFactory, clock: Clock
) -> None:
    queues = open_queues(limit=2)
    fleet = Fleet(queues, clock, slots=10)
    await fleet.submit(*tasks(20, clock))
    assert fleet.busy == 2
    await fleet.take(await queues.configure(PATH, {"limit": 5}))
    assert fleet.busy == 5
    await fleet.take(await queues.configure(PATH, {"limit": None}))
    await fleet.run(11)
    assert fleet.busy == 2


async def test_a_backend_that_gains_slots_is_filled_within_seconds(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 120)
    await fleet.submit(*tasks(50, clock))
    await fleet.run(60)
    fleet.slots = 16
    await fleet.run(6)
    assert fleet.busy == 16


async def test_each_lost_slot_of_a_shrinking_backend_is_learned_by_one_refusal(
    queues: QueueSteps, clock: Clock
) -> None:
    ages = iter([2.0 + number for number in range(10)] + [60.0] * 100)
    fleet = Fleet(queues, clock, slots=10, service_s=lambda: next(ages))
    await fleet.submit(*tasks(60, clock))
    assert (fleet.busy, len(fleet.refusals)) == (10, 1)
    fleet.slots = 2
    await fleet.run(1)
    probing = len(fleet.refusals)
    before: list[int] = []
    for _ in range(9):
        holding = (await queues.status(PATH)).holding
        before.append(len(fleet.refusals))
        await fleet.run(1)
        # One of ten tasks ends each second and its slot is gone: one refusal reveals that and lowers the estimate.
        assert (await queues.status(PATH)).slots <= holding
    assert fleet.busy == 2
    # All other refusals are those of probes, which become ever rarer.
    assert len(fleet.refusals) - probing <= 8 + 9
    assert (await queues.status(PATH)).slots == 2


@pytest.mark.parametrize(("slots", "service_s", "release_s"), [(20, 0.5, 0.02), (20, 0.1, 0.005), (4, 1, 0.03)])
async def test_a_backend_that_frees_its_slots_shortly_after_its_reports_is_kept_busy(
    queues: QueueSteps, clock: Clock, slots: int, service_s: float, release_s: float
) -> None:
    """A freed slot is granted at once and the task refused: the queue must not conclude that the backend shrinks."""
    seconds = 5
    ideal = slots * int(seconds / (service_s + release_s))
    fleet = Fleet(queues, clock, slots, lambda: service_s, release_s)
    await fleet.submit(*tasks(ideal + 2 * slots, clock))
    await fleet.run(seconds)
    assert len(fleet.ended) > ideal / 2
    assert fleet.most == slots


# When dispatches fail


async def test_after_two_unanswered_dispatches_a_pause_doubles_until_a_dispatch_is_accepted(
    queues: QueueSteps, clock: Clock
) -> None:
    held = await learn(queues, clock, 3)
    waiting = tasks(30, clock)
    assert await enqueue(queues, *waiting) == [grant_of(waiting[0])]
    assert (await queues.away(waiting[0], AWAY)).granted.grants == [grant_of(waiting[1])]
    assert await found_away(queues, waiting[1]) == Granted(PATH, [], 2)
    # During the pause, not even freed slots are granted.
    for task in held:
        assert (await release(queues, grant_of(task), None)).grants == []
    clock.advance(1.999)
    assert (await queues.grant_free_slots(PATH)).grants == []
    clock.advance(0.001)
    for pause_s, task in zip([4.0, 8.0, 10.0, 10.0, 10.0], waiting[2:], strict=False):
        assert (await queues.grant_free_slots(PATH)).grants == [grant_of(task)]
        assert await found_away(queues, task) == Granted(PATH, [], pause_s)
        clock.advance(pause_s)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(waiting[7])]
    # Those that were probes are still ahead.
    assert (await queues.accepted(waiting[7])).grants == [grant_of(next_attempt(waiting[1]))]


async def test_an_acceptance_ends_the_pause_and_resets_the_count_of_failures(
    queues: QueueSteps, clock: Clock
) -> None:
    held = await learn(queues, clock, 3)
    waiting = tasks(10, clock)
    await enqueue(queues, *waiting)
    await queues.away(waiting[0], AWAY)
    assert (await queues.away(waiting[1], AWAY)).granted.grants == []
    assert (await queues.accepted(held[0])).grants == [grant_of(waiting[2])]
    assert (await queues.away(waiting[2], AWAY)).granted.grants == [grant_of(waiting[3])]


async def test_answered_failures_pause_a_backend_only_after_eight_in_a_row(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(20, clock)
    granted = await enqueue(queues, *waiting)
    for task in waiting[:7]:
        assert granted == [grant_of(task)]
        granted = (await queues.failed(task)).grants
    assert granted == [grant_of(waiting[7])]
    assert await queues.failed(waiting[7]) == Granted(PATH, [], 2)


async def test_a_failure_during_a_pause_does_not_prolong_it(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 4)
    await enqueue(queues, *tasks(3, clock))
    for task in held[:2]:
        await queues.away(task, AWAY)
    assert [(await queues.away(task, AWAY)).granted.ask_again_s for task in held[2:]] == [2, 2]


# While the backend is away


async def away_with(queues: QueueSteps, clock: Clock, *waiting: Task) -> None:
    """Let the first two of *waiting* find the backend away, and then nothing be granted before the next pause."""
    await enqueue(queues, *waiting)
    for task in waiting[:2]:
        await queues.away(task, AWAY)
    for task in waiting[:2]:
        await enqueue(queues, next_attempt(task))


async def test_while_a_backend_is_away_one_probe_at_a_time_goes_out(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(40, clock)
    await away_with(queues, clock, *waiting)
    clock.advance(2)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(waiting[2])]
    # A backend that hangs answers within the time of a claim and a dispatch, or the dispatcher is dead.
    clock.advance(2 * POLICY.slot_claim_s - 0.001)
    assert (await queues.grant_free_slots(PATH)).grants == []
    clock.advance(0.001)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(waiting[3])]


async def test_a_backend_that_does_not_answer_gets_ever_fewer_probes(queues: QueueSteps, clock: Clock) -> None:
    granted = await enqueue(queues, *tasks(40, clock))
    for _ in range(250):
        clock.advance(0.1)
        granted += (await queues.grant_free_slots(PATH)).grants
    assert len(granted) == 5, "at 0, 1, 3, 7 and 15 of 25 s"


@pytest.mark.parametrize("owners", [1, 3])
async def test_each_probe_of_a_backend_that_is_away_is_another_task(
    queues: QueueSteps, clock: Clock, owners: int
) -> None:
    waiting = [new_task(f"t{number}", clock, f"owner{number % owners}") for number in range(6)]  # of one millisecond
    await away_with(queues, clock, *waiting)
    current = {task.id: task for task in (*map(next_attempt, waiting[:2]), *waiting[2:])}
    probed: list[str] = []
    for _ in range(12):
        clock.advance(10)
        (grant,) = (await queues.grant_free_slots(PATH)).grants
        probed.append(grant.task_id)
        task = current[grant.task_id]
        await found_away(queues, task)
        current[task.id] = next_attempt(task)
    assert sorted(probed[:6]) == sorted(current)
    assert probed[6:] == probed[:6]


async def test_a_single_waiting_task_is_probed_again_and_again(queues: QueueSteps, clock: Clock) -> None:
    task = new_task("t", clock)
    await enqueue(queues, task)
    await queues.away(task, AWAY)
    task = next_attempt(task)
    assert await enqueue(queues, task) == [grant_of(task)], "one lost answer brings no pause"
    for _ in range(5):
        await found_away(queues, task)
        task = next_attempt(task)
        clock.advance(10)
        assert (await queues.grant_free_slots(PATH)).grants == [grant_of(task)]


async def test_a_cancelled_probe_does_not_keep_the_others_from_being_probed(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(4, clock)
    await away_with(queues, clock, *waiting)
    clock.advance(2)
    (grant,) = (await queues.grant_free_slots(PATH)).grants
    await queues.away(waiting[2], AWAY)
    await release(queues, SlotGrant(grant.task_id, 2), waiting[2])
    clock.advance(10)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(waiting[3])]


async def test_a_failure_counts_only_if_another_task_was_accepted_since_the_last_one(
    queues: QueueSteps, clock: Clock
) -> None:
    sent = replace(AWAY, was_sent=True)
    suspect, other = tasks(2, clock)
    await enqueue(queues, suspect, other)
    first = await queues.away(suspect, sent)
    suspect = replace(next_attempt(suspect), away_ms=first.at_ms)
    clock.advance(1)
    await enqueue(queues, suspect)
    assert (await queues.away(suspect, sent)).what == "away", "nothing was accepted in between"
    suspect = replace(next_attempt(suspect), away_ms=clock())
    clock.advance(5)
    await queues.accepted(other)
    clock.advance(5)
    await enqueue(queues, suspect)
    assert (await queues.away(suspect, AWAY)).what == "away", "the backend cannot have had the task"
    assert (await queues.away(suspect, sent)).what == "counts"
    assert (await queues.away(replace(suspect, away_ms=None), sent)).what == "away", "it never failed before"


async def test_a_path_that_was_never_accepted_is_a_mistake_if_its_backend_serves_others(
    queues: QueueSteps, clock: Clock
) -> None:
    not_found = replace(AWAY, not_found=True)
    task = new_task("t", clock)
    await enqueue(queues, task)
    found = await queues.away(task, not_found, elsewhere=True)
    assert found.what == "misdirected"
    assert (await queues.status(PATH)).outage is None
    (held,) = await learn(queues, clock, 1)
    assert (await queues.away(held, not_found, elsewhere=True)).what == "away"


async def test_the_status_of_a_queue_shows_the_outage_of_its_backend(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(5, clock)
    await away_with(queues, clock, *waiting)
    since_ms = clock()
    clock.advance(2)
    await queues.grant_free_slots(PATH)
    await found_away(queues, waiting[2])
    assert (await queues.status(PATH)).outage == Outage(since_ms, None, AWAY.cause)
    clock.advance(4)
    await queues.grant_free_slots(PATH)
    await queues.accepted(waiting[3])
    assert (await queues.status(PATH)).outage is None


async def test_what_is_not_registered_is_held_at_the_first_attempt(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(5, clock)
    await enqueue(queues, *waiting)
    found = await queues.away(waiting[0], BackendAway(status_texts.UNREGISTERED, None))
    assert found.granted == Granted(PATH, [], 2)
    outage = (await queues.status(PATH)).outage
    assert outage
    assert outage.cause == "no backend is registered for this path"


async def test_a_task_that_waits_apart_has_the_position_that_it_will_have(queues: QueueSteps, clock: Clock) -> None:
    await queues.configure(PATH, {"paused": True})
    waiting = tasks(5, clock)
    await enqueue(queues, *waiting[:2], *waiting[3:])
    position = (await queues.status(PATH, waiting[2])).position
    assert position
    assert (position.ahead, position.wait_s) == (2, None)


# The order of grants


async def test_within_a_priority_tasks_are_granted_in_order_of_arrival(queues: QueueSteps, clock: Clock) -> None:
    await queues.configure(PATH, {"paused": True})
    waiting = tasks(12, clock)
    await enqueue(queues, *random.Random(1).sample(waiting, len(waiting)))
    assert await order_of_grants(queues, waiting) == [task.id for task in waiting]


async def test_a_higher_priority_goes_first_and_each_step_of_it_outweighs_ten_minutes_of_waiting(
    queues: QueueSteps, clock: Clock
) -> None:
    await queues.configure(PATH, {"paused": True})
    low, high = new_task("low", clock, priority=4), new_task("high", clock, priority=6)
    clock.advance(20 * 60 - 0.001)
    just_before = new_task("just-before", clock, priority=6)
    clock.advance(0.002)
    just_after = new_task("just-after", clock, priority=6)
    waiting = [low, high, just_before, just_after]
    await enqueue(queues, *waiting)
    assert await order_of_grants(queues, waiting) == ["high", "just-before", "low", "just-after"]


async def test_a_low_priority_task_is_granted_at_last_despite_a_stream_of_urgent_ones(
    queues: QueueSteps, clock: Clock
) -> None:
    fleet = Fleet(queues, clock, slots=1, service_s=lambda: 60)
    await fleet.submit(new_task("first", clock, priority=9), new_task("lowest", clock, priority=0))
    for number in range(100):
        await fleet.submit(new_task(f"urgent{number}", clock, priority=9))
        await fleet.run(60)
    # Nine steps of priority are worth ninety minutes.
    assert fleet.started.index("lowest") in range(90, 93)


async def test_a_retry_goes_before_all_tasks_that_came_later(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    first, *others = waiting = tasks(4, clock)
    assert await enqueue(queues, *waiting) == [grant_of(first)]
    await queues.refused(first, next_attempt(first), after_s=None)
    clock.advance(1)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(next_attempt(first))]
    assert (await queues.accepted(next_attempt(first))).grants == [grant_of(others[0])]


async def test_a_task_returned_to_its_queue_keeps_its_position_and_is_granted_next(
    queues: QueueSteps, clock: Clock
) -> None:
    first, second = tasks(2, clock)
    assert await enqueue(queues, first, second) == [grant_of(first)]
    await queues.return_entry(first, next_attempt(first))
    status = await queues.status(PATH, next_attempt(first))
    assert (status.holding, status.waiting) == (0, 2)
    assert status.position
    assert status.position.ahead == 0
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(next_attempt(first))]


async def test_a_thousand_tasks_of_one_owner_do_not_delay_another_owners_task(
    queues: QueueSteps, clock: Clock
) -> None:
    fleet = Fleet(queues, clock, slots=1)
    await fleet.submit(*tasks(1000, clock, "many"))
    await fleet.run(300)
    await fleet.submit(new_task("one", clock, "few"))
    started = len(fleet.started)
    await fleet.run(25)
    assert "one" in fleet.started[started : started + 2]


async def test_owners_with_waiting_tasks_share_a_backend_evenly(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=3, service_s=lambda: 1, release_s=0.01)
    await fleet.submit(*(task for owner in "abc" for task in tasks(200, clock, owner, name=f"{owner}-")))
    await fleet.run(60)
    shares = [sum(task_id.startswith(owner) for task_id in fleet.started) for owner in "abc"]
    assert min(shares) > 30
    # The first owner had all slots before the others submitted anything.
    assert max(shares) - min(shares) <= 3 + 2
    assert fleet.refusals


async def test_a_refused_task_does_not_use_up_its_owners_share(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    await queues.configure(PATH, {"paused": True})
    mine, theirs = tasks(2, clock, "a", name="mine"), tasks(2, clock, "b", name="theirs")
    await enqueue(queues, *mine, *theirs)
    first = mine[0]
    granted = (await queues.configure(PATH, {"paused": False})).grants
    for _ in range(5):
        assert granted == [grant_of(first)]
        await queues.refused(first, next_attempt(first), after_s=None)
        first = next_attempt(first)
        clock.advance(5)
        granted = (await queues.grant_free_slots(PATH)).grants
    assert granted == [grant_of(first)]
    assert (await queues.accepted(first)).grants == [grant_of(theirs[0])]


async def test_an_owner_who_comes_late_gets_an_equal_share_from_then_on(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=1)
    await fleet.submit(*tasks(100, clock, "early", name="early-"))
    await fleet.run(300)
    await fleet.submit(*tasks(100, clock, "late", name="late-"))
    started = len(fleet.started)
    await fleet.run(200)
    since = fleet.started[started:]
    assert abs(2 * sum(task_id.startswith("late") for task_id in since) - len(since)) <= 2


# Pause, drain, backlog


async def test_a_paused_queue_accepts_tasks_and_grants_no_slots_until_it_is_resumed(
    queues: QueueSteps, clock: Clock
) -> None:
    (held,) = await learn(queues, clock, 1)
    await queues.configure(PATH, {"paused": True})
    first, second = tasks(2, clock)
    enqueued = await queues.enqueue_new(QueueEntry.of(first))
    assert isinstance(enqueued, Enqueued)
    assert enqueued.granted == Granted(PATH, [], None)
    assert await enqueue(queues, second) == []
    for granted in (
        await release(queues, grant_of(held), completed(held, clock, since_ms=clock())),
        await queues.grant_free_slots(PATH),
        (await queues.maintain(PATH)).granted,
        await queues.accepted(held),
        await queues.configure(PATH, {"limit": 7}),
    ):
        assert granted == Granted(PATH, [], None)
    assert await queues.status(PATH) == QueueStatus(2, 0, 1, 7, paused=True, draining=False)
    assert (await queues.configure(PATH, {"paused": False, "limit": None})).grants == [
        grant_of(first),
        grant_of(second),
    ]
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=False)


async def test_a_draining_queue_refuses_new_tasks_and_finishes_those_it_has(queues: QueueSteps, clock: Clock) -> None:
    first, second, third = tasks(3, clock)
    await enqueue(queues, first, second)
    await queues.configure(PATH, {"draining": True})
    assert await queues.enqueue_new(QueueEntry.of(third)) == Draining()
    # A retry is not new.
    assert (await queues.refused(first, next_attempt(first), after_s=None)).grants == []
    clock.advance(1)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(next_attempt(first))]
    assert (await queues.accepted(next_attempt(first))).grants == [grant_of(second)]
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=True)
    await queues.configure(PATH, {"draining": False})
    assert isinstance(await queues.enqueue_new(QueueEntry.of(third)), Enqueued)


async def test_a_full_queue_estimates_when_it_will_have_room(open_queues: QueuesFactory, clock: Clock) -> None:
    queues = open_queues(replace(POLICY, max_backlog=4), limit=2)
    held = await learn(queues, clock, 2)
    waiting = tasks(4, clock)
    for task in waiting:
        assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    extra = new_task("extra", clock)
    assert await queues.enqueue_new(QueueEntry.of(extra)) == Full(None)
    assert (await queues.status(PATH)).waiting == 4
    clock.advance(8)
    for task in held:
        await release(queues, grant_of(task), completed(task, clock, since_ms=task.created_ms))
    for number in range(2):
        assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task(f"next{number}", clock))), Enqueued)

    async def room_in_s() -> float | None:
        full = await queues.enqueue_new(QueueEntry.of(extra))
        assert isinstance(full, Full)
        return full.room_in_s

    # With two slots and eight seconds a task, the backlog shrinks by one every four seconds.
    assert await room_in_s() == pytest.approx(4, abs=0.01)
    # A task that exists already, such as a retry, is enqueued all the same.
    assert await enqueue(queues, new_task("known", clock)) == []
    assert (await queues.status(PATH)).waiting == 5
    assert await room_in_s() == pytest.approx(8, abs=0.02)
    await queues.configure(PATH, {"paused": True})
    assert await room_in_s() is None


@pytest.mark.parametrize("change", [{"draining": True}, {}], ids=["draining", "full"])
async def test_a_repeated_enqueue_succeeds_if_the_first_answer_was_lost(
    open_queues: QueuesFactory, clock: Clock, change: dict[str, Any]
) -> None:
    queues = open_queues(replace(POLICY, max_backlog=1))
    await learn(queues, clock, 1)
    await queues.configure(PATH, {"paused": True})
    (task,) = tasks(1, clock)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    await queues.configure(PATH, change)
    assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    assert (await queues.status(PATH)).waiting == 1


# Positions and estimated waits


def brute_force(waiting: list[Task], times: dict[str, float]) -> list[str]:
    """The order by the rules: first the owner that is furthest behind, and within it the first task by rank."""
    left: dict[str, list[Task]] = {}
    for task in waiting:
        left.setdefault(task.owner, []).append(task)
    for owned in left.values():
        owned.sort(key=lambda task: (task.queued_ms - task.priority * 600_000, f"{task.id}.{task.attempt}"))
    order: list[str] = []
    while left:
        owner = min(left, key=lambda owner: (times[owner], owner))
        order.append(left[owner].pop(0).id)
        times[owner] += 1
        if not left[owner]:
            del left[owner]
    return order


@pytest.mark.parametrize("seed", range(12))
async def test_the_reported_position_is_exact(
    queues: QueueSteps, clock: Clock, redis_server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    fleet = Fleet(queues, clock, slots=3, service_s=lambda: chance.expovariate(1))
    owners = [f"owner{chance.randrange(99)}" for _ in range(6)]
    for number in range(90):
        owner = chance.choice(owners[: 1 + number // 10])
        await fleet.submit(new_task(f"t{number}", clock, owner, chance.randrange(4, 7)))
        if chance.random() < 0.3:
            await fleet.run(chance.random())
    await queues.configure(PATH, {"paused": True})
    waiting = [fleet.tasks[task_id] for task_id in fleet.tasks if task_id not in fleet.started]
    times = {owner.decode(): at for owner, at in keys(redis_server, "qo:")[f"qo:{PATH}"].items()}
    reported = {task.id: (await queues.status(PATH, task)).position for task in waiting}
    expected = brute_force(waiting, times)
    assert len(expected) > 10
    assert {task_id: position.ahead for task_id, position in reported.items() if position} == {
        task_id: ahead for ahead, task_id in enumerate(expected)
    }
    assert all(position and position.service_s is None and position.is_paused for position in reported.values()), (
        "a paused queue has no service time"
    )
    await queues.configure(PATH, {"limit": 1000})
    fleet.slots, fleet.service_s = 1000, lambda: 1000
    started = len(fleet.started)
    await fleet.take(await queues.configure(PATH, {"paused": False}))
    await fleet.run(20)
    assert fleet.started[started:] == expected


async def test_an_enqueue_reports_the_position_of_a_task_that_has_to_wait(queues: QueueSteps, clock: Clock) -> None:
    first, second, third = tasks(3, clock)
    enqueued = [await queues.enqueue_new(QueueEntry.of(task)) for task in (first, second, third)]
    assert [item.position for item in enqueued if isinstance(item, Enqueued)] == [
        None,
        QueuePosition(0, 1, None),
        QueuePosition(1, 1, None),
    ]


async def test_the_estimated_wait_follows_from_the_slots_and_the_latest_service_times(
    queues: QueueSteps, clock: Clock
) -> None:
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 10)
    waiting = tasks(80, clock)
    await fleet.submit(*waiting)
    position = (await queues.status(PATH, fleet.tasks["t20"])).position
    assert position
    assert (position, position.wait_s) == (QueuePosition(16, 4, None), None)
    await fleet.run(10)
    position = (await queues.status(PATH, fleet.tasks["t20"])).position
    assert position
    assert (position, position.wait_s) == (QueuePosition(12, 4, 10), 13 * 10 / 4)
    fleet.service_s = lambda: 2
    await fleet.run(200)
    await fleet.submit(*tasks(6, clock, name="later"))
    position = (await queues.status(PATH, fleet.tasks["later5"])).position
    assert position
    assert position.service_s is not None
    assert 2 <= position.service_s < 3
    assert not position.is_paused


async def test_a_task_that_does_not_wait_has_no_position(queues: QueueSteps, clock: Clock) -> None:
    (task,) = tasks(1, clock)
    await enqueue(queues, task)
    assert (await queues.status(PATH, task)).position is None


# Entries that have ended


async def test_a_step_for_an_entry_that_has_ended_changes_nothing(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    held, other = await learn(queues, clock, 2)
    waiting = next_attempt(next_attempt(new_task("t", clock)))
    await queues.configure(PATH, {"limit": 2})
    await enqueue(queues, waiting)
    before = keys(redis_server, PATH)
    stale = replace(waiting, attempt=1)
    for change in (
        queues.accepted(stale),
        queues.failed(stale),
        release(queues, grant_of(stale), stale),
        release(queues, SlotGrant(held.id, 2), None),
        queues.enqueue([QueueEntry.of(waiting)]),
        queues.enqueue([QueueEntry.of(held), QueueEntry.of(other)]),
    ):
        assert (await change).grants == []
        assert keys(redis_server, PATH) == before


async def test_a_cancelled_task_no_longer_waits(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    waiting = tasks(3, clock, "someone")
    await queues.configure(PATH, {"paused": True})
    await enqueue(queues, *waiting)
    assert (await release(queues, grant_of(waiting[1]), waiting[1])).grants == []
    assert await order_of_grants(queues, waiting) == ["t0", "t2"]


Change = Callable[[QueueSteps, Task, Task, Clock], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "enqueue": lambda queues, held, waits, clock: queues.enqueue([QueueEntry.of(new_task("new", clock, "someone"))]),
    "enqueue new": lambda queues, held, waits, clock: queues.enqueue_new(
        QueueEntry.of(new_task("new", clock, "someone"))
    ),
    "accepted": lambda queues, held, waits, clock: queues.accepted(held),
    "refused": lambda queues, held, waits, clock: queues.refused(held, next_attempt(held), after_s=None),
    "refused until": lambda queues, held, waits, clock: queues.refused(held, next_attempt(held), after_s=9),
    "failed": lambda queues, held, waits, clock: queues.failed(held),
    "away": lambda queues, held, waits, clock: queues.away(held, AWAY),
    "return entry": lambda queues, held, waits, clock: queues.return_entry(held, next_attempt(held)),
    "completed": lambda queues, held, waits, clock: release(
        queues, grant_of(held), completed(held, clock, since_ms=clock() - 5000)
    ),
    "cancelled": lambda queues, held, waits, clock: release(queues, grant_of(waits), waits),
    "grant free slots": lambda queues, held, waits, clock: queues.grant_free_slots(PATH),
    "maintain": lambda queues, held, waits, clock: queues.maintain(PATH),
    "mark held": lambda queues, held, waits, clock: queues.mark_held(
        [QueueEntry.of(waits), QueueEntry.of(new_task("new", clock))]
    ),
    "reschedule check": lambda queues, held, waits, clock: queues.reschedule_check(PATH, {grant_of(held): 77}),
    "pause": lambda queues, held, waits, clock: queues.configure(PATH, {"paused": True}),
    "limit": lambda queues, held, waits, clock: queues.configure(PATH, {"limit": 9}),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_repeated_after_a_lost_answer_has_its_effect_once(
    open_queues: QueuesFactory, clock: Clock, redis_server: Server, name: str
) -> None:
    pictures: list[dict[str, Any]] = []
    for repeating in (False, True):
        redis_server.flush()
        clock.ms = Clock().ms
        queues = open_queues()
        held = (await learn(queues, clock, 3))[-1]
        waits = new_task("waits", clock, "someone")
        probing = tasks(2, clock, name="probing")
        await enqueue(queues, probing[0])
        await queues.refused(probing[0], next_attempt(probing[0]), after_s=None)
        await enqueue(queues, probing[1], waits)
        await CHANGES[name](open_queues(repeating=repeating), held, waits, clock)
        pictures.append(keys(redis_server, PATH))
    assert pictures[0] == pictures[1]


# Checks of held slots, and loss of keys


async def test_slots_that_are_held_for_long_are_checked_at_intervals(queues: QueueSteps, clock: Clock) -> None:
    first, second = tasks(2, clock)
    started_ms = clock()
    await enqueue(queues, first)
    await queues.accepted(first)
    await enqueue(queues, second)
    clock.ms = started_ms + 29_999
    assert (await queues.maintain(PATH)).doubtful == []
    clock.ms = started_ms + 30_000
    assert (await queues.maintain(PATH)).doubtful == [grant_of(first), grant_of(second)]
    assert (await queues.maintain(PATH)).doubtful == []
    await queues.reschedule_check(PATH, {grant_of(second): 45})
    clock.advance(20)
    assert (await queues.maintain(PATH)).doubtful == [grant_of(first)]
    clock.advance(25)
    maintained = await queues.maintain(PATH)
    assert (maintained.doubtful, maintained.unclaimed) == ([grant_of(first)], [grant_of(second)])


async def test_the_slot_of_an_entry_that_has_ended_is_not_checked_again(queues: QueueSteps, clock: Clock) -> None:
    (task,) = await learn(queues, clock, 1)
    await release(queues, grant_of(task), None)
    await queues.reschedule_check(PATH, {grant_of(task): 45})
    assert (await queues.status(PATH)).holding == 0


async def rebuild_if_needed(queues: QueueSteps) -> None:
    maintained = await queues.maintain(PATH)
    if maintained.loss is not None:
        await queues.mark_rebuilt(PATH, maintained.loss)


LOSSES = [("q",), ("qo",), ("qw",), ("qh",), ("q", "qo", "qw", "qh"), ("qo", "qw"), ("q", "qs")]


@pytest.mark.parametrize("lost", LOSSES, ids="+".join)
async def test_lost_keys_are_noticed_and_the_queue_is_rebuilt_from_its_tasks(
    queues: QueueSteps, clock: Clock, redis_server: Server, lost: tuple[str, ...]
) -> None:
    held = await learn(queues, clock, 3)
    waiting = [*tasks(5, clock, "a", name="a"), *tasks(5, clock, "b", name="b")]
    await queues.configure(PATH, {"limit": 3})
    await enqueue(queues, *waiting)
    await rebuild_if_needed(queues)
    assert (await queues.maintain(PATH)).loss is None

    delete(redis_server, *lost)
    clock.advance(0.001)
    maintained = await queues.maintain(PATH)
    assert maintained.loss is not None
    clock.advance(0.001)
    await queues.mark_held([QueueEntry.of(task) for task in held])
    await enqueue(queues, *waiting)
    await queues.mark_rebuilt(PATH, maintained.loss)

    assert (await queues.maintain(PATH)).loss is None
    status = await queues.status(PATH)
    granted = maintained.granted.grants
    assert (status.holding, status.waiting) == (3 + len(granted), 10 - len(granted))
    by_id = {task.id: task for task in [*held, *waiting]}
    working, done = [*map(grant_of, held), *granted], list[str]()
    while working:
        gone = by_id[working.pop(0).task_id]
        done.append(gone.id)
        working += (await release(queues, grant_of(gone), completed(gone, clock, since_ms=clock()))).grants
    assert sorted(done) == sorted(by_id)
    status = await queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 0)


@pytest.mark.parametrize("garbage", [b"garbage", b"", b"\x80", b"\xc1", msgpack.packb({"l": "x", "v": 1})], ids=repr)
@pytest.mark.parametrize("key", ["q", "qs"])
async def test_a_state_that_is_garbage_is_lost_and_rebuilt(
    queues: QueueSteps, clock: Clock, redis_server: Server, key: str, garbage: bytes
) -> None:
    waiting = tasks(2, clock)
    await enqueue(queues, *waiting)
    await rebuild_if_needed(queues)
    for node in nodes(redis_server):
        with node.connect() as client:
            for name in client.scan_iter(f"*}}q:{PATH}"):
                client.set(
                    name.replace(b"}q:", b"}" + key.encode() + b":")
                    if isinstance(name, bytes)
                    else name.replace("}q:", "}" + key + ":"),
                    garbage,
                )
    await enqueue(queues, new_task("late", clock))
    maintained = await queues.maintain(PATH)
    assert (maintained.loss is not None) is (key == "q")
    status = await queues.status(PATH)
    assert status.waiting + status.holding == 3


async def test_a_pause_is_no_longer_if_the_clock_is_set_back(queues: QueueSteps, clock: Clock) -> None:
    first, second = tasks(2, clock)
    await enqueue(queues, first, second)
    away = first
    for _ in range(2):
        granted = await found_away(queues, away)
        away = next_attempt(away)
        if granted.grants:
            away = second
    clock.advance(-600)
    assert not (await queues.grant_free_slots(PATH)).grants
    clock.advance(10)
    assert (await queues.grant_free_slots(PATH)).grants, "the longest pause is over"


async def test_a_look_at_a_queue_that_nobody_knows_leaves_no_trace(queues: QueueSteps, redis_server: Server) -> None:
    """The reconciler maintains each path that is named; callers may ask for ten thousand."""
    status = await queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 0)
    assert await queues.held_paths() == set()
    assert keys(redis_server, PATH) == {}


async def test_a_path_is_named_as_held_while_a_slot_is_held(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    await enqueue(queues, new_task("t", clock))
    assert await queues.held_paths() == {PATH}
    delete(redis_server, "q", "qh")
    await queues.maintain(PATH)
    assert await queues.held_paths() == set()


async def test_after_a_loss_slots_are_granted_one_by_one(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    """Otherwise the queue would dispatch to the backend once more as many tasks as it holds already."""
    await learn(queues, clock, 8)
    await queues.configure(PATH, {"paused": True})
    waiting = tasks(20, clock)
    await enqueue(queues, *waiting)
    delete(redis_server, "qh")
    granted = await queues.configure(PATH, {"paused": False})
    assert len(granted.grants) == 1


async def test_a_probe_that_was_lost_with_its_slot_makes_no_room_for_another(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    assert len(await enqueue(queues, *tasks(1, clock, name="lost"))) == 1
    delete(redis_server, "qh")
    more = tasks(3, clock, name="more")
    assert not await enqueue(queues, *more)  # the queue still waits for the answer to the lost probe
    clock.advance(60)
    assert len((await queues.grant_free_slots(PATH)).grants) == 1


async def test_after_a_loss_of_the_state_new_owners_do_not_overtake_all_waiting_tasks(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    fleet = Fleet(queues, clock, slots=1, service_s=lambda: 1)
    await fleet.submit(*tasks(120, clock, "early", name="early"))
    await fleet.run(50)
    delete(redis_server, "q")
    await fleet.submit(*tasks(60, clock, "late", name="late"))
    started = len(fleet.started)
    await fleet.run(20)
    since = fleet.started[started:]
    assert sum(task_id.startswith("early") for task_id in since) >= len(since) / 2 - 1


async def test_a_loss_during_a_rebuild_is_not_marked_as_rebuilt(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    await learn(queues, clock, 2)
    delete(redis_server, "qh")
    first = (await queues.maintain(PATH)).loss
    assert first is not None
    clock.advance(1)
    await enqueue(queues, *tasks(2, clock))
    delete(redis_server, "qh")
    await queues.grant_free_slots(PATH)
    await queues.mark_rebuilt(PATH, first)
    second = (await queues.maintain(PATH)).loss
    assert second not in (None, first)


@pytest.mark.parametrize("lost", [(), ("qo",)], ids=["nothing lost", "owners lost"])
async def test_a_task_that_a_rebuild_marks_as_held_no_longer_waits(
    queues: QueueSteps, clock: Clock, redis_server: Server, lost: tuple[str, ...]
) -> None:
    await queues.configure(PATH, {"paused": True})
    first, second = tasks(2, clock, "someone")
    await enqueue(queues, first, second)
    delete(redis_server, *lost)
    await queues.maintain(PATH)
    await queues.mark_held([QueueEntry.of(first)])
    assert (await queues.status(PATH)).waiting == (0 if lost else 1), (
        "an owner that was lost is found by the next enqueue"
    )
    await enqueue(queues, second)
    assert await queues.status(PATH) == QueueStatus(1, 1, 0, None, paused=True, draining=False)


async def test_a_probe_is_not_taken_from_an_owner_that_was_lost_before_it_is_found_again(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    early = tasks(3, clock, "early", name="early")
    await away_with(queues, clock, *early)
    delete(redis_server, "qo")
    clock.advance(10)
    (late,) = tasks(1, clock, "late", name="late")
    assert await enqueue(queues, late) == [grant_of(late)]
    status = await queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 1)
    await enqueue(queues, *map(next_attempt, early[:2]), early[2])
    assert (await queues.status(PATH)).waiting == 3
