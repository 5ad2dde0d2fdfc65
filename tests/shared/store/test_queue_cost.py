"""The cost of a queue step in commands: the same with ten thousand waiting tasks as with ten."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from local.redis_server import RedisServer
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Applied, Claimed, Created
from shared.tasks.task import Content, NewTask, Task
from tests.shared.store.conftest import POLICY, Clock, LifeSteps, opener
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.test_cost import cost

FEW, MANY, OWNERS = 10, 10_000, 3


@pytest.fixture
async def link(own_server: RedisServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(opener(own_server.url))
    yield link
    await link.aclose()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A single server, even if other tests use a cluster, where the same work takes more steps."""
    with RedisServer(tmp_path) as server:
        yield server


async def test_a_queue_step_costs_the_same_however_many_tasks_wait(
    link: RedisLink, clock: Clock, own_server: RedisServer
) -> None:
    queues = QueueSteps(link, store_policy(), lambda path: 4, clock)
    store = LifeSteps(link, POLICY, clock, queues)
    numbers = iter(range(10**9))

    def task() -> Task:
        number = next(numbers)
        clock.advance(0.001)
        return new_task(f"t{number}", clock, f"owner{number % OWNERS}")

    async def let_wait(count: int) -> None:
        for _ in range(count // 100 or 1):
            await queues.enqueue([QueueEntry.of(task()) for _ in range(min(count, 100))])

    async def create() -> str:
        task_id = f"new{next(numbers)}"
        new = NewTask(task_id, PATH, 60, body=Content("text/plain", 2), inline_body=b"hi", owner="owner0")
        assert isinstance(await store.create_and_enqueue(new), Created)
        return task_id

    async def end() -> None:
        outcome = await store.cancel(working.pop())
        assert isinstance(outcome, Applied)
        (granted,) = outcome.granted
        assert len(granted.grants) == 1

    async def costs() -> dict[str, Counter[str]]:
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "enqueue": lambda: queues.enqueue([QueueEntry.of(task())]),
            "status": lambda: queues.status(PATH, late),
            "grant free slots": lambda: queues.grant_free_slots(PATH),
            "maintain": lambda: queues.maintain(PATH),
            "create": create,
            "end": end,
        }
        return {name: await cost(own_server, step) for name, step in steps.items()}

    working = [await create() for _ in range(4)]
    claimed = await store.claim(working[0], 1)
    for _ in working:
        assert isinstance(claimed, Claimed)
        (granted,) = (await store.accepted(claimed.task)).granted
        claimed = next(iter(granted.claims.values()), claimed)
    await let_wait(FEW)
    late = task()
    await queues.enqueue([QueueEntry.of(late)])
    await queues.mark_rebuilt(PATH, (await queues.maintain(PATH)).loss or 0)
    await costs()  # loads the scripts
    few = await costs()
    await let_wait(MANY)
    assert await costs() == few
    assert (await queues.status(PATH)).waiting > MANY
    assert sum(few["maintain"].values()) <= 12 + OWNERS
