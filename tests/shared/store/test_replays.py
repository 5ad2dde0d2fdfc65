"""redis-py repeats a command whose answer was lost. Every step must have its effect once all the same."""

from __future__ import annotations

import pytest

from shared.tasks.outcomes import Claimed, Existing, Refusal, Refused
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import Step, each_step
from tests.shared.store.wire import Wire
from tests.shared.store.world import START_MS, Server, nodes, world

BY_CHANCE = {"t1": (0.0, 10_000.0)}


async def taken_undisturbed(step: Step, store: Store, clock: Clock, redis_server: Server) -> tuple[object, str, str]:
    """The outcome of the step, and the worlds before and after it. Leaves Redis empty."""
    task = await step.prepare(store, clock)
    before = world(redis_server)
    outcome = await step.take(store, task)
    after = world(redis_server, BY_CHANCE)
    redis_server.flush()
    clock.ms = START_MS
    return outcome, before, after


@each_step
@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_step_whose_connection_breaks_has_its_effect_once_and_the_same_outcome(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server, step: Step, lost: str
) -> None:
    plain = open_store()
    expected, before, after = await taken_undisturbed(step, plain, clock, redis_server)

    task = await step.prepare(plain, clock)
    assert world(redis_server) == before
    store = open_store(url=wire.url)
    await store.ping()
    wire.lose_requests = int(lost == "request")
    wire.lose_answers = int(lost == "answer")
    outcome = await step.take(store, task)

    assert (wire.lose_requests, wire.lose_answers) == (0, 0)
    assert len(wire.scripts) == 2
    assert wire.scripts[0] == wire.scripts[1]
    assert world(redis_server, BY_CHANCE) == after
    if step.answers_nothing_when_repeated and lost == "answer":
        assert not outcome
    else:
        assert outcome == expected


@each_step
async def test_a_step_succeeds_after_redis_has_flushed_its_scripts(
    open_store: StoreFactory, clock: Clock, redis_server: Server, step: Step
) -> None:
    store = open_store()
    expected, before, after = await taken_undisturbed(step, store, clock, redis_server)

    task = await step.prepare(store, clock)
    assert world(redis_server) == before
    for node in nodes(redis_server):
        with node.connect() as client:
            client.script_flush()
    assert await step.take(store, task) == expected
    assert world(redis_server, BY_CHANCE) == after


async def test_a_step_whose_answer_is_lost_twice_has_its_effect_once(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server
) -> None:
    store = open_store(url=wire.url)
    await store.request_counts.report("aks", "/v1/a", 1)
    wire.lose_answers = 2
    assert await store.request_counts.report("aks", "/v1/a", 1) == 2
    assert wire.lose_answers == 0
    assert world(redis_server) == "requests aks /v1/a = 2"


@pytest.mark.parametrize("name", ["get", "inline_result", "depths", "requests"])
async def test_a_query_whose_answer_is_lost_is_repeated(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server, name: str
) -> None:
    plain, store = open_store(), open_store(url=wire.url)
    await steps.with_result(plain, clock)
    await plain.request_counts.report("aks", "/v1/a", 2)
    before = world(redis_server)
    ask = {
        "get": lambda store: store.get("t1"),
        "inline_result": lambda store: store.inline_result("t1"),
        "depths": lambda store: store.queries.depths(),
        "requests": lambda store: store.request_counts.count("aks", "/v1/a"),
    }[name]
    expected = await ask(plain)
    assert expected
    await store.ping()
    wire.lose_answers = 1
    assert await ask(store) == expected
    assert wire.lose_answers == 0
    assert world(redis_server) == before


async def test_a_create_repeated_after_a_claim_finds_the_existing_task(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server
) -> None:
    store, other = open_store(url=wire.url), open_store()
    await store.create(steps.HELLO)
    await steps.claim(other)
    before = world(redis_server)
    repeated = await other._link.script("task/create", wire.scripts[-1][3].decode(), *wire.scripts[-1][4:])
    assert repeated[0] == b"exists"
    assert world(redis_server) == before
    assert isinstance(await store.create(steps.HELLO), Existing)


async def test_a_claim_repeated_after_the_outcome_was_recorded_is_refused(
    open_store: StoreFactory, wire: Wire, clock: Clock, redis_server: Server
) -> None:
    store = open_store(url=wire.url)
    await store.create(steps.HELLO)
    claimed = await store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    claim = wire.scripts[-1]
    for record, reason in (
        (lambda: store.accepted(claimed.task), Refusal.STATE),
        (lambda: store.requeue(claimed.task, status="Retrying", apart_s=1, failed=True), Refusal.STALE),
    ):
        await record()
        before = world(redis_server)
        repeated = await store._link.script("task/apply", claim[3].decode(), *claim[4:])
        assert repeated[0].decode() == reason
        assert world(redis_server) == before
    assert isinstance(await store.claim("t1", 1), Refused)
