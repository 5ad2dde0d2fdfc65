"""Timer schedules: NCRONTAB as the host reads it, and time spans."""

import logging
from datetime import UTC, datetime, timedelta

import azure.functions as func
import pytest

from local.functions_host import ManualClock, create_host
from local.functions_host.schedules import parse_schedule, parse_time_span
from tests.local.functions_host_apps import KEYS

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)  # a Friday


def next_times(written: str, count: int, **settings: str) -> list[str]:
    schedule = parse_schedule(written, settings)
    times, time = [], NOW
    for _ in range(count):
        time = schedule.next_after(time)
        assert time.tzinfo is not None
        times.append(time.strftime("%a %m-%d %H:%M:%S"))
    return times


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("* * * * * *", ["Fri 11-20 10:00:01", "Fri 11-20 10:00:02"]),
        ("*/30 * * * * *", ["Fri 11-20 10:00:30", "Fri 11-20 10:01:00"]),
        ("0 */5 * * * *", ["Fri 11-20 10:05:00", "Fri 11-20 10:10:00"]),
        ("  0   0  *  * *  * ", ["Fri 11-20 11:00:00", "Fri 11-20 12:00:00"]),
        ("15,45 0 12 * * *", ["Fri 11-20 12:00:15", "Fri 11-20 12:00:45"]),
        ("0 50/4 * * * *", ["Fri 11-20 10:50:00", "Fri 11-20 10:54:00", "Fri 11-20 10:58:00", "Fri 11-20 11:50:00"]),
        ("0 10-20/5 * * * *", ["Fri 11-20 10:10:00", "Fri 11-20 10:15:00", "Fri 11-20 10:20:00"]),
        ("0 0 9 * * MON-FRI", ["Mon 11-23 09:00:00", "Tue 11-24 09:00:00"]),
        ("0 0 9 * * monday,Thurs", ["Mon 11-23 09:00:00", "Thu 11-26 09:00:00"]),
        ("0 0 0 * * 0", ["Sun 11-22 00:00:00", "Sun 11-29 00:00:00"]),
        ("0 0 0 1 Jan,decem *", ["Tue 12-01 00:00:00", "Fri 01-01 00:00:00"]),
        # Day and weekday must both match: the next Friday the 13th, not the next 13th or Friday.
        ("0 0 0 13 * 5", ["Fri 08-13 00:00:00"]),
        # NCRONTAB swaps the ends of a range that runs backwards.
        ("0 0 14-12 * * *", ["Fri 11-20 12:00:00", "Fri 11-20 13:00:00", "Fri 11-20 14:00:00", "Sat 11-21 12:00:00"]),
        ("0 7/20 * * * *", ["Fri 11-20 10:07:00", "Fri 11-20 10:27:00", "Fri 11-20 10:47:00", "Fri 11-20 11:07:00"]),
        # A step of 0 is a step of 1.
        ("*/0 * * * * *", ["Fri 11-20 10:00:01", "Fri 11-20 10:00:02"]),
        ("0 0 1-2/0 * * *", ["Sat 11-21 01:00:00", "Sat 11-21 02:00:00", "Sun 11-22 01:00:00"]),
        # Five fields begin with the minute.
        ("*/5 * * * *", ["Fri 11-20 10:05:00", "Fri 11-20 10:10:00"]),
        ("30 9 * * Mo", ["Mon 11-23 09:30:00", "Mon 11-30 09:30:00"]),
        ("00:01:30", ["Fri 11-20 10:01:30", "Fri 11-20 10:03:00"]),
        ("1.00:00:00", ["Sat 11-21 10:00:00"]),
    ],
)
def test_schedule_is_due_at_the_same_times_as_in_the_real_host(written: str, expected: list[str]) -> None:
    assert next_times(written, len(expected)) == expected


def test_app_settings_are_substituted_in_schedules() -> None:
    assert next_times("%SCHEDULE%", 1, SCHEDULE="0 30 * * * *") == ["Fri 11-20 10:30:00"]
    assert next_times("0 %MINUTE% * * * *", 1, MINUTE="45") == ["Fri 11-20 10:45:00"]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("%SCHEDULE%", "the setting SCHEDULE is not set"),
        ("", "is neither an NCRONTAB expression of five or six fields nor hh:mm:ss"),
        ("*/5 * * *", "is neither"),
        ("0 0 0 * * * *", "is neither"),
        ("@hourly", "is neither"),
        ("24:00:00", "is neither"),
        ("00:00:00", "is no time at all"),
        ("60 * * * * *", "'60' is no second from 0 to 59"),
        ("* * 24 * * *", "'24' is no hour from 0 to 23"),
        ("* * * 0 * *", "'0' is no day from 1 to 31"),
        ("* * * * 13 *", "'13' is no month from 1 to 12"),
        ("* * * * * 7", "'7' is no weekday from 0 to 6"),
        ("* * * L * *", "'L' is no day"),
        ("* * * 15W * *", "'15W' is no day"),
        ("* * * * * 5#2", "'5#2' is no weekday"),
        ("* * * * * 5L", "'5L' is no weekday"),
        ("* * * ? * *", r"'\?' is no day"),
        ("* * * * Foo *", "'Foo' is no month"),
        ("1,,2 * * * * *", "'' is no second"),
        ("*/x * * * * *", "has no step"),
    ],
)
def test_schedule_that_the_real_host_refuses_is_refused(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_schedule(written, {})


def test_five_fields_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parse_schedule("0 */5 * * * *", {})
    assert caplog.messages == []
    parse_schedule("*/5 * * * *", {})
    assert caplog.messages == [
        "The schedule '*/5 * * * *' has five fields: its first one is the minute, not the second"
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_timer_whose_date_never_comes_starts_and_does_not_run() -> None:
    app, clock = func.FunctionApp(), ManualClock(NOW)

    @app.timer_trigger(arg_name="timer", schedule="0 0 0 31 2 *")
    async def tick(timer: func.TimerRequest) -> None:
        raise AssertionError

    async with create_host(app, keys=KEYS, clock=clock):
        await clock.until_asleep(1)
        await clock.advance(timedelta(days=100 * 365))


def test_time_spans_are_parsed_as_in_dot_net() -> None:
    assert parse_time_span("00:05:00") == timedelta(minutes=5)
    assert parse_time_span("2.03:04:05.5") == timedelta(days=2, hours=3, minutes=4, seconds=5.5)
    for text in ("5", "-00:05:00", "24:00:00", "00:60:00", "00:05"):
        with pytest.raises(ValueError, match="not a time span"):
            parse_time_span(text)
