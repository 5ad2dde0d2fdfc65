"""Steps of several processes at the same time."""

from __future__ import annotations

import asyncio

import pytest

from shared.store.redis.partitions import PARTITIONS, partition
from shared.tasks.outcomes import Applied, Claimed, Created, Existing, Refusal, Refused
from shared.tasks.task import Content, NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.world import Server, World, world

PROCESSES = 8
IDS = [f"t{number}" for number in range(50)]


@pytest.fixture
async def processes(open_store: StoreFactory) -> list[Store]:
    """Stores with separate connections, all open."""
    stores = [open_store() for _ in range(PROCESSES)]
    await asyncio.gather(*(store.ping() for store in stores))
    return stores


async def create_all(store: Store) -> None:
    content = Content("text/plain", 5)
    await asyncio.gather(
        *(store.create(NewTask(id_, "/v1/a", 60, body=content, inline_body=b"hello")) for id_ in IDS)
    )


async def test_exactly_one_of_many_claims_of_an_attempt_succeeds(
    processes: list[Store], clock: Clock, redis_server: Server
) -> None:
    await create_all(processes[0])
    for task_id in IDS:
        outcomes = await asyncio.gather(*(store.claim(task_id, 1) for store in processes))
        winners = [outcome for outcome in outcomes if isinstance(outcome, Claimed)]
        losers = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
        assert [winner.inline_body for winner in winners] == [b"hello"]
        assert losers == [Refusal.STATE] * (PROCESSES - 1)
    depths = await processes[0].queries.depths()
    assert depths["/v1/a"].dispatched == len(IDS)
    World(redis_server).assert_consistent()


async def test_exactly_one_of_many_creates_of_an_id_succeeds_and_the_others_get_its_task(
    processes: list[Store], redis_server: Server
) -> None:
    for task_id in IDS[:20]:
        outcomes = await asyncio.gather(
            *(
                store.create(
                    NewTask(
                        task_id,
                        f"/v1/{number}",
                        60,
                        body=Content("text/plain", 1),
                        inline_body=str(number).encode(),
                    )
                )
                for number, store in enumerate(processes)
            )
        )
        (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Created)]
        assert sum(isinstance(outcome, Existing) for outcome in outcomes) == PROCESSES - 1
        assert {outcome.task.path for outcome in outcomes} == {f"/v1/{winner}"}
        claimed = await processes[0].claim(task_id, 1)
        assert isinstance(claimed, Claimed)
        assert claimed.inline_body == str(winner).encode()
    World(redis_server).assert_consistent()


async def test_a_next_step_prevails_over_a_simultaneous_update(processes: list[Store], redis_server: Server) -> None:
    await create_all(processes[0])
    one, other, *_ = processes
    outcomes = await asyncio.gather(
        *(
            step
            for task_id in IDS
            for step in (
                one.update(task_id, state=State.RUNNING, status="running", attempt=1),
                other.next_step(task_id, status="created", path="/v1/b", attempt=1),
            )
        )
    )
    updates, next_steps = outcomes[::2], outcomes[1::2]
    assert all(isinstance(step, Applied) for step in next_steps)
    assert all(isinstance(update, Applied) or update.reason is Refusal.STALE for update in updates)
    assert {(rec["s"], rec["p"], rec["a"]) for rec in World(redis_server).records.values()} == {
        ("created", "/v1/b", 2)
    }
    assert (await one.queries.depths()).keys() == {"/v1/b"}
    World(redis_server).assert_consistent()


async def test_exactly_one_of_two_simultaneous_ends_is_applied(processes: list[Store], redis_server: Server) -> None:
    await create_all(processes[0])
    one, other, *_ = processes
    outcomes = await asyncio.gather(
        *(
            step
            for task_id in IDS
            for step in (
                one.update(task_id, state=State.COMPLETED, status="completed"),
                other.update(task_id, state=State.CANCELLED, status="cancelled"),
            )
        )
    )
    ends: list[str] = []
    for pair in zip(outcomes[::2], outcomes[1::2], strict=True):
        (applied,) = [outcome for outcome in pair if isinstance(outcome, Applied)]
        (refused,) = [outcome for outcome in pair if isinstance(outcome, Refused)]
        assert refused == Refused(Refusal.FINISHED, applied.task)
        ends.append(applied.task.state)
    assert [World(redis_server).records[task_id]["s"] for task_id in IDS] == ends


@pytest.mark.parametrize("age_s", [30, 1000], ids=["waits", "purges"])
async def test_simultaneous_sweeps_give_each_overdue_task_to_exactly_one_reconciler(
    processes: list[Store], clock: Clock, redis_server: Server, age_s: float
) -> None:
    ids = [f"t{number}" for number in range(500)]
    finished = age_s == 1000
    state = State.COMPLETED if finished else State.CREATED
    await asyncio.gather(
        *(processes[0].create(NewTask(id_, "/v1/a", 60, state=state, dispatch_requested=not finished)) for id_ in ids)
    )
    clock.advance(age_s)
    found = await asyncio.gather(*(store.sweep(p, {}) for p in range(PARTITIONS) for store in processes[:3]))
    found_ids = [item.id for items in found for item in items]
    assert sorted(found_ids) == sorted(ids)
    assert world(redis_server, dict.fromkeys(ids, (45.0, 60.0))).count("45..60") == (0 if finished else len(ids))


async def test_a_report_at_the_end_of_a_lease_is_applied_or_a_new_attempt_begins(
    processes: list[Store], clock: Clock, redis_server: Server
) -> None:
    await steps.running(processes[0], clock)
    clock.advance(60)
    one, other, *_ = processes
    outcome, overdue = await asyncio.gather(
        one.update("t1", state=State.COMPLETED, status="completed", attempt=1), other.sweep(partition("t1"), {})
    )
    found_ids = [item.what for item in overdue]
    if isinstance(outcome, Applied):
        assert (outcome.task.state, found_ids) == (State.COMPLETED, [])
    else:
        assert (outcome.reason, found_ids) == (Refusal.STALE, ["retry"])
    World(redis_server).assert_consistent()


async def test_more_calls_than_connections_are_all_answered(open_store: StoreFactory) -> None:
    store = open_store()
    outcomes = await asyncio.gather(*(store.create(NewTask(f"t{number}", "/v1/a", 60)) for number in range(500)))
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert (await store.queries.depths())["/v1/a"].created == 500
