"""Tasks that start later: on one server, and on several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from shared.store import Depth, Listing, RedisLink, Swept, TaskStore
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import PARTITIONS, partition
from shared.tasks.ending import ending_of
from shared.tasks.outcomes import Applied, Claimed, Created, Draining, Granted, Refusal, Refused, SlotGrant
from shared.tasks.task import NewBatch, NewTask, PipelineStep, Start, State, Task
from shared.tasks.timing import Moment, Timing
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, StoreFactory, opener
from tests.shared.store.policies import store_policy
from tests.shared.store.steps import LATER, sweep_all
from tests.shared.store.test_store import LinkToSeveralServers
from tests.shared.store.world import START_MS, Server, World, nodes, tag_of, text, world

PATH = "/v1/a"
DELAY_S = 300
POLICY = store_policy(republish_s=30)


class CountingLink(RedisLink):
    """Counts the scripts that it runs, and answers none while Redis is away."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scripts: list[str] = []
        self.is_away = False

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        self.scripts.append(name)
        if self.is_away:
            raise StoreUnavailable("ConnectionError")
        return await super().script(name, tag, *args)


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def tasks(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[TaskStore]:
    store = TaskStore(request.param(opener(redis_url)), POLICY, now_ms=clock)
    yield store
    await store.aclose()


def later(task_id: str = "t1", delay_s: float = DELAY_S, *, expiry: Moment | None = None, **changes: Any) -> NewTask:
    return replace(LATER, id=task_id, timing=Timing(Moment("create", round(delay_s * 1000)), expiry), **changes)


async def begin_all(tasks: TaskStore) -> list[str]:
    """The tasks that got a slot when all was started that was due."""
    granted = [each for number in range(PARTITIONS) for each in await tasks.starts.begin(number)]
    return granted_ids(granted)


def granted_ids(granted: list[Granted]) -> list[str]:
    return [grant.task_id for each in granted for grant in each.grants]


async def sweep(tasks: TaskStore) -> list[Swept]:
    return [swept async for swept in tasks.sweep()]


async def known(tasks: TaskStore, task_id: str = "t1") -> Task:
    task = await tasks.get(task_id)
    assert task is not None
    return task


async def test_a_task_to_start_later_stands_apart_until_then(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    created = await store.create(LATER)
    assert isinstance(created, Created)
    assert created.task == await store.get("t1")
    assert created.task.start == Start(START_MS + 300_000, is_ahead=True)
    kept = text("""
        t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q300 l60 dispatch body=text/plain:5 z0 T300
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:delayed t1@0
        due t1@300
        starts t1@300
        delayed_paths /v1/a
    """)
    assert world(redis_server) == kept
    clock.advance(299.999)
    assert await sweep_all(store) == []
    [next_in_s] = [
        started.next_in_s
        for started in [await store.starts.start_due(number) for number in range(PARTITIONS)]
        if started.next_in_s is not None
    ]
    assert next_in_s == 0.001
    assert world(redis_server) == kept


@pytest.mark.parametrize("by", ["start", "sweep"])
async def test_a_task_starts_at_its_time_and_is_then_as_old_as_that(
    open_store: StoreFactory, clock: Clock, redis_server: Server, by: str
) -> None:
    store = open_store()
    await steps.start_due(store, clock)
    if by == "start":
        assert (await store.starts.start_due(partition("t1"))).tasks == [await store.get("t1")]
    else:
        assert [(item.what, item.id) for item in await sweep_all(store)] == [("starts", "t1")]
    assert world(redis_server, {"t1": (315, 330)}) == text("""
        t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q300 l60 dispatch body=text/plain:5 z1 T300
          +0 created a1 client 'created'
        b:t1 hello
        z:/v1/a:again t1@0
        z:/v1/a:since t1@300
        due t1@315..330
        paths /v1/a
    """)
    assert await store.starts.start_due(partition("t1")) == ([], None)
    task = await steps.known(store)
    assert (task.start, task.is_delayed, task.is_queued) == (Start(START_MS + 300_000, is_ahead=False), False, True)
    clock.advance(7)
    assert await store.queries.depths() == {PATH: Depth(created=1, oldest_waiting_ms=7_000)}
    await steps.claim(store)


@pytest.mark.parametrize(
    ("asked", "starts_s"),
    [(Moment("create", 0), 0), (Moment("epoch", START_MS - 9), 0), (Moment("epoch", START_MS + 9), 0.009)],
)
async def test_a_start_may_be_named_as_a_time_and_one_that_is_over_means_now(
    open_store: StoreFactory, clock: Clock, asked: Moment, starts_s: float
) -> None:
    store = open_store()
    created = await store.create(replace(steps.HELLO, timing=Timing(asked)))
    assert isinstance(created, Created)
    assert created.task.start == Start(START_MS + round(starts_s * 1000), is_ahead=True)
    assert created.task == await store.get("t1")
    clock.advance(starts_s)
    assert [task.id for task in (await store.starts.start_due(partition("t1"))).tasks] == ["t1"]


async def test_a_delayed_task_enters_its_queue_when_it_starts_and_not_before(tasks: TaskStore, clock: Clock) -> None:
    created = await tasks.create(later())
    assert isinstance(created, Created)
    assert (granted_ids([*created.granted]), created.position) == ([], None)
    assert (await tasks.queues.status(PATH)).waiting == 0
    assert await tasks.queues.depths() == {PATH: Depth(delayed=1)}
    clock.advance(DELAY_S - 0.001)
    assert await begin_all(tasks) == []
    assert granted_ids([each for swept in await sweep(tasks) for each in swept.granted]) == []
    clock.advance(0.001)
    assert await begin_all(tasks) == ["t1"]
    assert (await tasks.queues.status(PATH)).holding == 1
    claimed = await tasks.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    totals = await tasks.series.totals([PATH])
    assert totals[PATH].counts["created"] == 1


async def test_a_start_that_nobody_woke_for_is_found_by_a_round(tasks: TaskStore, clock: Clock) -> None:
    await tasks.create(later())
    clock.advance(DELAY_S + 3)
    assert granted_ids([each for swept in await sweep(tasks) for each in swept.granted]) == ["t1"]
    assert await begin_all(tasks) == []


async def test_what_is_due_after_an_outage_goes_in_the_order_in_which_it_was_due(
    tasks: TaskStore, clock: Clock
) -> None:
    await tasks.queues.configure(PATH, {"limit": 1})
    delays_s = {f"t{number}": 10 + 37 * number % 60 for number in range(60)}
    for task_id, delay_s in delays_s.items():
        await tasks.create(later(task_id, delay_s))
    clock.advance(100)
    created = await tasks.create(replace(steps.HELLO, id="new"))
    assert isinstance(created, Created)
    assert await begin_all(tasks) == []
    granted, order = [*created.granted], list[str]()  # it has the slot, and came later than they were due
    while grants := [(each, grant) for each in granted for grant in each.grants]:
        [(one, grant)] = grants
        order.append(grant.task_id)
        claimed = await tasks.claim_granted(one, grant)
        assert isinstance(claimed, Claimed)
        await tasks.accept(claimed.task)
        ended = await tasks.update(grant.task_id, state=State.COMPLETED, status="completed", attempt=1)
        granted = [*ended.granted]
    assert order == ["new", *sorted(delays_s, key=lambda task_id: delays_s[task_id])]


async def test_nothing_claims_a_task_before_its_start(tasks: TaskStore, clock: Clock, redis_server: Server) -> None:
    """Neither an event, nor a queue entry of a former task of the same id, which is then taken out."""
    await tasks.create(later())
    refused = await tasks.claim("t1", 1)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.STATE
    queues = QueueSteps(tasks._link, POLICY, now_ms=clock)
    granted = await queues.enqueue([QueueEntry.of(await known(tasks))])
    assert granted_ids([granted]) == ["t1"]
    refused = await tasks.claim_granted(granted, SlotGrant("t1", 1))
    assert isinstance(refused, Refused)
    assert (refused.reason, (await known(tasks)).state) == (Refusal.STATE, State.CREATED)
    clock.advance(60)
    [checked] = await tasks._upkeep.check_slots(PATH, [("t1", 1)])
    assert checked.what == "gone"
    assert await tasks._upkeep.idle_entries(PATH, [SlotGrant("t1", 1)]) == [SlotGrant("t1", 1)]
    World(redis_server).assert_consistent()


async def test_a_cancelled_task_never_starts(tasks: TaskStore, clock: Clock, redis_server: Server) -> None:
    await tasks.create(later())
    cancelled = await tasks.cancel("t1")
    assert isinstance(cancelled, Applied)
    assert cancelled.task.state is State.CANCELLED
    World(redis_server).assert_consistent()
    assert await tasks.queues.depths() == {PATH: Depth(cancelled=1)}
    clock.advance(DELAY_S)
    assert await begin_all(tasks) == []


async def test_a_report_of_a_delayed_task_is_believed_and_another_path_leaves_it_delayed(
    tasks: TaskStore, clock: Clock, redis_server: Server
) -> None:
    await tasks.create(later())
    moved = await tasks.update("t1", state=None, status="soon", path="/v1/b")
    assert isinstance(moved, Applied)
    assert granted_ids([*moved.granted]) == []
    World(redis_server).assert_consistent()
    assert await tasks.queues.depths() == {"/v1/b": Depth(delayed=1)}
    await tasks.update("t1", state=State.RUNNING, status="running")
    World(redis_server).assert_consistent()
    assert await tasks.queues.depths() == {"/v1/b": Depth(running=1)}
    assert not (await known(tasks)).is_delayed


async def test_a_replay_starts_at_once(tasks: TaskStore) -> None:
    await tasks.create(later())
    await tasks.update("t1", state=State.FAILED, status="failed")
    replayed = await tasks.replay("t1")
    assert isinstance(replayed, Applied)
    assert granted_ids([*replayed.granted]) == ["t1"]
    assert replayed.task.start == Start(START_MS + 300_000, is_ahead=False)


async def test_a_failed_attempt_waits_apart_and_is_not_delayed(tasks: TaskStore, clock: Clock) -> None:
    await tasks.create(later())
    clock.advance(DELAY_S)
    assert await begin_all(tasks) == ["t1"]
    claimed = await tasks.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    await tasks._tasks.requeue(claimed.task, status="Retrying", failed=True)
    assert not (await known(tasks)).is_delayed
    assert (await tasks.queues.depths())[PATH].delayed == 0


async def test_the_delay_is_before_the_first_step_of_a_pipeline(tasks: TaskStore, clock: Clock) -> None:
    pipeline = (PipelineStep(PATH, "", 60), PipelineStep("/v1/b", "", 60))
    await tasks.create(later(steps=pipeline, pipeline="/v1/whole"))
    assert await tasks.queues.depths("/v1/whole", PATH) == {"/v1/whole": Depth(delayed=1), PATH: Depth(delayed=1)}
    clock.advance(DELAY_S)
    assert await begin_all(tasks) == ["t1"]
    claimed = await tasks.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    await tasks.accept(claimed.task)
    outcome = await tasks.update("t1", state=State.COMPLETED, status="completed", attempt=1)
    assert isinstance(outcome, Applied)
    assert (outcome.task.path, granted_ids([*outcome.granted])) == ("/v1/b", ["t1"])


async def test_a_delayed_child_holds_its_batch_open(tasks: TaskStore, clock: Clock) -> None:
    await tasks.batches.create(NewBatch("b"))
    assert isinstance(await tasks.create(later(batch="b")), Created)
    await tasks.batches.seal("b", None)
    batch = (await known(tasks, "b")).children
    assert batch is not None
    assert (batch.total, batch.ended) == (1, 0)
    clock.advance(DELAY_S)
    assert await begin_all(tasks) == ["t1"]
    assert (await known(tasks, "b")).state is State.CREATED


async def test_a_draining_queue_refuses_a_delayed_task_and_still_starts_others(
    tasks: TaskStore, clock: Clock
) -> None:
    assert isinstance(await tasks.create(later("taken")), Created)
    await tasks.queues.configure(PATH, {"paused": True, "draining": True})
    assert isinstance(await tasks.create(later("late")), Draining)
    assert await tasks.get("late") is None
    clock.advance(DELAY_S)
    await begin_all(tasks)
    assert (await tasks.queues.status(PATH)).waiting == 1


async def test_lists_have_delayed_tasks_among_the_created_ones_and_alone(tasks: TaskStore, clock: Clock) -> None:
    async def listed(**filters: Any) -> list[str]:
        return [task.id for task in (await tasks.page(Listing(limit=10, **filters))).tasks]

    await tasks.create(later("t1"))
    clock.advance(1)
    await tasks.create(replace(steps.HELLO, id="t2"))
    clock.advance(1)
    await tasks.create(later("t3", path="/v1/b"))
    assert await listed() == ["t3", "t2", "t1"]
    assert await listed(states=[State.CREATED]) == ["t3", "t2", "t1"]
    assert await listed(delayed=True) == ["t3", "t1"]
    assert await listed(delayed=True, path=PATH) == ["t1"]
    clock.advance(DELAY_S)
    await begin_all(tasks)
    assert await listed(delayed=True) == []
    assert await listed(states=[State.CREATED]) == ["t3", "t2", "t1"]


async def test_a_path_with_nothing_but_delayed_tasks_costs_rounds_nothing_and_is_known(tasks: TaskStore) -> None:
    await tasks.create(later())
    assert await tasks.queues.paths_to_maintain() == set()
    assert await tasks.queues.paths_to_maintain() == set()
    assert await tasks.queues.paths() == {PATH}
    assert await tasks.queues.paths(has_open=True) == set()


# What earlier versions of the app do with such tasks, which know nothing of them


def by_an_earlier_version(server: Server, task_id: str, state: str, checks: int) -> None:
    """A process of an earlier version takes a step: it leaves what it does not know as it is."""
    script = """
        local rec = cmsgpack.unpack(redis.call('GET', KEYS[1] .. 't:' .. ARGV[1]))
        rec.s, rec.z = ARGV[2], tonumber(ARGV[3])
        redis.call('SET', KEYS[1] .. 't:' .. ARGV[1], cmsgpack.pack(rec))
        redis.call('ZADD', KEYS[1] .. 'z:/v1/a:' .. (ARGV[2] == 'created' and 'again' or ARGV[2]), rec.c, ARGV[1])
        redis.call('SADD', KEYS[1] .. 'paths', rec.p)
    """
    tag = "{" + tag_of(task_id) + "}"
    for node in nodes(server):
        with node.connect() as client, suppress(Exception):
            client.eval(script, 1, tag, task_id, state, str(checks))


async def test_what_an_earlier_version_has_started_or_ended_is_listed_once_and_mended(
    tasks: TaskStore, clock: Clock, redis_server: Server
) -> None:
    for task_id in ("t1", "t2"):
        await tasks.create(later(task_id))
    by_an_earlier_version(redis_server, "t1", "created", 1)
    by_an_earlier_version(redis_server, "t2", "cancelled", 0)
    page = await tasks.page(Listing(limit=10))
    assert sorted(task.id for task in page.tasks) == ["t1", "t2"]
    clock.advance(DELAY_S)
    assert await begin_all(tasks) == []
    depth = (await tasks.queues.depths())[PATH]
    assert (depth.created, depth.cancelled, depth.delayed) == (1, 1, 0)
    assert World(redis_server).starts_s == {}


async def test_a_deadline_that_is_too_early_starts_nothing(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    await steps.delayed(store, clock)
    before = world(redis_server)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in client.scan_iter("*}due"):
                client.zadd(key, {"t1": clock()})
    assert await sweep_all(store) == []
    assert world(redis_server) == before


# Waking


Act = Callable[[TaskStore, list[tuple[int, float]]], Awaitable[None]]


async def woken_with(redis_url: str, clock: Clock, act: Act, link: RedisLink | None = None) -> None:
    store = TaskStore(link or RedisLink(opener(redis_url)), POLICY, now_ms=clock)
    woken: list[tuple[int, float]] = []
    store.starts.wake = lambda number, in_s: woken.append((number, in_s))
    await act(store, woken)
    await store.aclose()


async def test_who_stores_a_task_wakes_for_it_unless_rounds_learn_of_it_before(redis_url: str, clock: Clock) -> None:
    async def act(store: TaskStore, woken: list[tuple[int, float]]) -> None:
        await store.create(later("t1", 10))
        await store.create(later("t2", 12))
        await store.create(replace(steps.HELLO, id="t3"))
        assert woken == [(partition("t1"), 10)]

    await woken_with(redis_url, clock, act)


async def test_a_round_wakes_for_the_first_start_of_each_partition_that_the_next_one_may_be_late_for(
    redis_url: str, clock: Clock
) -> None:
    async def act(store: TaskStore, woken: list[tuple[int, float]]) -> None:
        await store.create(later("t1", 20))
        await store.create(later("t1-", 1000))
        await sweep(store)
        assert woken == []
        clock.advance(9)
        await sweep(store)
        assert woken == [(partition("t1"), 11)]
        clock.advance(11)
        woken.clear()
        await store.create(later("t2-", 5))
        assert granted_ids(await store.starts.begin(partition("t1"))) == ["t1"]
        assert woken == [(partition("t2-"), 5)]

    await woken_with(redis_url, clock, act)


async def test_a_wake_up_goes_on_until_nothing_is_due(redis_url: str, clock: Clock) -> None:
    async def act(store: TaskStore, woken: list[tuple[int, float]]) -> None:
        ids = [name for name in (f"t{number}" for number in range(2_000)) if partition(name) == 3]
        assert len(ids) > 64
        await asyncio.gather(*(store.create(later(task_id, 60)) for task_id in ids))
        clock.advance(60)
        await store.starts.begin(3)
        assert (await store.queues.depths())[PATH] == Depth(created=len(ids))
        assert woken == []

    await woken_with(redis_url, clock, act)


async def test_while_redis_is_away_it_is_asked_each_second_and_nothing_is_asked_while_nothing_is_due(
    redis_url: str, clock: Clock
) -> None:
    link = CountingLink(opener(redis_url))

    async def act(store: TaskStore, woken: list[tuple[int, float]]) -> None:
        link.is_away = True
        assert await store.starts.begin(5) == []
        assert woken == [(5, 1.0)]
        link.is_away = False
        woken.clear()
        await store.starts.begin(5)
        assert woken == []
        assert link.scripts == ["task/start"] * 2
        store.starts.look()
        assert woken == [(number, 0) for number in range(PARTITIONS)]

    await woken_with(redis_url, clock, act, link)


async def test_the_wait_of_a_delayed_task_begins_with_its_start(tasks: TaskStore, clock: Clock) -> None:
    await tasks.create(later())
    clock.advance(DELAY_S)
    await begin_all(tasks)
    clock.advance(4)
    claimed = await tasks.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    await tasks.accept(claimed.task)
    clock.advance(2)
    outcome = await tasks.update("t1", state=State.COMPLETED, status="completed", attempt=1)
    assert isinstance(outcome, Applied)
    ending = ending_of(outcome.task)
    assert (ending.wait_ms, ending.run_ms) == (4_000, 2_000)
