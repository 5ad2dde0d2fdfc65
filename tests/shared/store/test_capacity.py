"""How a queue finds how many tasks its backend holds, if that is many, and what it makes of being told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.store.queue_steps import TOLD_KEPT_S, QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Granted, SlotGrant
from shared.tasks.task import Task
from shared.tasks.told_slots import ToldSlots
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.fleet import PATH, Fleet, completed, new_task, release
from tests.shared.store.policies import store_policy

POLICY = store_policy(slot_claim_s=30, slot_check_s=20, busy_retry_s=5, backoff_base_s=2)


@pytest.fixture
async def queues(redis_url: str, clock: Clock) -> AsyncIterator[QueueSteps]:
    link = RedisLink(opener(redis_url))
    yield QueueSteps(link, POLICY, now_ms=clock)
    await link.aclose()


class Backend:
    """A backend with *slots*, of which each answer is given by the test: so rounds can be counted."""

    def __init__(self, queues: QueueSteps, clock: Clock, slots: int) -> None:
        self.slots = slots
        self.holding: list[Task] = []
        self.on_the_way: list[Task] = []
        self.refused = 0
        self._queues = queues
        self._clock = clock
        self._tasks: dict[str, Task] = {}

    async def submit(self, count: int) -> None:
        made = [new_task(f"t{len(self._tasks) + number}", self._clock) for number in range(count)]
        self._tasks |= {task.id: task for task in made}
        self.take(await self._queues.enqueue([QueueEntry.of(task) for task in made]))

    async def answer(self, task: Task) -> None:
        """Accept a task that is on the way, or refuse it if no slot is free."""
        self.on_the_way.remove(task)
        if len(self.holding) < self.slots:
            self.holding.append(task)
            self.take(await self._queues.accepted(task))
        else:
            self.refused += 1
            self._tasks[task.id] = requeued = replace(task, attempt=task.attempt + 1)
            self.take(await self._queues.refused(task, requeued, after_s=None))

    async def answer_all(self) -> int:
        """Answer what is on the way now. Returns how many tasks that is."""
        round_ = [*self.on_the_way]
        for task in round_:
            await self.answer(task)
        return len(round_)

    async def end(self, task: Task) -> None:
        self.holding.remove(task)
        ended = completed(task, self._clock, since_ms=self._clock())
        self.take(await release(self._queues, SlotGrant.of(task), ended))

    async def end_unanswered(self, task: Task) -> None:
        """A task ends before its acceptance is recorded."""
        self.on_the_way.remove(task)
        self.holding.append(task)
        await self.end(task)

    async def look(self) -> None:
        self.take(await self._queues.grant_free_slots(PATH))

    async def tell(self, slots: int, instance: str = "a") -> None:
        self.take(await self._queues.tell(PATH, ToldSlots(slots, instance)))

    async def maintain(self) -> None:
        self.take((await self._queues.maintain(PATH)).granted)

    async def known(self) -> int:
        return (await self._queues.status(PATH)).slots

    def take(self, granted: Granted) -> None:
        for grant in granted.grants:
            assert grant.attempt == self._tasks[grant.task_id].attempt
            self.on_the_way.append(self._tasks[grant.task_id])


async def rounds(backend: Backend) -> list[int]:
    """Answer until nothing is on the way. Returns how many tasks each round had."""
    sizes: list[int] = []
    while backend.on_the_way:
        sizes.append(await backend.answer_all())
    return sizes


# Found


async def test_unknown_slots_are_found_by_doubling(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=32)
    await backend.submit(100)
    for size in (1, 1, 2, 4, 8, 16):
        assert await backend.answer_all() == size
    assert (len(backend.holding), await backend.known(), backend.refused) == (32, 32, 0)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 17, 31, 32, 33, 50])
async def test_a_search_is_refused_no_more_tasks_than_it_had_found_before(
    queues: QueueSteps, clock: Clock, slots: int
) -> None:
    backend = Backend(queues, clock, slots)
    await backend.submit(200)
    *_, last = await rounds(backend)
    assert (len(backend.holding), await backend.known()) == (slots, slots)
    assert 1 <= backend.refused <= slots
    assert last <= slots


async def test_after_the_first_refusal_there_is_one_probe_at_a_time_and_its_pause_is_that_of_one_refusal(
    queues: QueueSteps, clock: Clock
) -> None:
    backend = Backend(queues, clock, slots=20)
    await backend.submit(100)
    await rounds(backend)
    refused = backend.refused
    assert refused == 16
    clock.advance(0.049)
    await backend.look()
    assert backend.on_the_way == []
    clock.advance(0.001)
    await backend.look()
    assert await rounds(backend) == [1]
    clock.advance(0.099)
    await backend.look()
    assert backend.on_the_way == []
    assert (backend.refused, await backend.known()) == (refused + 1, 20)


async def test_each_end_during_a_search_is_one_more_grant_at_once(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=20)
    await backend.submit(100)
    await rounds(backend)
    for _ in range(5):
        await backend.end(backend.holding[0])
        assert len(backend.on_the_way) == 1
        await backend.answer_all()
    assert (len(backend.holding), backend.refused) == (20, 16)


async def test_the_refusals_of_a_search_delay_no_freed_slot(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=20)
    await backend.submit(100)
    await rounds(backend)
    backend.slots = 21
    clock.advance(0.05)
    await backend.look()
    assert await rounds(backend) == [1, 1]
    assert len(backend.holding) == 21
    await backend.end(backend.holding[0])
    assert len(backend.on_the_way) == 1


async def test_a_search_goes_on_while_one_answer_is_late(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=100)
    await backend.submit(100)
    while len(backend.on_the_way) < 4:
        await backend.answer_all()
    silent = backend.on_the_way[0]
    while [task for task in backend.on_the_way if task is not silent] and len(backend.holding) < 32:
        for task in [task for task in backend.on_the_way if task is not silent]:
            await backend.answer(task)
    assert len(backend.holding) >= 32
    assert backend.refused == 0


async def test_tasks_that_end_before_their_answers_are_found_by_doubling_too(
    queues: QueueSteps, clock: Clock
) -> None:
    backend = Backend(queues, clock, slots=32)
    await backend.submit(300)
    for _ in range(6):
        for task in [*backend.on_the_way]:
            await backend.end_unanswered(task)
    assert await backend.known() >= 32


async def test_a_fleet_that_has_grown_is_found_by_doubling(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=10)
    await backend.submit(200)
    await rounds(backend)
    backend.slots, backend.refused = 42, 0
    clock.advance(5)
    await backend.look()
    sizes = [await backend.answer_all() for _ in range(6)]
    assert (sizes, len(backend.holding), await backend.known()) == ([1, 1, 2, 4, 8, 16], 42, 42)
    assert backend.refused == 0


async def test_a_backend_that_is_full_is_not_searched_again(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=8)
    await backend.submit(100)
    await rounds(backend)
    refused = backend.refused
    for _ in range(20):
        clock.advance(5)
        await backend.look()
        assert await rounds(backend) == [1]
    assert backend.refused == refused + 20


async def test_after_an_outage_a_backend_is_filled_by_doubling(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=32)
    await backend.submit(100)
    for _ in range(8):  # the eighth failure in a row brings a pause
        (task,) = backend.on_the_way
        backend.on_the_way.clear()
        backend.take(await queues.failed(task))
    assert backend.on_the_way == []
    clock.advance(2)
    await backend.look()
    sizes = [await backend.answer_all() for _ in range(6)]
    assert (sizes, len(backend.holding)) == ([1, 1, 2, 4, 8, 16], 32)


async def test_a_search_gives_a_fleet_no_more_than_its_limit(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=100)
    await queues.configure(PATH, {"limit": 6})
    await backend.submit(100)
    await rounds(backend)
    assert (len(backend.holding), backend.refused) == (6, 0)


async def test_a_lost_answer_ends_no_search_and_holds_no_probe_for_ever(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=32)
    await backend.submit(100)
    while len(backend.on_the_way) < 4:
        await backend.answer_all()
    lost = [*backend.on_the_way]
    backend.on_the_way.clear()
    clock.advance(1)
    await backend.look()
    assert len(backend.on_the_way) == 1
    await rounds(backend)
    assert len(backend.holding) + len(lost) >= 32


# Told


async def test_what_an_instance_tells_is_filled_at_once(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=32)
    await backend.submit(100)
    await backend.tell(32)
    assert len(backend.on_the_way) == 32
    await rounds(backend)
    assert (len(backend.holding), await backend.known(), backend.refused) == (32, 32, 0)


async def test_instances_are_added_up_and_a_repetition_counts_once(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=12)
    await backend.submit(100)
    await backend.tell(4, "a")
    await backend.tell(8, "b")
    await backend.tell(8, "b")
    assert len(backend.on_the_way) == 12
    await backend.tell(2, "b")
    assert await backend.known() == 6
    await backend.tell(0, "a")
    assert await backend.known() == 2


async def test_what_is_told_is_filled_without_a_refusal(queues: QueueSteps, clock: Clock) -> None:
    fleet = Fleet(queues, clock, slots=4, service_s=lambda: 0.5)
    await fleet.take(await queues.tell(PATH, ToldSlots(4, "a")))
    await fleet.submit(*(new_task(f"t{number}", clock) for number in range(40)))
    await fleet.run(4.9)
    assert (fleet.most, fleet.refusals, len(fleet.ended)) == (4, [], 36)


async def test_one_probe_after_each_pause_finds_slots_that_nobody_tells(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=36)
    await backend.submit(100)
    await backend.tell(4)
    await rounds(backend)
    assert len(backend.holding) == 4
    clock.advance(4.999)
    await backend.look()
    assert backend.on_the_way == []
    clock.advance(0.001)
    await backend.look()
    assert [await backend.answer_all() for _ in range(6)] == [1, 1, 2, 4, 8, 16]


async def test_an_instance_that_tells_nothing_any_more_is_forgotten(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=8)
    await backend.submit(100)
    await backend.tell(4, "a")
    clock.advance(1)
    await backend.tell(4, "b")
    clock.advance(TOLD_KEPT_S - 1.001)
    await backend.maintain()
    assert await backend.known() == 8
    clock.advance(0.001)
    await backend.maintain()
    assert await backend.known() == 4
    clock.advance(1)
    await backend.maintain()
    assert await backend.known() == 0


async def test_instances_that_replace_others_are_not_added_to_them(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=4)
    await backend.tell(4, "old")
    clock.advance(TOLD_KEPT_S)
    await backend.tell(4, "new")
    assert await backend.known() == 4


async def test_a_refusal_lowers_what_was_told_until_more_is_told(queues: QueueSteps, clock: Clock) -> None:
    backend = Backend(queues, clock, slots=3)
    await backend.submit(100)
    await backend.tell(8)
    await rounds(backend)
    assert (len(backend.holding), await backend.known()) == (3, 3)
    await backend.tell(8)
    assert (await backend.known(), backend.on_the_way) == (3, [])
    backend.slots = 9
    await backend.tell(9)
    assert len(backend.on_the_way) == 6


async def test_a_thousand_instances_are_counted_and_no_more(queues: QueueSteps, clock: Clock) -> None:
    for number in range(1_001):
        await queues.tell(PATH, ToldSlots(1, f"instance-{number}"))
    assert (await queues.status(PATH)).slots == 1_000


async def test_a_backend_that_stops_tells_so_with_the_tasks_that_it_gives_back(
    queues: QueueSteps, clock: Clock
) -> None:
    backend = Backend(queues, clock, slots=8)
    await backend.submit(8)
    await backend.tell(4, "a")
    await backend.tell(4, "b")
    await rounds(backend)
    granted: list[SlotGrant] = []
    for task in backend.holding[:4]:
        again = replace(task, attempt=task.attempt + 1)
        granted += (await queues.released(again, task.attempt, ToldSlots(0, "a"))).grants
    assert await backend.known() == 4
    assert len(granted) == 1  # a probe: another instance may have come in its place
    await queues.tell(PATH, ToldSlots(4, "c"))
    status = await queues.status(PATH)
    assert (status.slots, status.holding, status.waiting) == (8, 8, 0)
