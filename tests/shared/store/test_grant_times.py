"""What is counted as a grant, where grants are heard of from Redis itself."""

from __future__ import annotations

from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Enqueued, SlotGrant
from shared.tasks.told_slots import ToldSlots
from tests.grant_times import GrantTimes
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.world import START_MS, Server, nodes
from tests.waiting import eventually

POLICY = store_policy(slot_claim_s=30)


async def test_each_grant_is_heard_once_and_nothing_else_is(redis_server: Server, clock: Clock) -> None:
    link = RedisLink(opener(redis_server.url))
    queues = QueueSteps(link, POLICY, lambda path: None, clock)
    tasks = [new_task(f"t{number}", clock) for number in range(5)]
    try:
        await queues.tell(PATH, ToldSlots(9, ""))
        for task in tasks[:2]:
            assert isinstance(await queues.enqueue_new(QueueEntry.of(task)), Enqueued)
        with GrantTimes(nodes(redis_server), POLICY.slot_claim_s) as times:
            clock.advance(1)
            for task in tasks[:2]:
                await queues.accepted(task)
            await queues.mark_held([QueueEntry.of(tasks[2])])
            await queues.enqueue([QueueEntry.of(tasks[2])])
            clock.advance(1)
            await QueueSteps(link, POLICY).tell("/v1/by-the-clock-of-redis", ToldSlots(9, ""))
            await queues.enqueue([QueueEntry.of(tasks[3])])
            await queues.accepted(tasks[3])
            clock.advance(1)
            await queues.enqueue_new(QueueEntry.of(tasks[4]))
            await queues.release(PATH, SlotGrant(tasks[4].id, 1), "", 10)
            eventually(lambda: sum(map(len, times.by_path[PATH])) >= 2)
            assert times.by_path[PATH] == [[START_MS + 2_000, START_MS + 3_000]]
    finally:
        await link.aclose()
