"""What a caller can do with a task, the owner's rights, and the publishing of completions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.store.queries import PAGE_BYTES, Depth, Listing, Page
from shared.tasks.outcomes import Applied, Outcome, Refusal, Refused
from shared.tasks.task import Content, NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.policies import store_policy
from tests.shared.store.steps import HELLO, known, sweep_all
from tests.shared.store.world import Server, text, world

PUBLISHING = replace(POLICY, publish_completions=True)


def refusal(outcome: Outcome) -> Refusal | None:
    return outcome.reason if isinstance(outcome, Refused) else None


@pytest.mark.parametrize("given", [steps.created, steps.dispatched, steps.running], ids=lambda given: given.__name__)
async def test_a_cancelled_task_leaves_its_queue_and_is_kept_for_its_retention(
    given: steps.Given, store: Store, clock: Clock
) -> None:
    await given(store, clock)
    outcome = await store.cancel("t1")
    assert isinstance(outcome, Applied)
    assert (outcome.task.state, outcome.task.status) == (State.CANCELLED, "Cancelled")
    assert (await store.queries.depths())["/v1/a"].cancelled == 1
    clock.advance(999)
    await sweep_all(store)
    assert (await known(store)).state is State.CANCELLED
    clock.advance(1)
    await sweep_all(store)
    assert await store.get("t1") is None


async def test_a_replay_begins_a_new_attempt_with_the_body_and_without_the_result(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.failed(store, clock)
    outcome = await store.replay("t1")
    assert isinstance(outcome, Applied)
    assert outcome.is_transition
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a2 f0 n1 v6 c0 m5 q5 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +4 failed a1 client 'failed'
          +5 created a2 client 'created' replay
        b:t1 hello
        z:/v1/a:again t1@0
        z:/v1/a:since t1@5
        due t1@35
        paths /v1/a
    """)
    assert refusal(await store.update("t1", state=State.COMPLETED, status="late", attempt=1)) is Refusal.STALE


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (steps.nothing, Refusal.UNKNOWN),
        (steps.created, Refusal.STATE),
        (steps.dispatched, Refusal.STATE),
        (steps.running, Refusal.STATE),
        (steps.completed, Refusal.FINISHED),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_only_a_failed_task_can_be_replayed(
    given: steps.Given, reason: Refusal, store: Store, clock: Clock, redis_server: Server
) -> None:
    await given(store, clock)
    before = world(redis_server)
    assert refusal(await store.replay("t1")) is reason
    assert world(redis_server) == before


async def test_a_heartbeat_renews_the_lease_and_nothing_else(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    before = await known(store)
    clock.advance(50)
    assert isinstance(await store.heartbeat("t1", attempt=1), Applied)
    after = await known(store)
    assert replace(after, version=before.version, updated_ms=before.updated_ms) == before
    assert "due t1@113\n" in world(redis_server)


@pytest.mark.parametrize("name", ["cancel", "replay", "heartbeat", "update", "next_step", "put_result"])
async def test_a_step_for_another_owners_task_is_refused_as_unknown(
    name: str, store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(replace(HELLO, owner="alice"))
    await steps.claim(store)
    if name == "replay":
        await store.update("t1", state=State.FAILED, status="failed")
    take = {
        "cancel": lambda owner: store.cancel("t1", owner=owner),
        "replay": lambda owner: store.replay("t1", owner=owner),
        "heartbeat": lambda owner: store.heartbeat("t1", owner=owner),
        "update": lambda owner: store.update("t1", state=State.RUNNING, status="r", owner=owner),
        "next_step": lambda owner: store.next_step("t1", status="h", owner=owner),
        "put_result": lambda owner: store.put_result("t1", steps.RESULT, b"png", owner=owner),
    }[name]
    before = world(redis_server)
    for other in ("bob", "", "Alice"):
        outcome = await take(other)
        assert isinstance(outcome, Refused)
        assert (outcome.reason, outcome.task) == (Refusal.UNKNOWN, None)
    assert world(redis_server) == before
    assert isinstance(await take("alice"), Applied)


# Completion events


async def test_a_completion_is_published_again_until_it_is_marked_as_published(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store(PUBLISHING)
    await steps.running(store, clock)
    outcome = await store.update("t1", state=State.COMPLETED, status="done")
    assert isinstance(outcome, Applied)
    assert outcome.task.completion_unpublished
    clock.advance(30)
    assert [(item.what, item.id) for item in await sweep_all(store)] == [("completion", "t1")]
    assert await sweep_all(store) == []
    clock.advance(60)
    assert [item.what for item in await sweep_all(store)] == ["completion"]
    await store.mark_completions_published(["t1"])
    assert not (await known(store)).completion_unpublished
    clock.advance(1000 - 90 - 0.001)
    assert await sweep_all(store) == []
    clock.advance(0.001)
    assert [item.what for item in await sweep_all(store)] == ["purged"]


async def test_a_task_whose_completion_was_never_published_is_purged_after_its_retention(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store(PUBLISHING)
    await steps.created(store, clock)
    await store.cancel("t1")
    clock.advance(1000)
    assert [item.what for item in await sweep_all(store)] == ["purged"]


async def test_a_failure_found_by_the_sweep_needs_a_completion_event_too(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store(replace(PUBLISHING, max_attempts=1))
    await steps.running(store, clock)
    clock.advance(60)
    failed = [item.task for item in await sweep_all(store) if item.what == "failed"]
    assert [task.completion_unpublished for task in failed if task] == [True]


async def test_a_replayed_task_needs_a_completion_event_for_its_new_end_only(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store(PUBLISHING)
    await steps.failed(store, clock)
    await store.replay("t1")
    assert not (await known(store)).completion_unpublished
    await store.mark_completions_published(["t1"])
    assert (await known(store)).state is State.CREATED
    clock.advance(30)
    assert [item.what for item in await sweep_all(store)] == ["waits"]


# Lists


async def all_pages(store: Store, listing: Listing) -> list[Page]:
    pages = [await store.queries.page(listing)]
    while (following := pages[-1].next) is not None:
        pages.append(await store.queries.page(replace(listing, before=following)))
    return pages


def ids(pages: list[Page]) -> list[str]:
    return [task.id for page in pages for task in page.tasks]


async def test_tasks_of_the_same_millisecond_are_listed_once_each(store: Store) -> None:
    created = [f"task-{number}" for number in range(100)]
    for task_id in created:
        await store.create(NewTask(task_id, "/v1/a", 60))
    assert sorted(ids(await all_pages(store, Listing(7)))) == sorted(created)


async def test_a_page_reads_a_bounded_number_of_tasks_however_few_match(store: Store, clock: Clock) -> None:
    await store.create(NewTask("needle", "/v1/a", 60, owner="sewer"))
    for number in range(0, 12_000, 100):
        clock.advance(0.001)
        hay = (NewTask(f"hay-{number + more}", "/v1/a", 60) for more in range(100))
        await asyncio.gather(*map(store.create, hay))
    pages = await all_pages(store, Listing(10, path="/v1/a", owner="sewer"))
    assert ids(pages) == ["needle"]
    assert len(pages) > 1
    assert [page.tasks for page in pages[:-1]] == [[]] * (len(pages) - 1)


async def test_the_end_of_a_page_names_no_task_of_another_owner(store: Store, clock: Clock) -> None:
    for number in range(0, 6_000, 100):
        clock.advance(0.001)
        await store.create(NewTask(f"mine-{number}", "/v1/a", 60, owner="sewer"))
        hay = (NewTask(f"hay-{number + more}", "/v1/a", 60, owner="farmer") for more in range(100))
        await asyncio.gather(*map(store.create, hay))
    pages = await all_pages(store, Listing(60, path="/v1/a", owner="sewer"))
    assert sorted(ids(pages)) == sorted(f"mine-{number}" for number in range(0, 6_000, 100))
    ends = [page.next for page in pages if page.next]
    assert not [end for end in ends if end.id.startswith("hay")]
    assert [end for end in ends if not end.id]


async def test_a_page_ends_with_the_record_that_fills_it(store: Store) -> None:
    for number in range(100):
        await store.create(NewTask(f"task-{number}", "/v1/a", 60, status="x" * 65_000))
    pages = await all_pages(store, Listing(200))
    assert len(ids(pages)) == len(set(ids(pages))) == 100
    assert max(sum(len(task.status) for task in page.tasks) for page in pages) < PAGE_BYTES + 65_000
    assert all(page.tasks for page in pages)


async def test_after_a_next_step_a_task_is_listed_by_its_creation_and_waits_since_the_step(
    store: Store, clock: Clock
) -> None:
    for number in range(4):
        await store.create(NewTask(f"t{number}", "/v1/a", 60, body=Content("text/plain", 2), inline_body=b"hi"))
        clock.advance(10)
    await store.next_step("t1", status="created")
    clock.advance(5)
    for listing in (Listing(10), Listing(10, path="/v1/a"), Listing(10, states=[State.CREATED]), Listing(1)):
        assert ids(await all_pages(store, listing)) == ["t3", "t2", "t1", "t0"]
    assert (await store.queries.depths())["/v1/a"] == Depth(created=4, oldest_waiting_ms=45_000)
    for task_id in ("t0", "t2", "t3"):
        await store.cancel(task_id)
    assert (await store.queries.depths())["/v1/a"] == Depth(created=1, cancelled=3, oldest_waiting_ms=5_000)
    assert ids(await all_pages(store, Listing(10, states=[State.CREATED]))) == ["t1"]
    assert [
        [entry.grant.task_id for entry in page] async for page in store.queue_entries("/v1/a", State.CREATED)
    ] == [["t1"]]
    await store.claim("t1", 2)
    assert ids(await all_pages(store, Listing(10, states=[State.CREATED]))) == []
    assert (await store.queries.depths())["/v1/a"] == Depth(dispatched=1, cancelled=3)


async def test_a_purged_task_leaves_the_lists(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.completed(store, clock)
    clock.advance(1000)
    await sweep_all(store)
    assert ids(await all_pages(store, Listing(10))) == []
    assert world(redis_server) == ""


# Requests in flight, by instance


async def test_the_request_count_of_an_instance_lasts_as_long_as_it_reports(store: Store, clock: Clock) -> None:
    async def report(instance: str | None, delta: int) -> int:
        return await store.request_counts.report("aks", "/v1/a", delta, instance=instance, keep_s=90)

    assert await report("pod-1", 3) == 3
    clock.advance(60)
    assert await report("pod-2", 4) == 7
    assert await report(None, 1) == 8
    clock.advance(29.999)
    assert await store.request_counts.count("aks", "/v1/a") == 8
    clock.advance(0.001)
    assert await store.request_counts.count("aks", "/v1/a") == 5
    assert await report("pod-2", 0) == 5
    clock.advance(89.999)
    assert await store.request_counts.count("aks", "/v1/a") == 5
    clock.advance(0.001)
    assert await store.request_counts.count("aks", "/v1/a") == 1
    assert await report("pod-1", 1) == 2


async def test_the_request_count_of_an_instance_is_never_negative_and_never_reduces_anothers(store: Store) -> None:
    assert await store.request_counts.report("aks", "/v1/a", 2, instance="pod-1", keep_s=90) == 2
    assert await store.request_counts.report("aks", "/v1/a", -5, instance="pod-2", keep_s=90) == 2
    assert await store.request_counts.report("aks", "/v1/a", -5) == 2
    assert await store.request_counts.report("aks", "/v1/a", 1, instance="pod-2", keep_s=90) == 3


def test_by_default_no_completion_is_to_be_published() -> None:
    assert store_policy().completion_s == 0
