"""Events that are never claimed: Event Grid holds them back, or the topic takes none. No slot stands idle for it, and
nothing is learned from it about slots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from bench.simulation import RECONCILER_S, Backbone, Behaviour, Silence, Wire, Work, simulate
from cache_manager.reconciler import reconcile
from local.redis_server import RedisServer
from shared.dispatch.backend_client import Accepted, Answer
from shared.dispatch.dispatcher import TASKS_PER_EVENT, Dispatched
from shared.dispatch.registry import Endpoint
from shared.events.publisher import PublishFailed
from shared.store.queue_steps import QueueEntry
from shared.tasks.outcomes import Applied, Claimed, Created, SlotGrant
from shared.tasks.task import Content, NewTask, State, Task
from tests.cache_manager.process import POLICY, REPUBLISH_S, Process
from tests.shared.store.conftest import Clock

PATH = "/v1/test"
INTERVAL_S = POLICY.reconciler_interval_s


class AcceptingBackend:
    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: object, timeout_s: float, room: object
    ) -> Answer:
        return Accepted()

    async def aclose(self) -> None:
        return


@pytest.fixture
async def process(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, transport=AcceptingBackend())
    yield process
    await process.link.aclose()


@pytest.fixture
async def other(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, transport=AcceptingBackend())
    yield process
    await process.link.aclose()


async def submit(process: Process, task_id: str) -> Task:
    """Submit a task. If it finds a slot its event is published, and no other task is granted a slot."""
    new = NewTask(task_id, PATH, lease_s=600, body=Content("text/plain", 2), inline_body=b"hi")
    created = await process.store.create(new)
    assert isinstance(created, Created)
    assert {grant for each in created.granted for grant in each.grants} <= {SlotGrant(task_id, 1)}
    return created.task


async def deliver(process: Process, task_id: str) -> None:
    """Deliver an event late: its task is claimed, and the backend accepts it."""
    claimed = await process.store.claim(task_id, 1)
    assert isinstance(claimed, Claimed)
    process.dispatcher.dispatch_granted(await process.store.accept(claimed.task))


async def learned_slots(process: Process, count: int) -> None:
    """Let the queue learn that the backend holds so many tasks, all of which then end."""
    for number in range(count):
        await submit(process, f"learned{number}")
        await deliver(process, f"learned{number}")
    assert process.dispatcher.granted == []
    for number in range(count):
        outcome = await process.store.update(f"learned{number}", state=State.COMPLETED, status="done")
        assert isinstance(outcome, Applied)
    status = await process.queues.status(PATH)
    assert (status.slots, status.holding) == (count, 0)


def taken(process: Process) -> list[str]:
    return [grant.task_id for _, grant in process.take_granted()]


async def test_an_unclaimed_task_is_dispatched_directly_when_its_first_republish_falls_due(
    process: Process, clock: Clock
) -> None:
    await submit(process, "t1")
    clock.advance(REPUBLISH_S - 0.001)
    await reconcile(process.services)
    assert (taken(process), process.published.task_ids) == ([], [])
    clock.advance(0.001)
    await reconcile(process.services)
    assert (taken(process), process.published.task_ids) == (["t1"], ["t1"])


async def test_slots_are_not_learned_from_entries_that_were_only_granted(process: Process, clock: Clock) -> None:
    await learned_slots(process, 3)
    for number in range(5):  # three within the estimate, and two probes that are never answered
        await submit(process, f"t{number}")
        clock.advance(3)
    assert (await process.queues.status(PATH)).holding == 5

    await deliver(process, "t0")
    assert (await process.queues.status(PATH)).slots == 3, "the backend has one task"
    for number in range(1, 5):
        await deliver(process, f"t{number}")
    assert (await process.queues.status(PATH)).slots == 5, "now it has five"


async def test_a_probe_that_ends_at_once_teaches_nothing_about_entries_that_were_only_granted(
    process: Process, clock: Clock
) -> None:
    await learned_slots(process, 1)
    for number in range(4):
        await submit(process, f"t{number}")
        clock.advance(10)
    claimed = await process.store.claim("t3", 1)
    assert isinstance(claimed, Claimed)
    assert isinstance(await process.store.update("t3", state=State.COMPLETED, status="done"), Applied)
    assert (await process.queues.status(PATH)).slots == 1


async def test_a_refusal_leaves_out_entries_that_were_only_granted(process: Process, clock: Clock) -> None:
    await learned_slots(process, 5)
    for number in range(5):
        await submit(process, f"t{number}")
    await deliver(process, "t0")
    claimed = await process.store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    requeued = await process.steps.requeue(claimed.task, status="busy")
    assert isinstance(requeued, Applied)
    await process.queue_steps.refused(claimed.task, requeued.task, after_s=None)
    assert (await process.queues.status(PATH)).slots == 1


async def test_new_work_is_dispatched_directly_until_an_event_is_claimed_again(
    process: Process, other: Process, clock: Clock
) -> None:
    await process.queues.configure(PATH, {"limit": 100})
    await submit(process, "t0")
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    assert taken(process) == ["t0"]
    assert process.published.task_ids == ["t0"]
    await other.store.rounds.begin()
    assert not other.store.rounds.events_are_claimed, "another process learns of it when it asks for its turn"

    for number in range(1, TASKS_PER_EVENT + 2):
        await other.dispatcher.begin(await stored(other, f"t{number}"))
    assert taken(other) == [f"t{number}" for number in range(2, TASKS_PER_EVENT + 1)]
    probes = ["t1", f"t{TASKS_PER_EVENT + 1}"]
    assert other.published.task_ids == probes, "one in ten shows whether events arrive"

    await process.store.rounds.begin()
    assert not process.store.rounds.events_are_claimed
    assert await process.dispatcher.dispatch(probes[0], 1) is Dispatched.ACCEPTED
    assert process.store.rounds.events_are_claimed
    await other.store.rounds.begin()
    assert other.store.rounds.events_are_claimed
    await other.dispatcher.begin(await stored(other, "later"))
    assert (taken(other), other.published.task_ids[-1]) == ([], "later")


async def stored(process: Process, task_id: str) -> Task:
    new = NewTask(task_id, PATH, lease_s=600, body=Content("text/plain", 2), inline_body=b"hi")
    created = await process.store.create_unqueued(new)
    assert isinstance(created, Created)
    await process.queue_steps.mark_held([QueueEntry.of(created.task)])
    return created.task


async def test_an_event_of_a_task_that_is_at_work_already_does_not_show_that_events_are_claimed(
    process: Process, clock: Clock
) -> None:
    await submit(process, "t0")
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    await deliver(process, "t0")
    assert await process.dispatcher.dispatch("t0", 1) is Dispatched.DROPPED
    assert not process.store.rounds.events_are_claimed


async def test_a_task_whose_dispatcher_died_does_not_show_that_events_stay_unclaimed(
    process: Process, clock: Clock
) -> None:
    await process.queue_steps.configure(PATH, {"paused": True})
    task = await submit(process, "t0")
    assert [grant.task_id for grant in (await process.queues.configure(PATH, {"paused": False})).grants] == [task.id]
    clock.advance(REPUBLISH_S)
    await reconcile(process.services)
    assert taken(process) == ["t0"]
    assert process.store.rounds.events_are_claimed


async def test_while_events_stay_unclaimed_a_published_task_waits_for_half_an_interval_only(
    process: Process, clock: Clock
) -> None:
    await process.store.rounds.note_events(are_claimed=False)
    await submit(process, "t0")
    clock.advance(INTERVAL_S / 2 - 0.001)
    await reconcile(process.services)
    assert taken(process) == []
    clock.advance(0.001)
    await reconcile(process.services)
    assert taken(process) == ["t0"]
    await reconcile(process.services)
    assert taken(process) == [], "it is being dispatched"


async def test_a_task_that_the_topic_refuses_is_dispatched_at_once(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        raise PublishFailed("refused")

    monkeypatch.setattr(process.published, "publish_dispatches", refuse)
    await process.dispatcher.begin(await submit(process, "t0"))
    assert taken(process) == ["t0"]


# In simulated time

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def simulated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory: Path = tmp_path_factory.mktemp("simulated")
    with RedisServer(directory) as server:
        yield server.url


SLACK_S = 1.0
"""For the network."""


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True], ids=["silent", "refusing"])
def test_tasks_that_find_a_slot_start_soon_during_an_hour_without_event_grid(
    simulated_url: str, refuses: bool
) -> None:
    work = Work((20.0,) * 80, 1 / 50, 4, silences=(Silence(0, HOUR_S, refuses),))
    record = simulate(Backbone(simulated_url)(work, Behaviour(), Wire()))
    assert len(record.ended) == 80
    assert record.longest_idle_s() <= REPUBLISH_S + 2 * RECONCILER_S + SLACK_S
    assert record.longest_idle_s(REPUBLISH_S + 2 * RECONCILER_S) <= 2 * RECONCILER_S + SLACK_S


@pytest.mark.parametrize("refuses", [False, True], ids=["silent", "refusing"])
def test_a_burst_fills_the_backend_and_does_not_overfill_its_queue_without_event_grid(
    simulated_url: str, refuses: bool
) -> None:
    work = Work((60.0,) * 200, 2, 20, silences=(Silence(0, HOUR_S, refuses),))
    record = simulate(Backbone(simulated_url)(work, Behaviour(), Wire()))
    assert len(record.ended) == 200
    assert record.longest_idle_s(REPUBLISH_S + 2 * RECONCILER_S) <= 2 * RECONCILER_S + SLACK_S
