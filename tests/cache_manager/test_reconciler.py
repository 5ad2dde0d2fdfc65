from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cache_manager.reconciler import reconcile
from cache_manager.task_service import TaskService
from shared.store.queue_steps import QueueEntry
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import partition
from shared.store.task_steps import Overdue, TaskSteps
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Applied, Claimed, Created, Existing, SlotGrant
from shared.tasks.task import Content, NewTask, State
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.shared.store.conftest import Clock
from tests.shared.store.policies import store_policy
from tests.shared.store.world import Server, nodes, tag_of

PATH = "/v1/test"
AWAY = 3


class StoreWithANodeAway(TaskSteps):
    """As when the node of a cluster that has the partition ``AWAY`` does not answer."""

    async def sweep(self, index: int) -> list[Overdue]:
        if index == AWAY:
            raise StoreUnavailable("ConnectionError")
        return await super().sweep(index)


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


async def test_while_a_node_of_the_cluster_is_away_the_overdue_tasks_of_the_others_are_offered_to_their_queue(
    redis_url: str, clock: Clock
) -> None:
    process = Process.start(redis_url, clock, store_type=StoreWithANodeAway)
    await process.queues.configure(PATH, {"paused": True})
    task_ids = {new_task_id() for _ in range(64)}
    for task_id in task_ids:
        await process.store.create(NewTask(task_id, PATH, lease_s=60))
    clock.advance(REPUBLISH_S)

    with pytest.raises(StoreUnavailable):
        await reconcile(process.services)

    assert (await process.queues.status(PATH)).waiting == sum(partition(task_id) != AWAY for task_id in task_ids)
    await process.link.aclose()


async def test_what_was_granted_and_never_claimed_is_published_again_and_given_up_at_last(
    process: Process, clock: Clock
) -> None:
    await process.store.create(NewTask("t1", PATH, lease_s=60))
    taken = await process.queues.enqueue([QueueEntry(PATH, SlotGrant("t1", 1), "", 0, 5)])
    assert taken.grants == [SlotGrant("t1", 1)]
    published: list[str] = []
    while (await process.queues.status(PATH)).holding:
        clock.advance(2 * REPUBLISH_S)
        await reconcile(process.services)
        published += process.published.task_ids
        process.published.attempts.clear()
    task = await process.store.get("t1")
    assert task
    assert (task.state, task.status) == ("failed", "Failed - unable to send to backend service.")
    assert published == ["t1", "t1"]


# Queues whose keys are lost

KEYS = ("q", "qo", "qw", "qh")


def lose(server: Server, *kinds: str) -> None:
    for node in nodes(server):
        with node.connect() as client:
            for kind in kinds:
                for key in client.scan_iter("{" + tag_of(PATH) + "}" + kind + ":*"):
                    client.delete(key)


async def take_in(process: Process) -> list[str]:
    """The backend takes all that was granted."""
    taken: list[str] = []
    while claims := process.taken_claims():
        for grant, claim in claims:
            claimed = claim or await process.store.claim(grant.task_id, grant.attempt)
            if isinstance(claimed, Claimed):
                granted = (await process.store.accepted(claimed.task)).granted
                process.dispatcher.dispatch_granted(PATH, granted or await process.queues.accepted(claimed.task))
                taken.append(grant.task_id)
            else:
                await process.dispatcher.release(PATH, grant, claimed.task)
    return taken


async def complete(process: Process, task_id: str) -> None:
    outcome = await process.store.update(task_id, state=State.COMPLETED, status="done")
    assert isinstance(outcome, Applied)
    await process.dispatcher.after_transition(outcome)


async def work_all_off(process: Process, in_hand: list[str]) -> list[str]:
    """The backend takes what it is given, and completes it; the reconciler looks after the rest."""
    ended: list[str] = []
    while True:
        in_hand += await take_in(process)
        if in_hand:
            ended.append(in_hand.pop(0))
            await complete(process, ended[-1])
        elif (await process.queues.status(PATH)).waiting:
            # What is granted beyond the known limit is to be answered within a second.
            process.dispatcher.dispatch_granted(PATH, await process.queues.grant_free_slots(PATH))
            assert process.dispatcher.grants
        else:
            return ended


async def half_done(process: Process, clock: Clock) -> tuple[list[str], list[str]]:
    """Three that the backend has, forty that wait, of several owners and priorities."""
    await process.queues.configure(PATH, {"limit": 3})
    ids = [f"t{number}" for number in range(43)]
    in_hand: list[str] = []
    for number, task_id in enumerate(ids):
        new = NewTask(task_id, PATH, lease_s=600, owner=f"owner{number % 4}", priority=number % 3)
        new = replace(new, body=Content("text/plain", 2), inline_body=b"hi")
        created = await process.store.create(new)
        assert isinstance(created, Created)
        process.dispatcher.dispatch_granted(PATH, await process.queues.enqueue([QueueEntry.of(created.task)]))
        in_hand += await take_in(process)
        clock.advance(0.001)
    assert len(in_hand) == 3
    await reconcile(process.services)
    assert (await process.queues.maintain(PATH)).loss is None
    return ids, in_hand


@pytest.mark.parametrize("lost", [*((kind,) for kind in KEYS), KEYS, ("qo", "qw")], ids="+".join)
async def test_a_queue_whose_keys_are_lost_in_the_midst_of_work_is_rebuilt_and_loses_nothing(
    process: Process, clock: Clock, redis_server: Server, lost: tuple[str, ...]
) -> None:
    ids, in_hand = await half_done(process, clock)
    before = await process.queues.status(PATH)
    lose(redis_server, *lost)
    clock.advance(0.001)
    await reconcile(process.services)
    assert (await process.queues.maintain(PATH)).loss is None
    status = await process.queues.status(PATH)
    # One more may have been tried before it was known again what the backend has.
    tried = len(process.dispatcher.grants)
    assert tried <= 1
    assert (status.holding, status.waiting) == (before.holding + tried, before.waiting - tried)
    task_ids_by_place: dict[int, str] = {}
    for task_id in ids:
        task = await process.store.get(task_id)
        assert task
        place = (await process.queues.status(PATH, task)).position
        if place:
            task_ids_by_place[place.ahead] = task_id
    assert sorted(task_ids_by_place) == list(range(status.waiting))
    assert sorted(await work_all_off(process, in_hand)) == sorted(ids)
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (0, 0)


async def test_keys_that_are_lost_again_and_again_delay_work_and_lose_none(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    ids, in_hand = await half_done(process, clock)
    ended: list[str] = []
    for number in range(1000):
        if number % 7 == 0:
            lose(redis_server, *(KEYS if number % 2 else (KEYS[number % 4],)))
        clock.advance(0.5)
        await reconcile(process.services)
        in_hand += await take_in(process)
        if in_hand:
            ended.append(in_hand.pop(0))
            await complete(process, ended[-1])
        if len(ended) == len(ids):
            break
    assert sorted(ended) == sorted(ids)


async def test_a_slot_whose_turn_was_over_without_anybody_telling_the_queue_is_handed_on(
    process: Process, clock: Clock
) -> None:
    _, in_hand = await half_done(process, clock)
    untold = TaskSteps(process.link, store_policy(), clock)
    await untold.cancel(in_hand[0])
    claimed = await process.store.get(in_hand[1])
    assert claimed
    await process.store.requeue(claimed, status="Awaiting service availability")
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting, len(process.taken_grants())) == (3, 39, 2)


async def test_a_slot_granted_for_a_task_that_never_came_to_be_is_free_again(process: Process, clock: Clock) -> None:
    await process.queues.enqueue([QueueEntry(PATH, SlotGrant("ghost", 1), "", 0, 5)])
    assert (await process.queues.status(PATH)).holding == 1
    assert await process.store.queries.depths() == {}, "no task is left that would lead to its queue"
    clock.advance(60)

    await reconcile(process.services)

    assert (await process.queues.status(PATH)).holding == 0


class StoreThatCreatesNothing(TaskSteps):
    """As when the node of a cluster that would have the task does not answer."""

    async def create_and_enqueue(self, new: NewTask) -> None:
        return None

    async def create(self, new: NewTask) -> Created | Existing:
        raise StoreUnavailable("ConnectionError")


async def test_a_create_that_fails_gives_its_turn_back(redis_url: str, clock: Clock) -> None:
    process = Process.start(redis_url, clock, store_type=StoreThatCreatesNothing)

    with pytest.raises(StoreUnavailable):
        await TaskService(process.services).submit(NewTask("t1", PATH, lease_s=60), "text/plain", b"hello")

    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (0, 0)
    await process.link.aclose()
