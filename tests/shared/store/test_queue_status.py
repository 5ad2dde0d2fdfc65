"""What the status of a queue says of its backend."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.store.queue_steps import QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.requeue import BackendAway
from shared.tasks.told_slots import ToldSlots
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.fleet import PATH, completed, release
from tests.shared.store.test_queues import POLICY, enqueue, grant_of, learn, next_attempt, tasks

DAY_S = 86_400


@pytest.fixture
async def queues(redis_url: str, clock: Clock) -> AsyncIterator[QueueSteps]:
    link = RedisLink(opener(redis_url))
    yield QueueSteps(link, POLICY, lambda path: None, clock)
    await link.aclose()


async def is_full(queues: QueueSteps) -> bool:
    status = await queues.status(PATH)
    assert not status.is_down
    return status.is_full


async def test_of_a_backend_that_nobody_asked_nothing_is_known(queues: QueueSteps, clock: Clock) -> None:
    await enqueue(queues, *tasks(3, clock))
    status = await queues.status(PATH)
    assert (status.is_down, status.paused_until_ms, status.is_full, status.mean_ms) == (False, None, False, None)


async def test_a_backend_is_full_while_tasks_wait_that_it_refuses(queues: QueueSteps, clock: Clock) -> None:
    held = await learn(queues, clock, 3)
    first, second = tasks(2, clock)
    await enqueue(queues, first, second)
    assert not await is_full(queues), "it may take one more"
    await queues.refused(first, next_attempt(first), after_s=None)
    assert await is_full(queues)
    for task in held[:2]:
        await release(queues, grant_of(task))
    assert not await is_full(queues), "nothing waits"


async def test_a_backend_that_asks_to_be_left_alone_is_full_for_so_long(queues: QueueSteps, clock: Clock) -> None:
    (first,) = tasks(1, clock)
    await enqueue(queues, first)
    await queues.refused(first, next_attempt(first), after_s=10)
    assert await is_full(queues)
    clock.advance(10)
    assert not await is_full(queues)


async def test_a_backend_is_full_by_its_own_word(queues: QueueSteps, clock: Clock) -> None:
    await queues.tell(PATH, ToldSlots(2, "pod"))
    assert len(await enqueue(queues, *tasks(2, clock))) == 2
    assert not await is_full(queues)
    assert await enqueue(queues, *tasks(1, clock, name="more")) == []
    assert await is_full(queues)


async def test_a_backend_that_is_away_is_down_until_the_next_task_tries_it(queues: QueueSteps, clock: Clock) -> None:
    (task,) = tasks(1, clock)
    await enqueue(queues, task)
    for _ in range(2):
        assert not (await queues.status(PATH)).is_down, "one lost answer is no outage"
        await queues.away(task, BackendAway("is away", "/v1"))
        task = next_attempt(task)
        await enqueue(queues, task)
    status = await queues.status(PATH)
    assert (status.is_down, status.paused_until_ms) == (True, clock() + 2_000)
    clock.advance(2)
    assert (await queues.grant_free_slots(PATH)).grants == [grant_of(task)]
    status = await queues.status(PATH)
    assert (status.is_down, status.paused_until_ms) == (True, None)
    await queues.accepted(task)
    assert not (await queues.status(PATH)).is_down


async def test_a_backend_that_fails_again_and_again_is_down_for_a_day_at_most(
    queues: QueueSteps, clock: Clock
) -> None:
    for number in range(8):
        assert not (await queues.status(PATH)).is_down
        (task,) = tasks(1, clock, name=f"t{number}-")
        await enqueue(queues, task)
        await queues.failed(task)
    status = await queues.status(PATH)
    assert (status.is_down, status.paused_until_ms, status.outage) == (True, clock() + 2_000, None)
    clock.advance(DAY_S)
    assert (await queues.status(PATH)).is_down, "it was tried until then"
    clock.advance(3)
    assert not (await queues.status(PATH)).is_down, "nobody knows"


async def test_how_long_a_task_takes_is_known_once_one_has_ended(queues: QueueSteps, clock: Clock) -> None:
    (task,) = tasks(1, clock)
    await enqueue(queues, task)
    await queues.accepted(task)
    began = clock()
    clock.advance(30)
    assert (await queues.status(PATH)).mean_ms is None
    await release(queues, grant_of(task), completed(task, clock, since_ms=began))
    mean_ms = (await queues.status(PATH)).mean_ms
    assert mean_ms is not None
    assert 30_000 <= mean_ms <= 30_010


async def test_with_a_position_nothing_of_the_backend_is_told(queues: QueueSteps, clock: Clock) -> None:
    """Callers ask for it, often."""
    first, second = tasks(2, clock)
    await queues.configure(PATH, {"limit": 1}, by="ada")
    await enqueue(queues, first, second)
    status = await queues.status(PATH, second)
    assert (status.position is not None, status.settings_by, status.settings_at_ms) == (True, None, None)
