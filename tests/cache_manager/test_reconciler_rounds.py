"""The reconciler's rounds in the processes that are awake: one process at a time runs them, and nothing holds them
up."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace

from cache_manager import reconciler
from cache_manager.reconciler import keep_reconciling, reconcile
from shared.services import Services, ServicesByLoop
from shared.settings import Settings
from shared.store import RedisLink, StoreUnavailable
from shared.tasks.task import Content, NewTask, Task
from tests.cache_manager.process import POLICY, REPUBLISH_S, Process
from tests.shared.store.conftest import Clock, opener
from tests.waiting import PATIENCE_S

PATH = "/v1/test"
INTERVAL_S = POLICY.reconciler_interval_s


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await _tick()


async def _tick() -> None:
    await asyncio.sleep(0.01)


async def is_waiting(services: Services) -> bool:
    return (await services.store.queues.status(PATH)).waiting == 1


def settings_of(url: str, **more: str) -> Settings:
    return Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "RECONCILER_INTERVAL_S": "0.05",
            "REPUBLISH_S": "0.05",
            **more,
        }
    )


@pytest.fixture
async def first(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


@pytest.fixture
async def second(redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock)
    yield process
    await process.link.aclose()


async def test_a_process_takes_up_what_is_overdue_from_the_first_use_of_its_services_without_a_timer(
    redis_url: str,
) -> None:
    by_loop = ServicesByLoop(settings_of(redis_url))
    by_loop.keep_running(keep_reconciling)
    services = by_loop.current()
    await services.store.queues.configure(PATH, {"paused": True})
    await services.store.create_unqueued(NewTask("t1", PATH, lease_s=60))
    await eventually(partial(is_waiting, services))
    await services.aclose()


async def test_one_process_at_a_time_has_the_rounds_and_another_takes_over_within_two_intervals(
    first: Process, second: Process, clock: Clock
) -> None:
    for _ in range(5):
        assert await first.store.rounds.begin()
        clock.advance(0.6 * INTERVAL_S)
        assert not await second.store.rounds.begin()
        clock.advance(0.4 * INTERVAL_S)
    # The first one is killed when its round has begun.
    assert await first.store.rounds.begin()
    clock.advance(0.99 * INTERVAL_S)
    assert not await second.store.rounds.begin()
    clock.advance(INTERVAL_S)
    assert await second.store.rounds.begin()
    assert not await first.store.rounds.begin(), "it comes back"


async def test_a_clock_that_went_back_by_a_failover_does_not_stop_the_rounds(
    first: Process, second: Process, clock: Clock
) -> None:
    assert await first.store.rounds.begin()
    clock.advance(-3600)
    assert await second.store.rounds.begin()


async def test_a_frozen_process_that_goes_on_does_no_harm_beside_its_successor(
    first: Process, second: Process, clock: Clock
) -> None:
    await first.queues.configure(PATH, {"limit": 3})
    for number in range(40):
        body = Content("text/plain", 2)
        await first.store.create_unqueued(NewTask(f"t{number}", PATH, lease_s=60, body=body, inline_body=b"hi"))
    clock.advance(REPUBLISH_S)
    assert await first.store.rounds.begin()
    clock.advance(INTERVAL_S)
    assert await second.store.rounds.begin()

    counts = await asyncio.gather(reconcile(first.services), reconcile(second.services))

    assert sum(counts) == 40, "each overdue task is handed out once"
    accepted = [*await first.backend_accepts_all(), *await second.backend_accepts_all()]
    assert len(accepted) == len({*accepted}) == 3
    status = await first.queues.status(PATH)
    assert (status.holding, status.waiting) == (3, 37)


class LinkToOtherNodes(RedisLink):
    """A link on which the cluster node that knows whose rounds they are does not answer."""

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name.startswith("reconciler/"):
            raise StoreUnavailable("ConnectionError")
        return await super().script(name, tag, *args)


async def test_rounds_go_on_while_the_node_that_knows_whose_they_are_is_away(redis_url: str, clock: Clock) -> None:
    process = Process.start(redis_url, clock, link=LinkToOtherNodes(opener(redis_url)))
    assert await process.store.rounds.begin()
    assert await process.store.rounds.begin()
    await process.store.rounds.note_events(are_claimed=False)
    await process.link.aclose()


@pytest.mark.parametrize("error", [StoreUnavailable("ConnectionError"), ZeroDivisionError("a bug")], ids=type)
async def test_a_round_that_fails_is_logged_and_the_next_one_runs(
    redis_url: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    services = Services.compose(settings_of(redis_url))
    calls = 0

    async def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise error

    monkeypatch.setattr(services.store.queues, "paths_to_maintain", fail)
    rounds = services.run_beside(keep_reconciling(services))

    async def fails_again() -> bool:
        return calls > 2 or rounds.done()

    await eventually(fails_again)
    assert not rounds.done()
    await services.aclose()
    assert rounds.done()
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(failures) >= 2
    assert all(bool(record.exc_info) is isinstance(error, ZeroDivisionError) for record in failures)


async def test_what_is_overdue_does_not_wait_for_a_blob_storage_that_hangs(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "REMOVAL_PATIENCE_S", 0.01)
    services = Services.compose(settings_of(redis_url, RETENTION_S="0.05"))
    hanging = 0

    async def hang(task: Task) -> None:
        nonlocal hanging
        hanging += 1
        await asyncio.Event().wait()

    async def hangs() -> bool:
        return hanging > 0

    monkeypatch.setattr(services.bodies, "delete_all", hang)
    large = Content("text/plain", 100_000, "t-old/blob")
    await services.store.create_unqueued(NewTask("old", PATH, lease_s=60, body=large))
    await services.store.cancel("old")
    services.run_beside(keep_reconciling(services))
    await eventually(hangs)
    await services.store.queues.configure(PATH, {"paused": True})
    await services.store.create_unqueued(NewTask("new", PATH, lease_s=60))
    await eventually(partial(is_waiting, services))
    await services.aclose()


async def test_a_round_outlives_the_invocation_that_began_it_and_is_no_part_of_its_trace(redis_url: str) -> None:
    services = Services.compose(settings_of(redis_url))
    spans: list[trace.Span] = []

    async def look() -> None:
        spans.append(trace.get_current_span())

    invocation = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(invocation):
        await services.run_beside(look())
    assert [span.get_span_context().is_valid for span in spans] == [False]
    await services.aclose()


def test_a_process_that_ends_ends_its_rounds_without_noise(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def invoke() -> None:
        by_loop = ServicesByLoop(settings_of(redis_url, RECONCILER_INTERVAL_S="3600"))
        by_loop.keep_running(keep_reconciling)
        await by_loop.current().store.ping()

    asyncio.run(invoke())
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_work_that_is_closed_before_it_began_makes_no_noise(
    redis_url: str, recwarn: pytest.WarningsRecorder
) -> None:
    services = Services.compose(settings_of(redis_url))
    services.run_beside(keep_reconciling(services))
    await services.aclose()
    gc.collect()
    assert [*recwarn] == []
