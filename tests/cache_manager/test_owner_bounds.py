"""What one owner may have, with the reconciler: it finds whose slots are held."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cache_manager.reconciler import reconcile
from shared.tasks.outcomes import Claimed, Created, SlotGrant
from shared.tasks.task import Content, NewTask
from tests.cache_manager.process import REPUBLISH_S, Process
from tests.shared.store.conftest import Clock
from tests.shared.store.world import Server, nodes

PATH = "/v1/a"
HARD = {"in_flight": 1, "hard": True}


@pytest.fixture
async def bounded(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, per_owner=HARD)
    yield process
    await process.services.dispatcher.aclose()
    await process.link.aclose()


async def begin(process: Process, task_id: str, owner: str) -> None:
    """Create a task; if it gets a slot, let the backend accept it."""
    body = Content("text/plain", 2)
    created = await process.store.create(NewTask(task_id, PATH, 600, owner=owner, body=body, inline_body=b"hi"))
    assert isinstance(created, Created)
    for granted in created.granted:
        for grant in granted.grants:
            claimed = await process.store.claim_granted(granted, grant)
            assert isinstance(claimed, Claimed)
            process.dispatcher.dispatch_granted(await process.store.accept(claimed.task))


def lose_holders(server: Server) -> None:
    for node in nodes(server):
        with node.connect() as client:
            for key in client.scan_iter("*}qb:*"):
                client.delete(key)


async def test_the_reconciler_finds_whose_slots_are_held(
    bounded: Process, clock: Clock, redis_server: Server
) -> None:
    await begin(bounded, "t0", "a")
    lose_holders(redis_server)
    clock.advance(REPUBLISH_S / 10)
    await reconcile(bounded.services)
    await begin(bounded, "t1", "a")
    await begin(bounded, "t2", "b")
    status = await bounded.queues.status(PATH)
    assert (status.holding, status.waiting) == (2, 1)
    assert not await bounded.queue_steps.holds(PATH, SlotGrant("t1", 1))


async def test_the_reconciler_finds_what_was_in_flight_before_there_was_a_bound(
    bounded: Process, clock: Clock, redis_url: str
) -> None:
    before = Process.start(redis_url, clock)
    for number in range(3):
        await begin(before, f"t{number}", "a")
    await reconcile(bounded.services)
    await begin(bounded, "late", "a")
    await begin(bounded, "other", "b")
    held = {task_id for task_id in ("late", "other") if await bounded.queue_steps.holds(PATH, SlotGrant(task_id, 1))}
    assert held == {"other"}
    await before.services.dispatcher.aclose()
    await before.link.aclose()
