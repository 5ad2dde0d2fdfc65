"""The store's face: the whole outcome of a step, whether one server has all partitions or several do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.store import (
    BackendAway,
    BackendBusy,
    BackendFailed,
    BodyUnavailable,
    DispatcherFull,
    RedisLink,
    StoreUnavailable,
    TaskStore,
)
from shared.tasks.outcomes import (
    Applied,
    Claimed,
    Created,
    Draining,
    Existing,
    Full,
    Granted,
    Refusal,
    Refused,
    SlotGrant,
)
from shared.tasks.task import Content, NewTask, State, Task
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.policies import store_policy
from tests.shared.store.world import Server, nodes

PATH, NEXT_PATH = "/v1/a", "/v1/b"
POLICY = store_policy(max_backlog=3, busy_retry_s=4, backoff_base_s=8)
LIMIT = 2


class LinkToSeveralServers(RedisLink):
    """As on a cluster: no server has all partitions."""

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return None


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def store(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    store = TaskStore(request.param(opener(redis_url)), POLICY, lambda _: LIMIT, clock)
    yield store
    await store.aclose()


def new(task_id: str, **changes: Any) -> NewTask:
    return NewTask(task_id, PATH, 60, body=Content("text/plain", 5), inline_body=b"hello", **changes)


def grants(granted: Any) -> list[tuple[str, SlotGrant]]:
    return [(each.path, grant) for each in granted for grant in each.grants]


async def claimed(store: TaskStore, granted: Granted, task_id: str) -> Task:
    outcome = await store.claim_granted(granted, SlotGrant(task_id, 1))
    assert isinstance(outcome, Claimed)
    assert outcome.inline_body == b"hello"
    return outcome.task


async def busy_backend(store: TaskStore) -> list[Task]:
    """Two tasks that the backend has accepted, as many as the limit says, and two that wait."""
    held: list[Task] = []
    for number in range(LIMIT):
        created = await store.create(new(f"held{number}"))
        assert isinstance(created, Created)
        (granted,) = created.granted
        held.append(await claimed(store, granted, f"held{number}"))
        assert grants(await store.accept(held[-1])) == []
    for number in range(2):
        waiting = await store.create(new(f"waiting{number}"))
        assert isinstance(waiting, Created)
        assert waiting.position
        assert waiting.position.ahead == number
    return held


async def test_a_new_task_is_granted_a_free_slot(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    assert created.position is None
    assert grants(created.granted) == [(PATH, SlotGrant("t1", 1))]


async def test_a_queue_refuses_a_task_beyond_its_backlog_and_nothing_is_stored(store: TaskStore) -> None:
    await busy_backend(store)
    assert isinstance(await store.create(new("waiting2")), Created)
    assert isinstance(await store.create(new("late")), Full)
    await store.queues.configure(PATH, {"draining": True})
    assert isinstance(await store.create(new("late")), Draining)
    assert await store.get("late") is None


async def test_a_task_that_is_only_tracked_enters_no_queue(store: TaskStore) -> None:
    created = await store.create(new("t1", dispatch_requested=False))
    assert isinstance(created, Created)
    assert created.granted == ()
    assert (await store.queues.status(PATH)).waiting == 0


async def test_a_taken_id_gets_no_second_entry(store: TaskStore, clock: Clock) -> None:
    await busy_backend(store)
    again = await store.create(new("waiting0", status="other"))
    assert isinstance(again, Existing)
    assert again.task.status == "created"
    status = await store.queues.status(PATH)
    assert (status.holding, status.waiting) == (2, 2)


async def test_a_taken_id_elsewhere_leaves_no_entry_here(store: TaskStore) -> None:
    await store.create(new("t1"))
    other = NewTask("t1", NEXT_PATH, 60, body=Content("text/plain", 5), inline_body=b"hello")
    again = await store.create(other)
    assert isinstance(again, Existing)
    status = await store.queues.status(NEXT_PATH)
    assert (status.holding, status.waiting) == (0, 0)


@pytest.mark.parametrize("end", ["completed", "cancelled", "failed"])
async def test_an_end_grants_the_slot_to_the_next_task(store: TaskStore, end: str, clock: Clock) -> None:
    held = await busy_backend(store)
    clock.advance(7)
    if end == "cancelled":
        outcome = await store.cancel("held0")
    elif end == "failed":
        # A dispatch that failed for good; its task has not reported.
        outcome = await store.update("held0", state=State.FAILED, status="no")
    else:
        outcome = await store.update("held0", state=State.COMPLETED, status="done", attempt=held[0].attempt)
    assert isinstance(outcome, Applied)
    assert outcome.task.state == end
    assert grants(outcome.granted) == [(PATH, SlotGrant("waiting0", 1))]
    await claimed(store, outcome.granted[0], "waiting0")
    task = await store.get("waiting1")
    assert task
    status = await store.queues.status(PATH, task)
    assert status.position
    # Both slots were held for 7 s, by the time one of them brought a completion.
    assert status.position.service_s == (14 if end == "completed" else None)


async def test_a_step_that_ends_nothing_grants_nothing(store: TaskStore) -> None:
    await busy_backend(store)
    running = await store.update("held0", state=State.RUNNING, status="running")
    stale = await store.update("held0", state=State.COMPLETED, status="done", attempt=3)
    beat = await store.heartbeat("held0")
    assert isinstance(running, Applied)
    assert isinstance(stale, Refused)
    assert isinstance(beat, Applied)
    assert grants([*running.granted, *stale.granted, *beat.granted]) == []


@pytest.mark.parametrize(
    ("reason", "status", "slots", "returns"),
    [
        (BackendBusy(None), "Awaiting service availability", 1, True),
        (BackendFailed("Retrying - the backend answered 500"), "Retrying - the backend answered 500", 2, False),
        (BackendAway("it is away", "/v1"), "Awaiting service availability: it is away", 2, True),
        (DispatcherFull(), "Awaiting a free dispatcher", 2, True),
        (BodyUnavailable(), "Awaiting the request body", 2, False),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else None,
)
async def test_a_requeued_task_waits_as_its_reason_says(
    store: TaskStore, reason: Any, status: str, slots: int, returns: bool
) -> None:
    created = [await store.create(new(f"t{number}")) for number in range(2)]
    assert isinstance(created[0], Created)
    first = await claimed(store, created[0].granted[0], "t0")
    (granted,) = await store.accept(first)
    second = await claimed(store, granted, "t1")
    assert grants(await store.accept(second)) == []
    requeued = await store.requeue(second, reason)
    assert isinstance(requeued, Applied)
    assert (requeued.task.state, requeued.task.attempt, requeued.task.status) == ("created", 2, status)
    assert requeued.task.failures == isinstance(reason, BackendFailed)
    queue = await store.queues.status(PATH, requeued.task)
    assert queue.slots == slots
    waits = queue.waiting == 1 or (PATH, SlotGrant("t1", 2)) in grants(requeued.granted)
    assert waits == returns, "a task that waits apart is in no queue"


async def test_a_process_without_room_grants_nothing_at_once(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    task = await claimed(store, created.granted[0], "t1")
    requeued = await store.requeue(task, DispatcherFull())
    assert [(each.grants, each.ask_again_s) for each in requeued.granted] == [([], None)]


async def test_a_next_step_frees_one_queue_and_enters_another(store: TaskStore) -> None:
    await busy_backend(store)
    outcome = await store.next_step("held0", status="created", path=NEXT_PATH)
    assert isinstance(outcome, Applied)
    assert (outcome.task.path, outcome.task.attempt) == (NEXT_PATH, 2)
    assert grants(outcome.granted) == [(PATH, SlotGrant("waiting0", 1)), (NEXT_PATH, SlotGrant("held0", 2))]


async def test_a_replay_enters_the_queue_again(store: TaskStore) -> None:
    await store.create(new("t1"))
    await store.update("t1", state=State.FAILED, status="no")
    outcome = await store.replay("t1")
    assert isinstance(outcome, Applied)
    assert grants(outcome.granted) == [(PATH, SlotGrant("t1", 2))]


async def test_a_claim_of_an_attempt_that_is_over_releases_its_slot(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    await store._tasks.cancel("t1") if isinstance(store._link, LinkToSeveralServers) else await store.cancel("t1")
    for refused in (await store.claim("t1", 1), await store.claim_granted(created.granted[0], SlotGrant("t1", 1))):
        assert isinstance(refused, Refused)
        assert grants(refused.granted) == []
    assert (await store.queues.status(PATH)).holding == 0


async def test_the_slot_of_an_unknown_task_is_released(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    waiting = [await store.create(new(f"w{number}")) for number in range(2)]
    assert all(isinstance(each, Created) for each in waiting)
    ghost = Granted(PATH, [SlotGrant("ghost", 1)])
    refused = await store.claim_granted(ghost, SlotGrant("ghost", 1))
    assert isinstance(refused, Refused)
    assert [each.path for each in refused.granted] == [PATH]


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_each_failure_doubles_the_backoff(store: TaskStore, clock: Clock, failures: int) -> None:
    await store.create(new("t1"))
    for number in range(1, failures + 1):
        outcome = await store.claim_granted(Granted(PATH, []), SlotGrant("t1", number))
        assert isinstance(outcome, Claimed)
        requeued = await store.requeue(outcome.task, BackendFailed("Retrying"))
        assert isinstance(requeued, Applied)
        assert requeued.task.failures == number
    longest_s = POLICY.backoff_base_s * 2 ** (failures - 1)
    clock.advance(longest_s / 2 - 0.002)
    assert sum([swept.count async for swept in store.sweep()]) == 0, "half of the backoff is no jitter"
    clock.advance(longest_s / 2 + 0.002)
    assert sum([swept.count async for swept in store.sweep()]) == 1


@pytest.mark.parametrize("attempt", [1, None])
async def test_a_claim_takes_a_slot_like_everything_else(store: TaskStore, attempt: int | None) -> None:
    """An event may be forged, or come again after the queue has lost its keys."""
    for task_id in ("t1", "t2"):
        assert isinstance(await store.create_unqueued(new(task_id)), Created)
    await store.queues.configure(PATH, {"limit": 1})
    first, second = await store.claim("t1", attempt), await store.claim("t2", attempt)
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert (first.reason, second.reason) == (Refusal.SLOTLESS, Refusal.SLOTLESS)
    assert (grants(first.granted), grants(second.granted)) == ([(PATH, SlotGrant("t1", 1))], [])
    assert isinstance(await store.claim("t1", attempt), Claimed)
    assert isinstance(await store.claim("t2", attempt), Refused)
    status = await store.queues.status(PATH)
    assert (status.holding, status.waiting) == (1, 1)


async def test_an_event_ends_no_wait_apart_from_the_queue(store: TaskStore) -> None:
    await store.create(new("t1"))
    claimed = await store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    await store.requeue(claimed.task, BackendFailed("Retrying"))
    refused = await store.claim("t1", 2)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.STATE
    assert (await store.queues.status(PATH)).waiting == 0


class LinkToADeadNode(LinkToSeveralServers):
    """The node that would have the record of a new task does not answer."""

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name == "task/create":
            raise StoreUnavailable("ConnectionError")
        return await super().script(name, tag, *args)


async def test_a_create_that_fails_reports_the_slots_that_others_were_granted(
    redis_url: str, redis_server: Server, clock: Clock
) -> None:
    store = TaskStore(LinkToSeveralServers(opener(redis_url)), POLICY, lambda _: LIMIT, clock)
    await store.queues.configure(PATH, {"paused": True})
    await store.create(new("waiting"))
    broken = TaskStore(LinkToADeadNode(opener(redis_url)), POLICY, lambda _: LIMIT, clock)
    # The pause ends, and the next call of any kind grants the slot.
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in [*client.scan_iter("*}qs:" + PATH), *client.scan_iter("*}settings")]:
                client.delete(key)
    with pytest.raises(StoreUnavailable) as raised:
        await broken.create(new("t1"))
    assert grants(raised.value.granted) == [(PATH, SlotGrant("waiting", 1))]
    status = await store.queues.status(PATH)
    assert (status.holding, status.waiting) == (1, 0), "the new task's own entry is gone"
    for each in (store, broken):
        await each.aclose()
