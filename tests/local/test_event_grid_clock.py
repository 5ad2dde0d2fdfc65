"""The emulator's time."""

import asyncio
import time

import pytest

from local.event_grid.clock import ManualClock, ScaledClock, to_iso


async def test_manual_clock_wakes_sleepers_when_their_time_comes():
    clock = ManualClock()
    start_s = clock.now()
    woken: list[int] = []

    async def sleep(delay_s: int) -> None:
        await clock.sleep_until(start_s + delay_s)
        woken.append(delay_s)

    sleepers = [asyncio.create_task(sleep(delay_s)) for delay_s in (86_400, 10, 3600)]
    await asyncio.sleep(0)
    clock.advance(9.999)
    assert not any(sleeper.done() for sleeper in sleepers)
    clock.advance(3590.001)
    await asyncio.wait(sleepers[1:])
    assert sorted(woken) == [10, 3600]
    clock.advance(86_400)
    await sleepers[0]


async def test_sleep_until_a_past_time_returns_at_once():
    clock = ManualClock()
    await clock.sleep_until(clock.now())
    await ScaledClock().sleep_until(0)


async def test_answer_timeout_of_a_subscriber_follows_the_manual_clock():
    clock = ManualClock()

    async def wait() -> None:
        async with clock.answer_timeout(30):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    clock.advance(30)
    with pytest.raises(TimeoutError):
        await waiting


async def test_scaled_clock_starts_at_the_wall_clock_and_runs_faster():
    clock = ScaledClock(86_400_000)
    assert clock.now() >= time.time()
    await clock.sleep_until(clock.now() + 86_400)


def test_clock_starts_no_earlier_than_the_last_time_in_the_journal():
    assert ScaledClock(start_s=9e9).now() >= 9e9


def test_times_are_written_with_a_time_zone():
    assert to_iso(1_767_225_600.5) == "2026-01-01T00:00:00.500000Z"
