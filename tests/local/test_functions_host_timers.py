"""Timers of the development host, driven by a clock that the test moves."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest

from local.functions_host import FunctionsHost, ManualClock, create_host
from tests.local.functions_host_apps import KEYS

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


def timer_host(
    clock: ManualClock,
    handler: Callable[..., Any],
    schedule: str,
    *,
    retry: dict[str, str] | None = None,
    **options: bool,
) -> FunctionsHost:
    app = func.FunctionApp()
    decorated = app.timer_trigger(arg_name="timer", schedule=schedule, **options)(handler)
    if retry:
        app.retry(**retry)(decorated)
    return create_host(app, keys=KEYS, clock=clock)


class Record:
    """A timer function that records when it ran, in seconds past noon, and whether it was past due."""

    def __init__(self, clock: ManualClock) -> None:
        self.runs: list[float] = []
        self.past_due_runs: list[float] = []
        self._clock = clock

    async def tick(self, timer: func.TimerRequest) -> None:
        at = (self._clock.now() - NOON).total_seconds()
        self.runs.append(at)
        if timer.past_due:
            self.past_due_runs.append(at)


async def test_timer_fires_by_its_schedule_and_no_sooner(clock: ManualClock) -> None:
    record = Record(clock)
    async with timer_host(clock, record.tick, "*/30 * * * * *"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(seconds=29))
        assert record.runs == []
        await clock.advance(timedelta(seconds=61))
        assert record.runs == [30, 60, 90]
    assert record.past_due_runs == []


async def test_interval_counts_from_the_start_of_the_previous_run(clock: ManualClock) -> None:
    record = Record(clock)
    async with timer_host(clock, record.tick, "00:01:30"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(minutes=3))
    assert record.runs == [90, 180]


async def test_sync_timer_function_runs_in_a_thread(clock: ManualClock) -> None:
    record = Record(clock)

    def tick(timer: func.TimerRequest) -> None:
        asyncio.run(record.tick(timer))

    async with timer_host(clock, tick, "0 * * * * *"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(minutes=2))
    assert record.runs == [60, 120]


async def test_run_on_startup_fires_at_once_and_then_by_the_schedule(clock: ManualClock) -> None:
    record = Record(clock)
    async with timer_host(clock, record.tick, "0 * * * * *", run_on_startup=True):
        await clock.until_asleep(1)
        assert record.runs == [0]
        await clock.advance(timedelta(minutes=1))
    assert record.runs == [0, 60]


async def test_long_run_is_not_overlapped_and_missed_times_fire_once_past_due(
    clock: ManualClock,
) -> None:
    record, running = Record(clock), 0

    async def tick(timer: func.TimerRequest) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await record.tick(timer)
        if len(record.runs) == 1:
            clock.jump(timedelta(seconds=45))
        running -= 1

    async with timer_host(clock, tick, "*/10 * * * * *"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(seconds=60))
    assert record.runs == [10, 55, 60]
    assert record.past_due_runs == [55]


async def test_timer_request_says_when_it_ran_last_and_when_it_is_due_next(clock: ManualClock) -> None:
    statuses: list[dict[str, str]] = []

    async def tick(timer: func.TimerRequest) -> None:
        statuses.append(timer.schedule_status)

    async with timer_host(clock, tick, "0 * * * * *"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(minutes=2))
    assert [(status["Last"], status["Next"]) for status in statuses] == [
        ("0001-01-01T00:00:00+00:00", "2026-11-20T12:01:00+00:00"),
        ("2026-11-20T12:01:00+00:00", "2026-11-20T12:02:00+00:00"),
    ]


@pytest.mark.parametrize(
    ("retry", "runs"),
    [
        (None, [3600]),
        ({"strategy": "fixed_delay", "max_retry_count": "2", "delay_interval": "00:00:10"}, [3600, 3610, 3620]),
        (
            {
                "strategy": "exponential_backoff",
                "max_retry_count": "4",
                "minimum_interval": "00:00:05",
                "maximum_interval": "00:00:15",
            },
            [3600, 3605, 3615, 3630, 3645],
        ),
        (
            {"strategy": "fixed_delay", "max_retry_count": "-1", "delay_interval": "00:10:00"},
            [3600, 4200, 4800, 5400],
        ),
    ],
)
async def test_failed_run_is_retried_by_its_policy(
    clock: ManualClock, retry: dict[str, str] | None, runs: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    record, retries = Record(clock), []

    async def tick(timer: func.TimerRequest, context: func.Context) -> None:
        await record.tick(timer)
        retries.append((context.retry_context.retry_count, context.retry_context.exception is not None))
        raise RuntimeError("down")

    async with timer_host(clock, tick, "0 0 * * * *", retry=retry):
        await clock.until_asleep(1)
        await clock.advance(timedelta(minutes=90))
    assert record.runs == runs
    assert retries == [(count, count > 0) for count in range(len(runs))]
    failures = [record for record in caplog.records if record.name == "local.functions_host"]
    assert len(failures) == len(runs)


async def test_successful_run_is_not_retried(clock: ManualClock) -> None:
    record = Record(clock)

    async def tick(timer: func.TimerRequest) -> None:
        await record.tick(timer)
        if len(record.runs) == 1:
            raise RuntimeError("down")

    policy = {"strategy": "fixed_delay", "max_retry_count": "5", "delay_interval": "00:00:01"}
    async with timer_host(clock, tick, "0 0 * * * *", retry=policy):
        await clock.until_asleep(1)
        await clock.advance(timedelta(hours=2))
    assert record.runs == [3600, 3601, 7200]


async def test_timer_function_that_returns_a_value_has_failed(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def tick(timer: func.TimerRequest):
        return "something"

    async with timer_host(clock, tick, "0 * * * * *"):
        await clock.until_asleep(1)
        await clock.advance(timedelta(minutes=1))
    assert "a function without a $return binding returned str" in caplog.text


async def test_a_disabled_timer_does_not_run(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(clock)
    monkeypatch.setenv("AzureWebJobs.tick.Disabled", "1")
    async with timer_host(clock, record.tick, "0 * * * * *", run_on_startup=True):
        await clock.advance(timedelta(minutes=5))
    assert record.runs == []


async def test_host_stop_stops_timers_and_waits_for_the_current_run(clock: ManualClock) -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def tick(timer: func.TimerRequest) -> None:
        begun.set()
        await may_end.wait()
        ended.set()

    host = timer_host(clock, tick, "0 * * * * *", run_on_startup=True)
    async with host:
        await begun.wait()
        asyncio.get_running_loop().call_soon(may_end.set)
    assert ended.is_set()
    await clock.advance(timedelta(minutes=5))
