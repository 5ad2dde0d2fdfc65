"""Combined steps: a step of a task and of its queue in one script on a single server, in two on a cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from local.redis_server import RedisCluster, RedisServer
from shared.store.queue_steps import QueueSteps
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import unpack
from shared.store.upkeep_steps import UpkeepSteps
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import (
    Applied,
    Claimed,
    Created,
    Draining,
    Existing,
    Full,
    Granted,
    Outcome,
    Refusal,
    Refused,
    SlotGrant,
)
from shared.tasks.task import Content, NewTask, State, Task
from tests.shared.store.conftest import POLICY, Clock, LifeSteps, RepeatingLink, opener
from tests.shared.store.steps import sweep_all
from tests.shared.store.wire import Wire
from tests.shared.store.world import Server, World, nodes, tag_of

PATH = "/v1/a"
HELLO = NewTask("t1", PATH, 60, body=Content("text/plain", 5), inline_body=b"hello")


@dataclass(frozen=True)
class Process:
    store: LifeSteps
    queues: QueueSteps
    link: RedisLink

    @classmethod
    def at(cls, url: str, clock: Clock, *, repeating: bool = False, limit: int | None = 2) -> Process:
        link = (RepeatingLink if repeating else RedisLink)(opener(url))
        queues = QueueSteps(link, replace(POLICY, max_backlog=3), lambda path: limit, clock)
        return cls(LifeSteps(link, POLICY, clock, queues), queues, link)

    @classmethod
    async def full(cls, url: str, clock: Clock) -> Process:
        """A process whose backend holds held0 to held2, while t0 to t2 wait."""
        process = cls.at(url, clock, limit=3)
        await process.learn(clock, 3)
        for number in range(3):
            await process.store.create_and_enqueue(new(f"t{number}"))
        return process

    async def learn(self, clock: Clock, slots: int = 2) -> list[Task]:
        """Let the backend accept *slots* tasks that do not end."""
        held: list[Task] = []
        for number in range(slots):
            created = await self.store.create_and_enqueue(new(f"held{number}"))
            assert isinstance(created, Created)
            claimed = await self.store.claim(f"held{number}", 1)
            assert isinstance(claimed, Claimed)
            await self.store.accepted(claimed.task)
            held.append(claimed.task)
            clock.advance(1)
        return held


@pytest.fixture(scope="module")
def single_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(single_server: RedisServer) -> RedisServer:
    """An empty single server, even if other tests use a cluster."""
    single_server.flush()
    return single_server


@pytest.fixture(params=[False, True], ids=["once", "each-script-twice"])
async def process(request: pytest.FixtureRequest, server: RedisServer, clock: Clock) -> AsyncIterator[Process]:
    process = Process.at(server.url, clock, repeating=request.param)
    yield process
    await process.link.aclose()


def new(task_id: str, **changes: object) -> NewTask:
    return replace(HELLO, id=task_id, **changes)  # pyright: ignore[reportArgumentType]


def granted_of(outcome: Outcome | Created | Existing | Full | Draining | None) -> Granted:
    assert isinstance(outcome, Created | Applied | Refused)
    (granted,) = outcome.granted
    return granted


async def state_of(process: Process, task_id: str) -> tuple[State, int] | None:
    task = await process.store.get(task_id)
    return task and (task.state, task.attempt)


# A new task


async def test_a_new_task_is_stored_and_holds_a_slot_or_waits(process: Process, clock: Clock) -> None:
    first = await process.store.create_and_enqueue(new("t1"))
    second = await process.store.create_and_enqueue(new("t2"))
    assert granted_of(first).grants == [SlotGrant("t1", 1)]
    assert granted_of(second).grants == []
    assert isinstance(first, Created)
    assert isinstance(second, Created)
    assert first.position is None
    assert second.position
    assert (second.position.ahead, second.position.slots) == (0, 1)
    assert (first.task, second.task) == (await process.store.get("t1"), await process.store.get("t2"))
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (1, 1)


async def test_the_outcome_of_a_create_holds_the_stored_task(process: Process, clock: Clock) -> None:
    full = new(
        "t1",
        status="s" * 300,
        query="a=1",
        body=Content("text/plain", 5, "blob"),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        owner="ann",
        fingerprint="f",
        priority=0,
    )
    undispatched = new("t2", state=State.RUNNING, dispatch_requested=False, body=None)
    for task in (full, undispatched):
        for create in (process.store.create, process.store.create_and_enqueue):
            created = await create(replace(task, id=f"{task.id}-{create.__name__}"))
            assert isinstance(created, Created)
            assert created.task == await process.store.get(created.task.id)


async def test_a_new_task_replaces_a_body_whose_record_was_lost(process: Process, server: RedisServer) -> None:
    await process.store.create(new("t1"))
    with server.connect() as client:
        client.delete("{" + tag_of("t1") + "}t:t1")
    created = await process.store.create(new("t1", inline_body=b"other"))
    assert isinstance(created, Created)
    assert created.task == await process.store.get("t1")
    claimed = await process.store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    assert claimed.inline_body == b"other"


async def test_tasks_of_the_same_millisecond_are_granted_in_order_of_arrival(
    server: RedisServer, clock: Clock
) -> None:
    process = Process.at(server.url, clock, limit=1)
    await process.learn(clock, 1)
    positions: list[int] = []
    for task_id in ("c", "a", "b"):
        created = await process.store.create_and_enqueue(new(task_id))
        assert isinstance(created, Created)
        assert created.position
        positions.append(created.position.ahead)
    assert positions == [0, 1, 2]
    order: list[str] = []
    last = "held0"
    for _ in positions:
        outcome = await process.store.update(last, state=State.COMPLETED, status="done")
        ((grant,),) = [granted_of(outcome).grants]
        order.append(last := grant.task_id)
    assert order == ["c", "a", "b"]
    await process.link.aclose()


async def test_an_id_in_use_gets_no_second_queue_entry(process: Process, clock: Clock) -> None:
    await process.learn(clock)
    await process.store.create_and_enqueue(new("t1"))
    before = await process.queues.status(PATH)
    clock.advance(1)
    repeated = await process.store.create_and_enqueue(new("t1", path="/v1/b", status="other"))
    assert repeated == Existing(await process.store.get("t1"))  # type: ignore[arg-type]
    assert await process.queues.status(PATH) == before
    elsewhere = await process.queues.status("/v1/b")
    assert (elsewhere.waiting, elsewhere.holding) == (0, 0)


async def test_a_task_that_its_queue_refuses_leaves_nothing_behind(
    process: Process, clock: Clock, server: RedisServer
) -> None:
    await process.learn(clock)
    for number in range(3):
        assert isinstance(await process.store.create_and_enqueue(new(f"t{number}")), Created)
    before = str(World(server))
    assert isinstance(await process.store.create_and_enqueue(new("late")), Full)
    await process.queues.configure(PATH, {"draining": True})
    assert isinstance(await process.store.create_and_enqueue(new("late")), Draining)
    assert str(World(server)) == before


# The end of a task


async def test_the_end_of_a_task_grants_its_slot_and_claims_the_next_task(process: Process, clock: Clock) -> None:
    await process.learn(clock)
    for number in range(2):
        await process.store.create_and_enqueue(new(f"t{number}"))
        clock.advance(1)
    outcome = await process.store.update("held0", state=State.COMPLETED, status="done", attempt=1)
    assert isinstance(outcome, Applied)
    assert outcome.task.state == "completed"
    granted = granted_of(outcome)
    assert granted.grants == [SlotGrant("t0", 1)]
    claimed = granted.claims[SlotGrant("t0", 1)]
    assert claimed == Claimed(await process.store.get("t0"), b"hello")  # type: ignore[arg-type]
    assert claimed.task
    assert (claimed.task.state, claimed.task.publishes) == ("dispatched", 1)
    assert await state_of(process, "t1") == ("created", 1)
    status = await process.queues.status(PATH, await process.store.get("t1"))
    assert (status.holding, status.waiting) == (2, 1)
    assert status.position
    assert status.position.service_s == 7, "the task that ended held its slot for 7 s"


async def test_a_claimed_task_gets_a_new_attempt_if_its_dispatch_is_never_recorded(
    process: Process, clock: Clock
) -> None:
    await process.learn(clock)
    await process.store.create_and_enqueue(new("t1"))
    await process.store.cancel("held0")
    assert await state_of(process, "t1") == ("dispatched", 1)
    clock.advance(POLICY.dispatch_window_s - 0.001)
    await sweep_all(UpkeepSteps(process.link, POLICY, clock))
    assert await state_of(process, "t1") == ("dispatched", 1)
    clock.advance(0.001)
    await sweep_all(UpkeepSteps(process.link, POLICY, clock))
    assert await state_of(process, "t1") == ("created", 2)


@pytest.mark.parametrize("end", ["failed", "cancelled", "given up"])
async def test_however_a_task_ends_its_slot_is_granted(process: Process, clock: Clock, end: str) -> None:
    held = await process.learn(clock)
    await process.store.create_and_enqueue(new("t1"))
    if end == "given up":
        refused = await process.store.fail_dispatch(
            replace(held[0], attempt=7), status="gone", reason=EndReason.REJECTED
        )
        assert isinstance(refused, Refused)
        assert refused.granted == (), "the end of another attempt releases no slot"
        outcome = await process.store.update("held0", state=State.FAILED, status="gone", reason=EndReason.REJECTED)
    elif end == "cancelled":
        outcome = await process.store.cancel("held0")
    else:
        outcome = await process.store.update("held0", state=State.FAILED, status="bad")
    assert granted_of(outcome).grants == [SlotGrant("t1", 1)]


async def test_a_step_that_ends_no_task_does_not_change_the_queue(process: Process, clock: Clock) -> None:
    await process.learn(clock)
    await process.store.create_and_enqueue(new("t1"))
    running = await process.store.update("held0", state=State.RUNNING, status="running")
    stale = await process.store.update("held0", state=State.COMPLETED, status="done", attempt=3)
    unknown = await process.store.update("unknown", state=State.COMPLETED, status="done")
    assert isinstance(running, Applied)
    assert isinstance(stale, Refused)
    assert isinstance(unknown, Refused)
    assert (running.granted, stale.granted, unknown.granted) == ((), (), ())
    assert (stale.reason, unknown.reason) == (Refusal.STALE, Refusal.UNKNOWN)
    assert await state_of(process, "t1") == ("created", 1)


async def test_a_granted_task_that_cannot_be_claimed_is_reported(server: RedisServer, clock: Clock) -> None:
    process = Process.at(server.url, clock)
    await process.learn(clock)
    await process.store.create_and_enqueue(new("t1"))
    without_queue = LifeSteps(process.link, POLICY, clock)
    await without_queue.cancel("t1")
    granted = granted_of(await process.store.update("held0", state=State.COMPLETED, status="done"))
    claim = granted.claims[SlotGrant("t1", 1)]
    assert isinstance(claim, Refused)
    assert claim.task
    assert (claim.reason, claim.task.state) == (Refusal.FINISHED, "cancelled")
    await process.link.aclose()


async def test_an_acceptance_starts_the_next_probe_and_claims_its_task(process: Process, clock: Clock) -> None:
    await process.queues.configure(PATH, {"limit": 9})
    for number in range(3):
        await process.store.create_and_enqueue(new(f"t{number}"))
    claimed = await process.store.claim("t0", 1)
    assert isinstance(claimed, Claimed)
    granted = granted_of(await process.store.accepted(claimed.task))
    assert granted.grants == [SlotGrant("t1", 1)]
    assert isinstance(granted.claims[SlotGrant("t1", 1)], Claimed)
    assert (await process.queues.status(PATH)).slots == 1
    assert await state_of(process, "t2") == ("created", 1)


async def test_the_configured_limit_holds_in_a_process_that_has_not_seen_the_endpoint(
    server: RedisServer, clock: Clock
) -> None:
    process = Process.at(server.url, clock, limit=1)
    await process.learn(clock, slots=1)
    for number in range(3):
        await process.store.create_and_enqueue(new(f"t{number}"))
    # Another process gets a report before it has seen the endpoint.
    other = Process.at(server.url, clock, limit=1)
    granted = granted_of(await other.store.update("held0", state=State.COMPLETED, status="done"))
    assert granted.grants == [SlotGrant("t0", 1)]
    with server.connect() as client:
        client.delete("{" + tag_of(PATH) + "}q:" + PATH)
    granted = granted_of(await other.store.update("t0", state=State.COMPLETED, status="done"))
    assert granted.grants == [], "the limit is lost, so no slot is granted until a process sends it"
    assert (await process.queues.grant_free_slots(PATH)).grants == [SlotGrant("t1", 1)]
    for each in (process, other):
        await each.link.aclose()


# Lost answers


@pytest.fixture
async def cut_wire(server: RedisServer) -> AsyncIterator[Wire]:
    async with Wire([server.port]) as wire:
        yield wire


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_an_end_whose_answer_is_lost_grants_its_slot_once_and_reports_the_grant(
    server: RedisServer, cut_wire: Wire, clock: Clock, lost: str
) -> None:
    plain = Process.at(server.url, clock)
    process = Process.at(cut_wire.url, clock)
    await plain.learn(clock)
    for number in range(3):
        await plain.store.create_and_enqueue(new(f"t{number}"))
    await process.link.ping()
    cut_wire.lose_requests, cut_wire.lose_answers = int(lost == "request"), int(lost == "answer")
    outcome = await process.store.update("held0", state=State.COMPLETED, status="done", attempt=1)
    assert (cut_wire.lose_requests, cut_wire.lose_answers) == (0, 0)
    granted = granted_of(outcome)
    assert granted.grants == [SlotGrant("t0", 1)]
    assert isinstance(granted.claims[SlotGrant("t0", 1)], Claimed)
    assert [await state_of(plain, f"t{n}") for n in range(3)] == [("dispatched", 1), ("created", 1), ("created", 1)]
    status = await plain.queues.status(PATH)
    assert (status.holding, status.waiting) == (2, 2)
    for each in (process, plain):
        await each.link.aclose()


# Steps of the same moment

PATHS = (PATH, "/v1/b")
Batch = list[tuple[Any, ...]]
"""Steps of one moment: either all are creates, or none is."""
creates = st.tuples(
    st.just("create"),
    st.integers(0, 9),
    st.sampled_from(PATHS),
    st.sampled_from(["", "ann", "ben"]),
    st.integers(4, 6),
)
steps = st.tuples(st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED, "accepted"]), st.integers(0, 9))
batches = st.lists(st.one_of(st.lists(creates, min_size=1), st.lists(steps, min_size=1)), max_size=8)


def numbered(number: int) -> str:
    return f"t{number}"


async def carry_out(process: Process, step: tuple[Any, ...], task: Task | None) -> object:
    what, number, *rest = step
    if what == "create":
        path, owner, priority = rest
        return await process.store.create_and_enqueue(
            new(numbered(number), path=path, owner=owner, priority=priority)
        )
    if what == "accepted":
        return task and await process.store.accepted(task)
    return await process.store.update(numbered(number), state=what, status="done")


def picture(server: RedisServer) -> dict[bytes, object]:
    """All keys and values, except for the order in which Lua packs a map."""
    found: dict[bytes, object] = {}
    with SyncRedis(port=server.port) as client:
        for key in cast("list[bytes]", client.keys()):
            kind = cast("bytes", client.type(key))
            if kind == b"zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            elif kind == b"set":
                found[key] = client.smembers(key)
            else:
                raw = cast("bytes", client.get(key))
                found[key] = raw if b"}b:" in key else unpack(raw)
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches)
async def test_steps_in_one_script_have_the_same_effects_and_outcomes_as_one_by_one(
    server: RedisServer, batches: list[Batch]
) -> None:
    seen: list[tuple[object, object]] = []
    for together in (True, False):
        server.flush()
        clock = Clock()
        process = Process.at(server.url, clock)
        random.seed(1)  # makes the operation ids the same
        outcomes: list[object] = []
        for batch in batches:
            tasks = [await process.store.get(numbered(step[1])) for step in batch]
            work = [carry_out(process, step, task) for step, task in zip(batch, tasks, strict=True)]
            outcomes += await asyncio.gather(*work) if together else [await each for each in work]
            clock.advance(1)
        seen.append((outcomes, picture(server)))
        await process.link.aclose()
    assert seen[0] == seen[1]


async def test_steps_of_one_moment_go_in_one_script(server: RedisServer, cut_wire: Wire, clock: Clock) -> None:
    process = Process.at(cut_wire.url, clock)
    await process.learn(clock)
    begun = len(cut_wire.scripts)
    await asyncio.gather(*(process.store.create_and_enqueue(new(f"t{number}")) for number in range(3)))
    ends = [process.store.update(f"held{n}", state=State.COMPLETED, status="done") for n in range(2)]
    outcomes = await asyncio.gather(*ends)
    assert len(cut_wire.scripts) == begun + 2
    assert [granted_of(outcome).grants for outcome in outcomes] == [[SlotGrant("t0", 1)], [SlotGrant("t1", 1)]]
    await process.link.aclose()


async def test_an_error_of_one_step_does_not_affect_the_others_in_its_script(
    server: RedisServer, cut_wire: Wire, clock: Clock
) -> None:
    process = await Process.full(cut_wire.url, clock)
    with server.connect() as client:
        damaged = "{" + tag_of("held1") + "}t:held1"
        client.delete(damaged)
        client.rpush(damaged, "not a record")
    loss = (await process.queues.maintain(PATH)).loss
    begun = len(cut_wire.scripts)
    first, second, third = await asyncio.gather(
        *(process.store.update(f"held{n}", state=State.COMPLETED, status="done") for n in range(3)),
        return_exceptions=True,
    )
    assert len(cut_wire.scripts) == begun + 1
    assert isinstance(second, StoreUnavailable)
    assert [granted_of(cast("Applied", outcome)).grants for outcome in (first, third)] == [
        [SlotGrant("t0", 1)],
        [SlotGrant("t1", 1)],
    ]
    assert (await process.queues.maintain(PATH)).loss == loss, "the steps have kept the queue consistent"
    status = await process.queues.status(PATH)
    assert (status.holding, status.waiting) == (3, 1)
    await process.link.aclose()


async def test_if_the_answer_to_several_ends_is_lost_each_grants_its_slot_once(
    server: RedisServer, cut_wire: Wire, clock: Clock
) -> None:
    process = await Process.full(cut_wire.url, clock)
    cut_wire.lose_answers = 1
    outcomes = await asyncio.gather(
        *(process.store.update(f"held{n}", state=State.COMPLETED, status="done") for n in range(3))
    )
    assert cut_wire.lose_answers == 0
    reported = [granted_of(outcome).grants for outcome in outcomes]
    assert reported == [[SlotGrant(f"t{n}", 1)] for n in range(3)]
    assert [await state_of(process, f"t{n}") for n in range(3)] == [("dispatched", 1)] * 3
    await process.link.aclose()


# Partitions on several servers


async def test_no_combined_step_is_sent_after_a_cluster_has_refused_one(
    server: RedisServer, cut_wire: Wire, clock: Clock
) -> None:
    process = Process.at(cut_wire.url, clock)
    await process.link.ping()
    cut_wire.forged_answer = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
    assert await process.store.create_and_enqueue(new("t1")) is None
    cut_wire.forged_answer = None
    sent = len(cut_wire.scripts)
    assert await process.store.create_and_enqueue(new("t1")) is None
    assert len(cut_wire.scripts) == sent
    await process.store.create(new("t1"))
    outcome = await process.store.cancel("t1")
    assert isinstance(outcome, Applied)
    assert outcome.granted == ()
    await process.link.aclose()


async def test_a_cluster_node_refuses_a_combined_step_before_any_change(
    redis_server: Server, redis_url: str, clock: Clock
) -> None:
    if not isinstance(redis_server, RedisCluster):
        pytest.skip("a single server has all partitions: run with BACKBONE_TEST_REDIS=cluster")
    node = redis_server.nodes[0]

    async def as_behind_a_proxy() -> Redis:
        return Redis(port=node.port)

    link = RedisLink(as_behind_a_proxy)
    queues = QueueSteps(link, POLICY, lambda path: None, clock)
    store = LifeSteps(link, POLICY, clock, queues)
    elsewhere = next(task_id for n in range(99) if tag_of(task_id := f"t{n}") != tag_of(PATH))
    assert await store.create_and_enqueue(new(elsewhere)) is None
    assert str(World(redis_server)) == ""
    await link.aclose()


async def test_no_combined_step_is_sent_to_a_cluster(redis_server: Server, wire: Wire, clock: Clock) -> None:
    process = Process.at(wire.url, clock)
    created = await process.store.create_and_enqueue(new("t1"))
    assert (created is None) == isinstance(redis_server, RedisCluster)
    if created is None:
        assert not wire.scripts
        assert World(redis_server).records == {}
    assert len(nodes(redis_server)) == (3 if created is None else 1)
    await process.link.aclose()
