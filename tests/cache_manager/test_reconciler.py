from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from cache_manager.task_service import TaskService
from shared.store import RedisLink, StoreUnavailable
from shared.store.queue_steps import QueueEntry
from shared.store.redis.partitions import HASH_TAGS, partition
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Applied, Created, SlotGrant
from shared.tasks.task import Content, NewTask, State
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, nodes, tag_of

PATH = "/v1/test"
AWAY = 3


class LinkWithAPartitionAway(RedisLink):
    """A link on which the cluster node with the partition ``AWAY`` does not answer a sweep."""

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name == "task/sweep" and tag == HASH_TAGS[AWAY]:
            raise StoreUnavailable("ConnectionError")
        return await super().script(name, tag, *args)


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


async def test_overdue_tasks_of_other_nodes_are_enqueued_while_one_node_is_away(redis_url: str, clock: Clock) -> None:
    process = Process.start(redis_url, clock, link=LinkWithAPartitionAway(opener(redis_url)))
    await process.queues.configure(PATH, {"paused": True})
    task_ids = {new_task_id() for _ in range(64)}
    for task_id in task_ids:
        await process.store.create_unqueued(NewTask(task_id, PATH, lease_s=60))
    clock.advance(REPUBLISH_S)

    with pytest.raises(StoreUnavailable):
        await reconcile(process.services)

    assert (await process.queues.status(PATH)).waiting == sum(partition(task_id) != AWAY for task_id in task_ids)
    await process.link.aclose()


async def test_a_granted_task_that_is_never_claimed_is_published_again_and_fails_at_last(
    process: Process, clock: Clock
) -> None:
    created = await process.store.create(NewTask("t1", PATH, lease_s=60))
    assert isinstance(created, Created)
    assert [granted.grants for granted in created.granted] == [[SlotGrant("t1", 1)]]
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


async def complete(process: Process, task_id: str) -> None:
    outcome = await process.store.update(task_id, state=State.COMPLETED, status="done")
    assert isinstance(outcome, Applied)
    await process.dispatcher.after_transition(outcome)


async def complete_all(process: Process, in_flight: list[str]) -> list[str]:
    """Let the backend accept and complete all tasks. Returns the ids in the order of completion."""
    ended: list[str] = []
    while True:
        in_flight += await process.backend_accepts_all()
        if in_flight:
            ended.append(in_flight.pop(0))
            await complete(process, ended[-1])
        elif (await process.queues.status(PATH)).waiting:
            # A second without an answer lets the queue begin the next probe.
            process.dispatcher.dispatch_granted([await process.queues.grant_free_slots(PATH)])
            assert process.dispatcher.granted
        else:
            return ended


async def half_done(process: Process, clock: Clock) -> tuple[list[str], list[str]]:
    """A queue with three tasks at the backend and forty waiting ones, of several owners and priorities."""
    await process.queues.configure(PATH, {"limit": 3})
    ids = [f"t{number}" for number in range(43)]
    in_flight: list[str] = []
    for number, task_id in enumerate(ids):
        new = NewTask(task_id, PATH, lease_s=600, owner=f"owner{number % 4}", priority=number % 3)
        created = await process.store.create(replace(new, body=Content("text/plain", 2), inline_body=b"hi"))
        assert isinstance(created, Created)
        process.dispatcher.dispatch_granted(created.granted)
        in_flight += await process.backend_accepts_all()
        clock.advance(0.001)
    assert len(in_flight) == 3
    await reconcile(process.services)
    assert await process.loss(PATH) is None
    return ids, in_flight


@pytest.mark.parametrize("lost", [*((kind,) for kind in KEYS), KEYS, ("qo", "qw")], ids="+".join)
async def test_a_queue_that_loses_its_keys_during_work_is_rebuilt_and_loses_no_task(
    process: Process, clock: Clock, redis_server: Server, lost: tuple[str, ...]
) -> None:
    ids, in_flight = await half_done(process, clock)
    before = await process.queues.status(PATH)
    lose(redis_server, *lost)
    clock.advance(0.001)
    await reconcile(process.services)
    assert await process.loss(PATH) is None
    status = await process.queues.status(PATH)
    # The queue may have started one probe before the rebuild marked the held slots.
    probes = len(process.dispatcher.granted)
    assert probes <= 1
    assert (status.holding, status.waiting) == (before.holding + probes, before.waiting - probes)
    task_ids_by_position: dict[int, str] = {}
    for task_id in ids:
        task = await process.store.get(task_id)
        assert task
        position = (await process.queues.status(PATH, task)).position
        if position:
            task_ids_by_position[position.ahead] = task_id
    assert sorted(task_ids_by_position) == list(range(status.waiting))
    assert sorted(await complete_all(process, in_flight)) == sorted(ids)
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (0, 0)


async def test_repeated_losses_of_keys_delay_tasks_and_lose_none(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    ids, in_flight = await half_done(process, clock)
    ended: list[str] = []
    for number in range(1000):
        if number % 7 == 0:
            lose(redis_server, *(KEYS if number % 2 else (KEYS[number % 4],)))
        clock.advance(0.5)
        await reconcile(process.services)
        in_flight += await process.backend_accepts_all()
        if in_flight:
            ended.append(in_flight.pop(0))
            await complete(process, ended[-1])
        if len(ended) == len(ids):
            break
    assert sorted(ended) == sorted(ids)


async def test_a_slot_is_granted_again_if_its_attempt_ended_without_the_queue_learning_of_it(
    process: Process, clock: Clock
) -> None:
    _, in_flight = await half_done(process, clock)
    await process.steps.cancel(in_flight[0])
    claimed = await process.store.get(in_flight[1])
    assert claimed
    await process.steps.requeue(claimed, status="Awaiting service availability")
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting, len(process.take_granted())) == (3, 39, 2)


async def test_a_slot_granted_to_a_task_that_never_came_to_be_becomes_free(process: Process, clock: Clock) -> None:
    await process.queue_steps.enqueue([QueueEntry(PATH, SlotGrant("ghost", 1), "", 0, 5)])
    assert (await process.queues.status(PATH)).holding == 1
    assert await process.queues.depths() == {}, "no task is left that leads to the queue"
    clock.advance(60)

    await reconcile(process.services)

    assert (await process.queues.status(PATH)).holding == 0


class LinkThatCreatesNothing(RedisLink):
    """A link on which the cluster node of the task does not answer a create."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name == "task/create":
            raise StoreUnavailable("ConnectionError")
        return await super().script(name, tag, *args)


async def test_a_create_that_fails_releases_its_queue_entry(redis_url: str, clock: Clock) -> None:
    process = Process.start(redis_url, clock, link=LinkThatCreatesNothing(opener(redis_url)))

    with pytest.raises(StoreUnavailable):
        await TaskService(process.services).submit(NewTask("t1", PATH, lease_s=60), "text/plain", b"hello")

    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (0, 0)
    await process.link.aclose()
