"""Counts: queue depths, and the requests in flight at model services."""

from __future__ import annotations

import pytest

from shared.store.queries import Depth
from shared.tasks.task import NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.wire import Wire
from tests.shared.store.world import Server, world


async def test_the_depths_are_the_true_counts_by_path_and_state(store: Store, clock: Clock) -> None:
    assert await store.queries.depths() == {}
    number = 0
    for path, counts in {"/v1/a": (3, 2, 1, 4, 1, 0), "/v1/b:c": (0, 0, 0, 0, 0, 2)}.items():
        for state, count in zip(State, counts, strict=True):
            for _ in range(count):
                number += 1
                await store.create(NewTask(f"t{number}", path, 60, state=state, dispatch_requested=False))
                clock.advance(1)
    # The three waiting tasks of /v1/a were created first, at 0, 1 and 2 s; 13 creates took 13 s.
    depths = {"/v1/a": Depth(3, 2, 1, 4, 1, 0, oldest_waiting_ms=13_000), "/v1/b:c": Depth(cancelled=2)}
    assert await store.queries.depths() == depths
    assert await store.queries.depths("/v1/a") == {"/v1/a": depths["/v1/a"]}
    assert await store.queries.depths("/v1/b:c") == {"/v1/b:c": depths["/v1/b:c"]}


async def test_an_unknown_path_has_depth_zero(store: Store) -> None:
    assert await store.queries.depths("/v1/unknown") == {"/v1/unknown": Depth()}


async def test_a_task_is_counted_once_from_its_creation_to_its_removal(store: Store, clock: Clock) -> None:
    async def count() -> dict[str, Depth]:
        return await store.queries.depths()

    await steps.created(store, clock)
    assert await count() == {"/v1/a": Depth(created=1, oldest_waiting_ms=1000)}
    await steps.claim(store)
    assert await count() == {"/v1/a": Depth(dispatched=1)}
    await store.update("t1", state=State.RUNNING, status="running")
    assert await count() == {"/v1/a": Depth(running=1)}
    await store.next_step("t1", status="created", path="/v1/b")
    assert await count() == {"/v1/b": Depth(created=1)}
    await store.update("t1", state=State.FAILED, status="failed", attempt=2)
    assert await count() == {"/v1/b": Depth(failed=1)}
    await store.purge(["t1"])
    assert await count() == {}


async def test_a_retried_task_is_as_old_as_before(store: Store, clock: Clock) -> None:
    await store.create(steps.HELLO)
    clock.advance(10)
    await store.requeue(await steps.claim(store), status="Retrying", apart_s=1, failed=True)
    clock.advance(10)
    assert (await store.queries.depths())["/v1/a"].oldest_waiting_ms == 20_000


async def test_a_clock_that_goes_back_makes_no_negative_age(store: Store, clock: Clock) -> None:
    await store.create(steps.HELLO)
    clock.advance(-10)
    assert (await store.queries.depths())["/v1/a"].oldest_waiting_ms == 0


async def test_reports_of_requests_add_up_by_cluster_and_path(store: Store, redis_server: Server) -> None:
    assert world(redis_server) == ""
    assert await store.request_counts.count("aks", "/v1/a") is None
    assert await store.request_counts.report("aks", "/v1/a", 3) == 3
    assert await store.request_counts.report("aks", "/v1/a", -1) == 2
    assert await store.request_counts.report("aks", "/v1/b", 0) == 0
    assert await store.request_counts.report("batch", "/v1/a", 7) == 7
    assert world(redis_server) == "requests aks /v1/a = 2\nrequests aks /v1/b = 0\nrequests batch /v1/a = 7"
    assert [
        await store.request_counts.count("aks", "/v1/a"),
        await store.request_counts.count("aks", "/v1/b"),
        await store.request_counts.count("batch", "/v1/a"),
        await store.request_counts.count("batch", "/v1/b"),
    ] == [2, 0, 7, None]


async def test_a_count_never_shows_less_than_zero_and_late_reports_still_count(store: Store) -> None:
    assert await store.request_counts.report("aks", "/v1/a", -1) == 0
    assert await store.request_counts.count("aks", "/v1/a") == 0
    assert await store.request_counts.report("aks", "/v1/a", 1) == 0
    assert await store.request_counts.report("aks", "/v1/a", 1) == 1


@pytest.mark.parametrize("others", [1, 20])
async def test_a_report_repeated_after_reports_of_others_still_counts_once(
    open_store: StoreFactory, wire: Wire, others: int
) -> None:
    """A failover breaks the connections of all reporters at once, and each of them repeats its report."""
    first, second = open_store(url=wire.url), open_store()
    await first.request_counts.report("aks", "/v1/a", 5)
    report = wire.scripts[-1]
    for _ in range(others):
        await second.request_counts.report("aks", "/v1/a", 1)
    await second._link.script("requests/report", report[3].decode(), *report[4:])
    assert await second.request_counts.count("aks", "/v1/a") == 5 + others
