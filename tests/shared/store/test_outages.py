"""A backend that is away: what it costs the tasks that wait for it, on one server and on several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from shared.store import BackendAway, BackendFailed, RedisLink, TaskStore
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Created, Granted, Refused, SlotGrant
from shared.tasks.task import Content, NewTask, State, Task
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.policies import store_policy
from tests.shared.store.test_store import LinkToSeveralServers, claimed, grants, new
from tests.shared.store.world import Server, nodes

PATH, OTHER_PATH = "/v1/a", "/v1/b"
BACKEND = "/v1"
LEASE_S = 60
POLICY = store_policy(
    max_attempts=4, backoff_base_s=2, busy_retry_s=5, max_outage_s=600, max_unregistered_s=1200, republish_s=30
)
REFUSED = BackendAway("the backend could not be reached", BACKEND)
NO_ANSWER = BackendAway("the backend did not answer in time", BACKEND, was_sent=True, timed_out=True)
NOT_FOUND = BackendAway("the backend answered 404", BACKEND, not_found=True)
UNREGISTERED = BackendAway(status_texts.UNREGISTERED, None)


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def store(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    store = TaskStore(request.param(opener(redis_url)), POLICY, lambda _: 4, clock)
    yield store
    await store.aclose()


@dataclass
class Backbone:
    """The dispatcher and the reconciler, in steps of a second, for a service that a test describes.

    Attributes:
        answers: what the service answers to a task: a reason to requeue it, or None if it takes it.
        service_s: how long it works on a task.
    """

    store: TaskStore
    clock: Clock
    answers: Callable[[Task], BackendAway | BackendFailed | None]
    service_s: float = 10
    working: dict[str, tuple[float, Task]] = field(default_factory=dict)
    in_flight: list[tuple[Granted, SlotGrant]] = field(default_factory=list)
    dispatched: list[str] = field(default_factory=list)

    async def submit(self, *task_ids: str, path: str = PATH) -> None:
        for task_id in task_ids:
            body = Content("text/plain", 5)
            created = await self.store.create(NewTask(task_id, path, LEASE_S, body=body, inline_body=b"hello"))
            assert isinstance(created, Created)
            self.take(created.granted)

    def take(self, granted: Sequence[Granted]) -> None:
        self.in_flight += [(each, grant) for each in granted for grant in each.grants]

    async def run(self, seconds: float) -> None:
        until_ms = self.clock() + seconds * 1000
        steps = 0
        while self.clock() < until_ms:
            await self._dispatch()
            await self._end()
            if steps % 10 == 0:
                await self._reconcile()
            self.clock.advance(1)
            steps += 1

    async def _dispatch(self) -> None:
        while self.in_flight:
            granted, grant = self.in_flight.pop(0)
            outcome = await self.store.claim_granted(granted, grant)
            if isinstance(outcome, Refused):
                self.take(outcome.granted)
                continue
            task = outcome.task
            self.dispatched.append(task.id)
            reason = self.answers(task)
            if reason is None:
                self.working[task.id] = (self.clock() + self.service_s * 1000, task)
                self.take(await self.store.accept(task, BACKEND))
            else:
                self.take((await self.store.requeue(task, reason)).granted)

    async def _end(self) -> None:
        for ends_ms, task in list(self.working.values()):
            if ends_ms <= self.clock():
                del self.working[task.id]
                outcome = await self.store.update(
                    task.id, state=State.COMPLETED, status="completed", attempt=task.attempt
                )
                self.take(outcome.granted)

    async def _reconcile(self) -> None:
        for _, task in list(self.working.values()):
            await self.store.heartbeat(task.id, attempt=task.attempt)
        async for swept in self.store.sweep():
            self.take(swept.granted)
            for applied in swept.applied:
                self.take(applied.granted)
        for path in (PATH, OTHER_PATH):
            async for change in self.store.queues.maintain(path):
                self.take(change.granted)

    async def tasks(self, *task_ids: str) -> list[Task]:
        found = [await self.store.get(task_id) for task_id in task_ids]
        return [task for task in found if task]


IDS = tuple(f"t{number}" for number in range(20))


@pytest.mark.parametrize("reason", [REFUSED, NO_ANSWER, NOT_FOUND, UNREGISTERED], ids=lambda reason: reason.cause)
async def test_an_outage_costs_no_attempt_and_all_go_on_when_it_is_over(
    store: TaskStore, clock: Clock, reason: BackendAway
) -> None:
    is_away = True
    backbone = Backbone(store, clock, lambda task: reason if is_away else None)
    await backbone.submit(*IDS)
    await backbone.run(590)
    waiting = await backbone.tasks(*IDS)
    assert {(task.state, task.failures) for task in waiting} == {(State.CREATED, 0)}
    assert {task.status for task in waiting} <= {"created", f"Awaiting service availability: {reason.cause}"}
    outages = await store.queues.outages()
    assert [(path, outage.cause) for path, outage in outages.items()] == [(PATH, reason.cause)]
    # About one probe in ten seconds, and each task is one now and then.
    assert 25 <= len(backbone.dispatched) <= 70
    assert max(backbone.dispatched.count(task_id) for task_id in IDS) <= 4
    assert set(backbone.dispatched) == set(IDS)
    is_away = False
    # Five rounds of ten seconds on four slots, after at most the longest pause.
    await backbone.run(80)
    assert {(task.state, task.failures) for task in await backbone.tasks(*IDS)} == {(State.COMPLETED, 0)}
    assert await store.queues.outages() == {}


async def test_a_task_that_ends_its_service_is_to_blame_and_the_others_are_not(
    store: TaskStore, clock: Clock
) -> None:
    restarts_ms = 0

    def answers(task: Task) -> BackendAway | None:
        nonlocal restarts_ms
        if clock() < restarts_ms:
            return REFUSED
        if task.id != "poison":
            return None
        restarts_ms = clock() + 3000
        backbone.working.clear()
        return NO_ANSWER

    backbone = Backbone(store, clock, answers, service_s=1)
    await backbone.submit(*IDS, "poison", *(f"later{number}" for number in range(20)))
    await backbone.run(300)
    (poison,) = await backbone.tasks("poison")
    assert (poison.state, poison.failures) == (State.FAILED, 4)
    assert poison.status == "Failed - the backend did not answer in time (attempt 4 of 4)."
    assert poison.history[-1].end is EndReason.TIMEOUT
    others = await backbone.tasks(*IDS, *(f"later{number}" for number in range(20)))
    assert {task.state for task in others} == {State.COMPLETED}
    assert max(task.failures for task in others) <= 1, "what the service had when it died"


async def test_a_bad_task_alone_is_held_while_nothing_shows_that_it_is_to_blame(
    store: TaskStore, clock: Clock
) -> None:
    backbone = Backbone(store, clock, lambda task: NO_ANSWER)
    await backbone.submit("bad")
    await backbone.run(590)
    (bad,) = await backbone.tasks("bad")
    assert (bad.state, bad.failures) == (State.CREATED, 0)
    await backbone.run(30)
    (bad,) = await backbone.tasks("bad")
    assert bad.status == "Failed - gave up after 600 seconds: the backend did not answer in time."
    assert bad.history[-1].end is EndReason.TIMEOUT


async def test_an_error_that_the_service_answers_counts_even_if_the_task_is_alone(
    store: TaskStore, clock: Clock
) -> None:
    backbone = Backbone(store, clock, lambda task: BackendFailed("Retrying - the backend answered 500"))
    await backbone.submit("bad")
    await backbone.run(30)
    (bad,) = await backbone.tasks("bad")
    assert bad.failures >= 2


@pytest.mark.parametrize(("reason", "limit_s"), [(REFUSED, 600), (UNREGISTERED, 1200)])
async def test_a_task_is_given_up_once_its_wait_and_the_outage_are_too_long(
    store: TaskStore, clock: Clock, reason: BackendAway, limit_s: int
) -> None:
    backbone = Backbone(store, clock, lambda task: reason)
    await backbone.submit("first")
    await backbone.run(limit_s / 2)
    await backbone.submit("second")
    await backbone.run(limit_s / 2 + 60)
    first, second = await backbone.tasks("first", "second")
    assert first.state == State.FAILED
    assert first.status == f"Failed - gave up after {limit_s} seconds: {reason.cause}."
    assert (second.state, second.failures) == (State.CREATED, 0)
    await backbone.run(limit_s / 2)
    (second,) = await backbone.tasks("second")
    assert second.state == State.FAILED
    assert {task.history[-1].end for task in (first, second)} == {EndReason.UNREACHABLE}
    assert (await store.queues.status(PATH)).waiting == 0


async def test_tasks_that_never_were_a_probe_are_given_up_too(store: TaskStore, clock: Clock) -> None:
    backbone = Backbone(store, clock, lambda task: REFUSED)
    many = [f"many{number}" for number in range(150)]
    await backbone.submit(*many)
    # In this time some sixty of them are probed. The others are found at their deadlines, which are no farther apart
    # than the limit.
    await backbone.run(2 * POLICY.max_outage_s + 60)
    assert {task.state for task in await backbone.tasks(*many)} == {State.FAILED}
    assert {task.history[-1].end for task in await backbone.tasks(*many)} == {EndReason.UNREACHABLE}
    assert await store.queues.outages() == {}


@pytest.mark.parametrize(
    ("outage_s", "others"),
    [(20, 2), (200, 2), (200, 0)],
    ids=["shorter than a lease", "longer", "nothing else waits"],
)
async def test_a_task_that_was_lost_with_its_service_is_excused_once(
    store: TaskStore, clock: Clock, outage_s: float, others: int
) -> None:
    is_away = False
    backbone = Backbone(store, clock, lambda task: REFUSED if is_away else None, service_s=1000)
    await store.queues.configure(PATH, {"limit": 8})
    lost = IDS[:3]
    await backbone.submit(*lost)
    for failures in (0, 1):
        await backbone.run(20)
        assert set(backbone.working) >= set(lost)
        is_away = True
        backbone.working.clear()
        await backbone.submit(*(f"other{clock()}-{number}" for number in range(others)))
        await backbone.run(outage_s)
        is_away = False
        await backbone.run(2 * LEASE_S)
        tasks = await backbone.tasks(*lost)
        assert {(task.state, task.failures) for task in tasks} == {(State.DISPATCHED, failures)}


async def test_a_path_that_the_backend_does_not_know_fails_after_three_tries(store: TaskStore, clock: Clock) -> None:
    backbone = Backbone(store, clock, lambda task: NOT_FOUND if task.path == OTHER_PATH else None)
    await backbone.submit("good")
    await backbone.run(5)
    await backbone.submit("mistyped", path=OTHER_PATH)
    await backbone.run(60)
    (mistyped,) = await backbone.tasks("mistyped")
    assert mistyped.status == "Failed - the backend answers 404 at this path, and serves others."
    assert (mistyped.failures, backbone.dispatched.count("mistyped")) == (3, 3)
    assert mistyped.history[-1].end is EndReason.REJECTED
    assert await store.queues.outages() == {}


async def test_a_404_of_every_path_is_an_outage(store: TaskStore, clock: Clock) -> None:
    is_away = False
    backbone = Backbone(store, clock, lambda task: NOT_FOUND if is_away else None)
    await backbone.submit("earlier")
    await backbone.run(15)
    is_away = True
    # The known path shows that the 404 is not about the path.
    await backbone.submit("known", "known2")
    await backbone.run(30)
    await backbone.submit("new", "new2", path=OTHER_PATH)
    await backbone.run(500)
    waiting = await backbone.tasks("known", "known2", "new", "new2")
    assert {(task.state, task.failures) for task in waiting} == {(State.CREATED, 0)}


async def test_an_attempt_that_its_service_has_all_the_same_keeps_its_slot(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    task = await claimed(store, created.granted[0], "t1")
    running = await store.update("t1", state=State.RUNNING, status="running", attempt=1)
    assert isinstance(running, Applied)
    refused = await store.requeue(task, NO_ANSWER)
    assert isinstance(refused, Refused)
    assert (await store.queues.status(PATH)).holding == 1


async def test_a_cancelled_task_does_not_come_back_from_an_outage(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    task = await claimed(store, created.granted[0], "t1")
    await store.cancel("t1")
    assert isinstance(await store.requeue(task, REFUSED), Refused)
    status = await store.queues.status(PATH)
    assert (status.holding, status.waiting) == (0, 0)


async def test_a_busy_service_is_not_away(store: TaskStore, clock: Clock) -> None:
    backbone = Backbone(store, clock, lambda task: REFUSED)
    await backbone.submit(*IDS[:3])
    await backbone.run(30)
    assert await store.queues.outages() != {}
    backbone.answers = lambda task: None
    await backbone.run(30)
    assert await store.queues.outages() == {}


async def test_the_next_attempt_of_an_outage_is_granted_like_any_other(store: TaskStore) -> None:
    created = await store.create(new("t1"))
    assert isinstance(created, Created)
    task = await claimed(store, created.granted[0], "t1")
    requeued = await store.requeue(task, REFUSED)
    # One lost answer brings no pause.
    assert grants(requeued.granted) == [(PATH, SlotGrant("t1", 2))]
    claim = await store.claim("t1", 2)
    assert isinstance(claim, Claimed)
    assert claim.task.failures == 0


async def test_an_outage_is_over_when_its_queue_has_lost_its_state(
    store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    backbone = Backbone(store, clock, lambda task: REFUSED, service_s=1000)
    await backbone.submit(*IDS[:3])
    await backbone.run(30)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*}q:" + PATH):
                client.delete(key)
    backbone.answers = lambda task: None
    await backbone.run(30)
    assert set(backbone.working) == set(IDS[:3])
    assert await store.queues.outages() == {}


async def test_an_outage_is_forgotten_a_day_after_nothing_waits_for_its_end(
    store: TaskStore, clock: Clock, redis_server: Server
) -> None:
    def kept() -> int:
        found = 0
        for node in nodes(redis_server):
            with node.connect() as client:
                found += sum(1 for _ in client.scan_iter("*}outages"))
        return found

    backbone = Backbone(store, clock, lambda task: REFUSED)
    await backbone.submit("t1", "t2")
    await backbone.run(30)
    await store.cancel("t1")
    await store.cancel("t2")
    await backbone.run(10)
    assert await store.queues.outages() == {}
    assert kept() == 1
    clock.advance(86_401)
    await store.queues.outages()
    assert kept() == 0
