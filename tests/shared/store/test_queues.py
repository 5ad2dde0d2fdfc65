"""What a queue learns, whom it lets go next, what it tells of who waits, and what it does when its keys are lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import msgpack
import pytest
import redis

from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueEntry, QueueStatus, QueueSteps
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Draining, Enqueued, Full, Granted, QueuePosition, SlotGrant
from shared.tasks.task import Task
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.fleet import PATH, Fleet, completed, new_task, release
from tests.shared.store.policies import store_policy
from tests.shared.store.world import Server, nodes, tag_of

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


def turn(task: Task) -> SlotGrant:
    return SlotGrant.of(task)


def again(task: Task) -> Task:
    """The task as it waits after a refusal."""
    return replace(task, attempt=task.attempt + 1)


def tasks(count: int, clock: Clock, owner: str = "", priority: int = 5, name: str = "t") -> list[Task]:
    """Tasks that come one after another."""
    made: list[Task] = []
    for number in range(count):
        made.append(new_task(f"{name}{number}", clock, owner, priority))
        clock.advance(0.001)
    return made


async def offer(queues: QueueSteps, *offered: Task) -> list[SlotGrant]:
    return (await queues.enqueue([QueueEntry.of(task) for task in offered])).grants


async def learn(queues: QueueSteps, clock: Clock, slots: int) -> list[Task]:
    """Has the backend take so many, none of which ends."""
    held = tasks(slots, clock, name="held")
    granted = await offer(queues, *held)
    for number, task in enumerate(held):
        assert granted == [turn(task)]
        granted = (await queues.accepted(task)).grants
        assert number == slots - 1 or granted
    return held


async def order_of(queues: QueueSteps, waiting: list[Task]) -> list[str]:
    """Lets all go that wait, one by one."""
    by_id = {task.id: task for task in waiting}
    order: list[str] = []
    granted = await queues.configure(PATH, {"paused": False})
    while granted.grants:
        (grant,) = granted.grants
        order.append(grant.task_id)
        granted = await queues.accepted(by_id[grant.task_id])
    return order


def keys(server: Server, pattern: str) -> dict[str, Any]:
    """The keys of the queue that match, and what is in them."""
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


# What is learned of a backend


async def test_beyond_what_is_known_one_is_tried_at_a_time_and_the_next_when_it_is_taken(
    queues: QueueSteps, clock: Clock
) -> None:
    waiting = tasks(4, clock)
    assert await offer(queues, *waiting) == [turn(waiting[0])]
    assert await offer(queues, *tasks(3, clock, name="more")) == []
    for known, task in enumerate(waiting[:3], start=1):
        assert (await queues.accepted(task)).grants == [turn(waiting[known])]
        status = await queues.status(PATH)
        assert (status.slots, status.holding) == (known, known + 1)


async def test_who_does_not_answer_is_waited_for_a_second(queues: QueueSteps, clock: Clock) -> None:
    waiting = tasks(3, clock)
    started_ms = clock()
    granted = await queues.enqueue([QueueEntry.of(task) for task in waiting])
    assert granted == Granted(PATH, [turn(waiting[0])], 1)
    clock.ms = started_ms + 999
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [], 0.001)
    clock.ms = started_ms + 1000
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [turn(waiting[1])], 1)
    # The answer of the first proves nothing of the second, which is still on its way.
    assert (await queues.accepted(waiting[0])).grants == []
    assert (await queues.status(PATH)).slots == 1
    assert (await queues.accepted(waiting[1])).grants == [turn(waiting[2])]
    assert (await queues.status(PATH)).slots == 2


async def test_a_task_that_ends_before_its_acceptance_is_told_was_taken_too(queues: QueueSteps, clock: Clock) -> None:
    first, second, third = waiting = tasks(3, clock)
    await offer(queues, *waiting)
    granted = await release(queues, turn(first), completed(first, clock, since_ms=clock()))
    # One in its place, and one beyond.
    assert granted.grants == [turn(second), turn(third)]
    assert (await queues.status(PATH)).slots == 1
    assert (await queues.accepted(first)).grants == []
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=False)


async def test_what_ends_unserved_proves_nothing(queues: QueueSteps, clock: Clock) -> None:
    first, second = tasks(2, clock)
    await offer(queues, first, second)
    assert (await release(queues, turn(first), None)).grants == [turn(second)]
    assert (await queues.status(PATH)).slots == 0


async def test_a_backend_is_filled_by_as_many_answers_as_it_has_slots_and_one_refusal(
    queues: QueueSteps, clock: Clock
) -> None:
    fleet = Fleet(queues, clock, slots=12)
    await fleet.submit(*tasks(40, clock))
    assert (fleet.busy, [held for _, held in fleet.refusals]) == (12, [12])
    assert len(fleet.started) == 12
    status = await queues.status(PATH)
    assert (status.holding, status.slots, status.waiting) == (12, 12, 28)


async def test_a_refusal_says_what_fits_and_delays_the_next_try(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 3)
    first, second = tasks(2, clock)
    assert await offer(queues, first, second) == [turn(first)]
    assert await queues.refused(first, again(first), after_s=None) == Granted(PATH, [], 0.05)
    status = await queues.status(PATH)
    assert (status.slots, status.holding, status.waiting) == (3, len(held), 2)
    clock.advance(0.049)
    assert await queues.grant_free_slots(PATH) == Granted(PATH, [], 0.001)
    clock.advance(0.001)
    assert (await queues.grant_free_slots(PATH)).grants == [turn(again(first))]


async def test_the_delay_doubles_with_each_refusal_to_its_limit_and_begins_anew_with_an_acceptance(
    queues: QueueSteps, clock: Clock
) -> None:
    await learn(queues, clock, 1)
    (task,) = tasks(1, clock)
    assert await offer(queues, task) == [turn(task)]
    delays_s: list[float | None] = []
    for _ in range(10):
        task, before = again(task), task
        granted = await queues.refused(before, task, after_s=None)
        assert not granted.grants
        delays_s.append(granted.ask_again_s)
        clock.advance(granted.ask_again_s or 0)
        assert (await queues.grant_free_slots(PATH)).grants == [turn(task)]
    assert delays_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    await queues.accepted(task)
    (other,) = tasks(1, clock, name="other")
    assert await offer(queues, other) == [turn(other)]
    assert (await queues.refused(other, again(other), after_s=None)).ask_again_s == 0.05


async def test_refusals_that_come_together_are_one_lesson(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 4)
    waiting = tasks(4, clock)
    assert await offer(queues, *waiting) == [turn(waiting[0])]
    refused = waiting[0]
    for task in held:
        clock.advance(0.01)
        assert (await queues.refused(refused, again(refused), after_s=None)).ask_again_s is not None
        granted = await release(queues, turn(task), completed(task, clock, since_ms=clock()))
        ((grant,),) = [granted.grants]
        refused = again(refused)
        assert grant == turn(refused)
    status = await queues.status(PATH)
    assert status.slots == 1
    granted = await queues.refused(refused, again(refused), after_s=None)
    assert granted.ask_again_s is not None
    assert granted.ask_again_s <= 0.05


async def test_while_more_is_tried_a_known_slot_that_gets_free_is_handed_on(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 2)
    tried, next_, after, last = tasks(4, clock)
    assert await offer(queues, tried, next_, after, last) == [turn(tried)]
    clock.advance(0.01)
    granted = await release(queues, turn(held[0]), completed(held[0], clock, since_ms=clock()))
    assert granted.grants == [turn(next_)]
    # Likely three fit, and it is assumed.
    assert (await queues.accepted(tried)).grants == [turn(after)]
    assert (await queues.status(PATH)).slots == 3


async def test_who_is_refused_since_the_try_got_its_slot_takes_the_guess_back(
    queues: QueueSteps, clock: Clock
) -> None:
    held = await learn(queues, clock, 2)
    for pause_s in (0.05, 0.1, 0.2):
        tried, next_ = tasks(2, clock, name=f"after{pause_s}s-")
        assert await offer(queues, tried, next_) == [turn(tried)]
        clock.advance(0.01)
        ended = held.pop(0)
        granted = await release(queues, turn(ended), completed(ended, clock, since_ms=clock()))
        assert granted.grants == [turn(next_)]
        await queues.accepted(tried)
        assert (await queues.status(PATH)).slots == 3
        granted = await queues.refused(next_, again(next_), after_s=None)
        assert (await queues.status(PATH)).slots == 2
        assert granted == Granted(PATH, [], pause_s)
        await release(queues, turn(again(next_)), None)
        held.append(tried)
        clock.advance(60)


async def test_retry_after_is_as_long_as_the_backend_says(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    first, second = tasks(2, clock)
    await offer(queues, first, second)
    assert await queues.refused(first, again(first), after_s=40) == Granted(PATH, [], 40)
    clock.advance(39.999)
    assert (await queues.grant_free_slots(PATH)).grants == []
    clock.advance(0.001)
    assert (await queues.grant_free_slots(PATH)).grants == [turn(again(first))]


async def test_a_freed_slot_is_handed_on_even_while_no_more_is_tried(queues: QueueSteps, clock: Clock) -> None:
    one, other = await learn(queues, clock, 2)
    first, second = tasks(2, clock)
    await offer(queues, first, second)
    await queues.refused(first, again(first), after_s=60)
    clock.advance(1)
    granted = await release(queues, turn(one), completed(one, clock, since_ms=clock()))
    assert granted.grants == [turn(again(first))]
    granted = await release(queues, turn(other), None)
    assert granted.grants == [turn(second)]


@pytest.mark.parametrize("by", ["configuration", "operator"])
async def test_a_limit_caps_what_is_held_and_is_no_reason_to_ask_again(
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


async def test_the_operators_limit_counts_in_place_of_the_configured_one_until_it_is_taken_back(
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


async def test_a_backend_that_grows_is_filled_within_seconds(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 120)
    await fleet.submit(*tasks(50, clock))
    await fleet.run(60)
    fleet.slots = 16
    await fleet.run(6)
    assert fleet.busy == 16


async def test_of_a_backend_that_shrinks_each_step_is_learned_by_one_refusal(
    queues: QueueSteps, clock: Clock
) -> None:
    ages = iter([2.0 + number for number in range(10)] + [60.0] * 100)
    fleet = Fleet(queues, clock, slots=10, service_s=lambda: next(ages))
    await fleet.submit(*tasks(60, clock))
    assert (fleet.busy, len(fleet.refusals)) == (10, 1)
    fleet.slots = 2
    await fleet.run(1)
    tried = len(fleet.refusals)
    before: list[int] = []
    for _ in range(9):
        holding = (await queues.status(PATH)).holding
        before.append(len(fleet.refusals))
        await fleet.run(1)
        # One of ten ends in each second, and its slot is no more: one task finds that out, and the limit follows.
        assert (await queues.status(PATH)).slots <= holding
    assert fleet.busy == 2
    # Beside those of the slots that went, there are only the tries for more: ever more seldom.
    assert len(fleet.refusals) - tried <= 8 + 9
    assert (await queues.status(PATH)).slots == 2


@pytest.mark.parametrize(("slots", "service_s", "release_s"), [(20, 0.5, 0.02), (20, 0.1, 0.005), (4, 1, 0.03)])
async def test_a_backend_that_frees_its_slots_a_little_after_it_reports_is_kept_busy(
    queues: QueueSteps, clock: Clock, slots: int, service_s: float, release_s: float
) -> None:
    """The slot is handed on at once, and refused: that must not be taken for a backend that shrinks."""
    seconds = 5
    ideal = slots * int(seconds / (service_s + release_s))
    fleet = Fleet(queues, clock, slots, lambda: service_s, release_s)
    await fleet.submit(*tasks(ideal + 2 * slots, clock))
    await fleet.run(seconds)
    assert len(fleet.ended) > ideal / 2
    assert fleet.most == slots


# When dispatches fail


async def test_who_gives_no_answer_twice_is_given_a_pause_that_doubles_and_then_tried_with_one(
    queues: QueueSteps, clock: Clock
) -> None:
    held = await learn(queues, clock, 3)
    waiting = tasks(30, clock)
    assert await offer(queues, *waiting) == [turn(waiting[0])]
    assert (await queues.failed(waiting[0], answered=False)).grants == [turn(waiting[1])]
    assert await queues.failed(waiting[1], answered=False) == Granted(PATH, [], 2)
    # Not even the slots that get free are handed on to it.
    for task in held:
        assert (await release(queues, turn(task), None)).grants == []
    clock.advance(1.999)
    assert (await queues.grant_free_slots(PATH)).grants == []
    clock.advance(0.001)
    for pause_s, task in zip([4.0, 8.0, 16.0, 30.0, 30.0], waiting[2:], strict=False):
        assert await queues.grant_free_slots(PATH) == Granted(PATH, [turn(task)], 1)
        assert await queues.failed(task, answered=False) == Granted(PATH, [], pause_s)
        clock.advance(pause_s)
    assert (await queues.grant_free_slots(PATH)).grants == [turn(waiting[7])]
    assert (await queues.accepted(waiting[7])).grants == [turn(waiting[8])]


async def test_an_acceptance_ends_the_pause_and_what_led_to_it(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 3)
    waiting = tasks(10, clock)
    await offer(queues, *waiting)
    await queues.failed(waiting[0], answered=False)
    assert (await queues.failed(waiting[1], answered=False)).grants == []
    assert (await queues.accepted(held[0])).grants == [turn(waiting[2])]
    assert (await queues.failed(waiting[2], answered=False)).grants == [turn(waiting[3])]


async def test_failures_that_are_answers_pause_only_a_backend_that_does_nothing_else(
    queues: QueueSteps, clock: Clock
) -> None:
    waiting = tasks(20, clock)
    granted = await offer(queues, *waiting)
    for task in waiting[:7]:
        assert granted == [turn(task)]
        granted = (await queues.failed(task, answered=True)).grants
    assert granted == [turn(waiting[7])]
    assert await queues.failed(waiting[7], answered=True) == Granted(PATH, [], 2)


async def test_a_failure_while_it_is_paused_does_not_prolong_the_pause(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 4)
    await offer(queues, *tasks(3, clock))
    for task in held[:2]:
        await queues.failed(task, answered=False)
    assert [(await queues.failed(task, answered=False)).ask_again_s for task in held[2:]] == [2, 2]


# The order


async def test_of_one_priority_who_came_first_goes_first(queues: QueueSteps, clock: Clock) -> None:
    await queues.configure(PATH, {"paused": True})
    waiting = tasks(12, clock)
    await offer(queues, *random.Random(1).sample(waiting, len(waiting)))
    assert await order_of(queues, waiting) == [task.id for task in waiting]


async def test_the_higher_priority_goes_first_and_waiting_makes_up_for_ten_minutes_of_it(
    queues: QueueSteps, clock: Clock
) -> None:
    await queues.configure(PATH, {"paused": True})
    low, high = new_task("low", clock, priority=4), new_task("high", clock, priority=6)
    clock.advance(20 * 60 - 0.001)
    just_before = new_task("just-before", clock, priority=6)
    clock.advance(0.002)
    just_after = new_task("just-after", clock, priority=6)
    waiting = [low, high, just_before, just_after]
    await offer(queues, *waiting)
    assert await order_of(queues, waiting) == ["high", "just-before", "low", "just-after"]


async def test_nobody_waits_for_ever_behind_a_stream_of_what_is_more_urgent(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=1, service_s=lambda: 60)
    await fleet.submit(new_task("first", clock, priority=9), new_task("lowest", clock, priority=0))
    for number in range(100):
        await fleet.submit(new_task(f"urgent{number}", clock, priority=9))
        await fleet.run(60)
    # Nine steps of priority are ninety minutes.
    assert fleet.started.index("lowest") in range(90, 93)


async def test_a_retry_goes_before_all_who_came_after_it(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    first, *others = waiting = tasks(4, clock)
    assert await offer(queues, *waiting) == [turn(first)]
    await queues.refused(first, again(first), after_s=None)
    clock.advance(1)
    assert (await queues.grant_free_slots(PATH)).grants == [turn(again(first))]
    assert (await queues.accepted(again(first))).grants == [turn(others[0])]


async def test_who_is_put_back_keeps_its_place_and_is_granted_at_the_next_occasion(
    queues: QueueSteps, clock: Clock
) -> None:
    first, second = tasks(2, clock)
    assert await offer(queues, first, second) == [turn(first)]
    await queues.return_entry(first, again(first))
    status = await queues.status(PATH, again(first))
    assert (status.holding, status.waiting) == (0, 2)
    assert status.position
    assert status.position.ahead == 0
    assert (await queues.grant_free_slots(PATH)).grants == [turn(again(first))]


async def test_one_owners_thousand_tasks_do_not_hold_up_anothers_one(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=1)
    await fleet.submit(*tasks(1000, clock, "many"))
    await fleet.run(300)
    await fleet.submit(new_task("one", clock, "few"))
    started = len(fleet.started)
    await fleet.run(25)
    assert "one" in fleet.started[started : started + 2]


async def test_owners_share_a_backend_evenly_whatever_they_hand_in(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=3, service_s=lambda: 1, release_s=0.01)
    await fleet.submit(*(task for owner in "abc" for task in tasks(200, clock, owner, name=f"{owner}-")))
    await fleet.run(60)
    shares = [sum(task_id.startswith(owner) for task_id in fleet.started) for owner in "abc"]
    assert min(shares) > 30
    # The first had all slots to itself before the others had handed in anything.
    assert max(shares) - min(shares) <= 3 + 2
    assert fleet.refusals


async def test_an_owner_whose_task_is_refused_has_not_had_its_turn(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    await queues.configure(PATH, {"paused": True})
    mine, theirs = tasks(2, clock, "a", name="mine"), tasks(2, clock, "b", name="theirs")
    await offer(queues, *mine, *theirs)
    first = mine[0]
    granted = (await queues.configure(PATH, {"paused": False})).grants
    for _ in range(5):
        assert granted == [turn(first)]
        await queues.refused(first, again(first), after_s=None)
        first = again(first)
        clock.advance(5)
        granted = (await queues.grant_free_slots(PATH)).grants
    assert granted == [turn(first)]
    assert (await queues.accepted(first)).grants == [turn(theirs[0])]


async def test_an_owner_who_comes_late_has_no_claim_to_what_the_others_had(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=1)
    await fleet.submit(*tasks(100, clock, "early", name="early-"))
    await fleet.run(300)
    await fleet.submit(*tasks(100, clock, "late", name="late-"))
    started = len(fleet.started)
    await fleet.run(200)
    since = fleet.started[started:]
    assert abs(2 * sum(task_id.startswith("late") for task_id in since) - len(since)) <= 2


# Pause, drain, backlog


async def test_a_paused_queue_takes_all_and_grants_nothing_until_it_is_resumed(
    queues: QueueSteps, clock: Clock
) -> None:
    (held,) = await learn(queues, clock, 1)
    await queues.configure(PATH, {"paused": True})
    first, second = tasks(2, clock)
    taken = await queues.enqueue_new(QueueEntry.of(first))
    assert isinstance(taken, Enqueued)
    assert taken.granted == Granted(PATH, [], None)
    assert await offer(queues, second) == []
    for granted in (
        await release(queues, turn(held), completed(held, clock, since_ms=clock())),
        await queues.grant_free_slots(PATH),
        (await queues.maintain(PATH)).granted,
        await queues.accepted(held),
        await queues.configure(PATH, {"limit": 7}),
    ):
        assert granted == Granted(PATH, [], None)
    assert await queues.status(PATH) == QueueStatus(2, 0, 1, 7, paused=True, draining=False)
    assert (await queues.configure(PATH, {"paused": False, "limit": None})).grants == [turn(first), turn(second)]
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=False)


async def test_a_draining_queue_takes_nothing_new_and_does_what_it_has(queues: QueueSteps, clock: Clock) -> None:
    first, second, third = tasks(3, clock)
    await offer(queues, first, second)
    await queues.configure(PATH, {"draining": True})
    assert await queues.enqueue_new(QueueEntry.of(third)) == Draining()
    # A retry is not new.
    assert (await queues.refused(first, again(first), after_s=None)).grants == []
    clock.advance(1)
    assert (await queues.grant_free_slots(PATH)).grants == [turn(again(first))]
    assert (await queues.accepted(again(first))).grants == [turn(second)]
    assert await queues.status(PATH) == QueueStatus(0, 2, 1, None, paused=False, draining=True)
    await queues.configure(PATH, {"draining": False})
    assert isinstance(await queues.enqueue_new(QueueEntry.of(third)), Enqueued)


async def test_a_full_queue_says_when_there_will_be_room(open_queues: QueuesFactory, clock: Clock) -> None:
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
        await release(queues, turn(task), completed(task, clock, since_ms=task.created_ms))
    for number in range(2):
        assert isinstance(await queues.enqueue_new(QueueEntry.of(new_task(f"next{number}", clock))), Enqueued)

    async def room_in_s() -> float | None:
        full = await queues.enqueue_new(QueueEntry.of(extra))
        assert isinstance(full, Full)
        return full.room_in_s

    # With two slots and eight seconds a task, one waits for four seconds until one less waits.
    assert await room_in_s() == pytest.approx(4, abs=0.01)
    # What is known already, such as a retry, is taken all the same.
    assert await offer(queues, new_task("known", clock)) == []
    assert (await queues.status(PATH)).waiting == 5
    assert await room_in_s() == pytest.approx(8, abs=0.02)
    await queues.configure(PATH, {"paused": True})
    assert await room_in_s() is None


@pytest.mark.parametrize("change", [{"draining": True}, {}], ids=["draining", "full"])
async def test_an_offer_whose_answer_was_lost_is_taken_when_it_is_repeated(
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


# What is told of who waits


def brute_force(waiting: list[Task], times: dict[str, float]) -> list[str]:
    """Who goes next, by the rules: the owner who is furthest behind, and of its tasks the first by rank."""
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
async def test_the_place_that_is_told_is_exact(
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
    told = {task.id: (await queues.status(PATH, task)).position for task in waiting}
    expected = brute_force(waiting, times)
    assert len(expected) > 10
    assert {task_id: place.ahead for task_id, place in told.items() if place} == {
        task_id: ahead for ahead, task_id in enumerate(expected)
    }
    assert all(place and place.service_s is None for place in told.values()), "while it is paused nobody knows"
    await queues.configure(PATH, {"limit": 1000})
    fleet.slots, fleet.service_s = 1000, lambda: 1000
    started = len(fleet.started)
    await fleet.take(await queues.configure(PATH, {"paused": False}))
    await fleet.run(20)
    assert fleet.started[started:] == expected


async def test_who_is_taken_in_is_told_where_it_waits_or_that_it_does_not(queues: QueueSteps, clock: Clock) -> None:
    first, second, third = tasks(3, clock)
    taken = [await queues.enqueue_new(QueueEntry.of(task)) for task in (first, second, third)]
    assert [item.position for item in taken if isinstance(item, Enqueued)] == [
        None,
        QueuePosition(0, 1, None),
        QueuePosition(1, 1, None),
    ]


async def test_the_wait_that_is_told_is_by_the_slots_and_the_last_service_times(
    queues: QueueSteps, clock: Clock
) -> None:
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 10)
    waiting = tasks(80, clock)
    await fleet.submit(*waiting)
    place = (await queues.status(PATH, fleet.tasks["t20"])).position
    assert place
    assert (place, place.wait_s) == (QueuePosition(16, 4, None), None)
    await fleet.run(10)
    place = (await queues.status(PATH, fleet.tasks["t20"])).position
    assert place
    assert (place, place.wait_s) == (QueuePosition(12, 4, 10), 13 * 10 / 4)
    fleet.service_s = lambda: 2
    await fleet.run(200)
    last = fleet.tasks["t79"]
    assert (await queues.status(PATH, last)).position is None, "it is done"
    await fleet.submit(*tasks(6, clock, name="later"))
    place = (await queues.status(PATH, fleet.tasks["later5"])).position
    assert place
    assert place.service_s is not None
    assert 2 <= place.service_s < 3


async def test_who_does_not_wait_has_no_place(queues: QueueSteps, clock: Clock) -> None:
    (task,) = tasks(1, clock)
    assert (await queues.status(PATH, task)).position is None
    await offer(queues, task)
    assert (await queues.status(PATH, task)).position is None


# Turns that are over


async def test_a_turn_that_is_over_changes_nothing(queues: QueueSteps, clock: Clock, redis_server: Server) -> None:
    held, other = await learn(queues, clock, 2)
    waiting = again(again(new_task("t", clock)))
    await queues.configure(PATH, {"limit": 2})
    await offer(queues, waiting)
    before = keys(redis_server, PATH)
    stale = replace(waiting, attempt=1)
    for change in (
        queues.accepted(stale),
        queues.failed(stale, answered=False),
        release(queues, turn(stale), stale),
        release(queues, SlotGrant(held.id, 2), None),
        queues.enqueue([QueueEntry.of(waiting)]),
        queues.enqueue([QueueEntry.of(held), QueueEntry.of(other)]),
    ):
        assert (await change).grants == []
        assert keys(redis_server, PATH) == before


async def test_who_is_cancelled_waits_no_more(queues: QueueSteps, clock: Clock) -> None:
    await learn(queues, clock, 1)
    waiting = tasks(3, clock, "someone")
    await queues.configure(PATH, {"paused": True})
    await offer(queues, *waiting)
    assert (await release(queues, turn(waiting[1]), waiting[1])).grants == []
    assert await order_of(queues, waiting) == ["t0", "t2"]


Change = Callable[[QueueSteps, Task, Task, Clock], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "offer": lambda queues, held, waits, clock: queues.enqueue([QueueEntry.of(new_task("new", clock, "someone"))]),
    "offer new": lambda queues, held, waits, clock: queues.enqueue_new(
        QueueEntry.of(new_task("new", clock, "someone"))
    ),
    "accepted": lambda queues, held, waits, clock: queues.accepted(held),
    "refused": lambda queues, held, waits, clock: queues.refused(held, again(held), after_s=None),
    "refused until": lambda queues, held, waits, clock: queues.refused(held, again(held), after_s=9),
    "failed": lambda queues, held, waits, clock: queues.failed(held, answered=False),
    "put back": lambda queues, held, waits, clock: queues.return_entry(held, again(held)),
    "completed": lambda queues, held, waits, clock: release(
        queues, turn(held), completed(held, clock, since_ms=clock() - 5000)
    ),
    "cancelled": lambda queues, held, waits, clock: release(queues, turn(waits), waits),
    "pump": lambda queues, held, waits, clock: queues.grant_free_slots(PATH),
    "tend": lambda queues, held, waits, clock: queues.maintain(PATH),
    "hold": lambda queues, held, waits, clock: queues.mark_held(
        [QueueEntry.of(waits), QueueEntry.of(new_task("new", clock))]
    ),
    "look again": lambda queues, held, waits, clock: queues.reschedule_check(PATH, {turn(held): 77}),
    "pause": lambda queues, held, waits, clock: queues.configure(PATH, {"paused": True}),
    "limit": lambda queues, held, waits, clock: queues.configure(PATH, {"limit": 9}),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_whose_answer_was_lost_leaves_the_queue_as_if_it_was_not(
    open_queues: QueuesFactory, clock: Clock, redis_server: Server, name: str
) -> None:
    pictures: list[dict[str, Any]] = []
    for repeating in (False, True):
        redis_server.flush()
        clock.ms = Clock().ms
        queues = open_queues()
        held = (await learn(queues, clock, 3))[-1]
        waits = new_task("waits", clock, "someone")
        tried = tasks(2, clock, name="tried")
        await offer(queues, tried[0])
        await queues.refused(tried[0], again(tried[0]), after_s=None)
        await offer(queues, tried[1], waits)
        await CHANGES[name](open_queues(repeating=repeating), held, waits, clock)
        pictures.append(keys(redis_server, PATH))
    assert pictures[0] == pictures[1]


# What nobody told of, and what was lost


async def test_a_slot_that_nobody_claims_or_gives_back_is_looked_at_now_and_again(
    queues: QueueSteps, clock: Clock
) -> None:
    first, second = tasks(2, clock)
    started_ms = clock()
    await offer(queues, first)
    await queues.accepted(first)
    await offer(queues, second)
    clock.ms = started_ms + 29_999
    assert (await queues.maintain(PATH)).doubtful == []
    clock.ms = started_ms + 30_000
    assert (await queues.maintain(PATH)).doubtful == [turn(first), turn(second)]
    assert (await queues.maintain(PATH)).doubtful == []
    await queues.reschedule_check(PATH, {turn(second): 45})
    clock.advance(20)
    assert (await queues.maintain(PATH)).doubtful == [turn(first)]
    clock.advance(25)
    assert (await queues.maintain(PATH)).doubtful == [turn(first), turn(second)]


async def test_a_slot_whose_turn_is_gone_is_not_looked_for_again(queues: QueueSteps, clock: Clock) -> None:
    (task,) = await learn(queues, clock, 1)
    await release(queues, turn(task), None)
    await queues.reschedule_check(PATH, {turn(task): 45})
    assert (await queues.status(PATH)).holding == 0


async def whole(queues: QueueSteps) -> None:
    tended = await queues.maintain(PATH)
    if tended.loss is not None:
        await queues.mark_rebuilt(PATH, tended.loss)


LOSSES = [("q",), ("qo",), ("qw",), ("qh",), ("q", "qo", "qw", "qh"), ("qo", "qw"), ("q", "qs")]


@pytest.mark.parametrize("lost", LOSSES, ids="+".join)
async def test_a_loss_is_noticed_and_what_there_is_is_offered_again_to_a_whole_queue(
    queues: QueueSteps, clock: Clock, redis_server: Server, lost: tuple[str, ...]
) -> None:
    held = await learn(queues, clock, 3)
    waiting = [*tasks(5, clock, "a", name="a"), *tasks(5, clock, "b", name="b")]
    await queues.configure(PATH, {"limit": 3})
    await offer(queues, *waiting)
    await whole(queues)
    assert (await queues.maintain(PATH)).loss is None

    delete(redis_server, *lost)
    clock.advance(0.001)
    tended = await queues.maintain(PATH)
    assert tended.loss is not None
    if "qs" in lost:
        await queues.configure(PATH, {"limit": 3})  # the operator's word is in no record
    clock.advance(0.001)
    await queues.mark_held([QueueEntry.of(task) for task in held])
    await offer(queues, *waiting)
    await queues.mark_rebuilt(PATH, tended.loss)

    assert (await queues.maintain(PATH)).loss is None
    status = await queues.status(PATH)
    granted = tended.granted.grants
    assert (status.holding, status.waiting) == (3 + len(granted), 10 - len(granted))
    by_id = {task.id: task for task in [*held, *waiting]}
    working, done = [*map(turn, held), *granted], list[str]()
    while working:
        gone = by_id[working.pop(0).task_id]
        done.append(gone.id)
        working += (await release(queues, turn(gone), completed(gone, clock, since_ms=clock()))).grants
    assert sorted(done) == sorted(by_id)
    status = await queues.status(PATH)
    assert (status.waiting, status.holding) == (0, 0)


async def test_after_a_loss_more_is_tried_one_by_one(queues: QueueSteps, clock: Clock, redis_server: Server) -> None:
    """Else all that the backend holds would be dispatched to it once more."""
    await learn(queues, clock, 8)
    await queues.configure(PATH, {"paused": True})
    waiting = tasks(20, clock)
    await offer(queues, *waiting)
    delete(redis_server, "qh")
    granted = await queues.configure(PATH, {"paused": False})
    assert len(granted.grants) == 1


async def test_a_try_that_was_lost_with_its_slot_makes_no_room_for_another(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    assert len(await offer(queues, *tasks(1, clock, name="lost"))) == 1
    delete(redis_server, "qh")
    more = tasks(3, clock, name="more")
    assert not await offer(queues, *more)  # the answer to the one that is lost is awaited
    clock.advance(60)
    assert len((await queues.grant_free_slots(PATH)).grants) == 1


async def test_after_a_loss_of_the_state_owners_who_come_do_not_go_before_all_who_wait(
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


async def test_a_loss_during_the_repair_is_not_taken_for_repaired(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    await learn(queues, clock, 2)
    delete(redis_server, "qh")
    first = (await queues.maintain(PATH)).loss
    assert first is not None
    clock.advance(1)
    await offer(queues, *tasks(2, clock))
    delete(redis_server, "qh")
    await queues.grant_free_slots(PATH)
    await queues.mark_rebuilt(PATH, first)
    second = (await queues.maintain(PATH)).loss
    assert second not in (None, first)


async def test_what_is_held_is_not_taken_for_waiting_by_a_rebuild(queues: QueueSteps, clock: Clock) -> None:
    await queues.configure(PATH, {"paused": True})
    first, second = tasks(2, clock, "someone")
    await offer(queues, first, second)
    await queues.mark_held([QueueEntry.of(first)])
    assert await queues.status(PATH) == QueueStatus(1, 1, 0, None, paused=True, draining=False)
