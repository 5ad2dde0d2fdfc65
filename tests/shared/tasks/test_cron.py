"""When schedules are due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.tasks import cron
from shared.tasks.cron import BadCron, BadZone, DueTimes

BERLIN = "Europe/Berlin"
LORD_HOWE = "Australia/Lord_Howe"
NIGHTLY = "30 2 * * *"
DAY_MS = 86_400_000
NEW_YEAR_MS = round(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1000


def shown(times_ms: Sequence[int]) -> list[str]:
    moments = [datetime.fromtimestamp(each / 1000, UTC).strftime("%m-%dT%H:%M:%S") for each in times_ms]
    return [moment.removesuffix(":00") for moment in moments]


@pytest.mark.parametrize(
    ("expression", "zone", "first", "last", "expected"),
    [
        # The clocks go from 2:00 to 3:00, and leave out 2:30: at 3:00 then, once.
        (NIGHTLY, BERLIN, "2026-03-28T00:00Z", "2026-03-30T12:00Z", ["03-28T01:30", "03-29T01:00", "03-30T00:30"]),
        # They go back from 3:00 to 2:00, and show 2:30 twice: the first time.
        (NIGHTLY, BERLIN, "2026-10-24T00:00Z", "2026-10-26T12:00Z", ["10-24T00:30", "10-25T00:30", "10-26T01:30"]),
        # With seconds it is the same.
        ("0 30 2 * * *", BERLIN, "2026-03-28T12:00Z", "2026-03-30T12:00Z", ["03-29T01:00", "03-30T00:30"]),
        ("0 30 2 * * *", BERLIN, "2026-10-24T12:00Z", "2026-10-26T12:00Z", ["10-25T00:30", "10-26T01:30"]),
        ("5,50 30 2 * * *", BERLIN, "2026-10-24T12:00Z", "2026-10-25T12:00Z", ["10-25T00:30:05", "10-25T00:30:50"]),
        # Asked between the two.
        (NIGHTLY, BERLIN, "2026-10-25T00:45Z", "2026-10-26T12:00Z", ["10-26T01:30"]),
        # What the change brings to the same moment is due once.
        ("0,30 2 * * *", BERLIN, "2026-03-29T00:00Z", "2026-03-29T12:00Z", ["03-29T01:00"]),
        ("0 2,3 * * *", BERLIN, "2026-03-29T00:00Z", "2026-03-29T12:00Z", ["03-29T01:00"]),
        # On the other half of the earth, and by half an hour.
        ("15 2 * * *", LORD_HOWE, "2026-10-03T00:00Z", "2026-10-04T18:00Z", ["10-03T15:30", "10-04T15:15"]),
        # UTC has no such days.
        (NIGHTLY, "UTC", "2026-03-28T12:00Z", "2026-03-30T12:00Z", ["03-29T02:30", "03-30T02:30"]),
        # As crontabs are read.
        ("0 9 * * MON-FRI", "UTC", "2026-11-27T00:00Z", "2026-12-01T00:00Z", ["11-27T09:00", "11-30T09:00"]),
        ("0 0 L * *", "UTC", "2026-01-15T00:00Z", "2026-03-01T00:00Z", ["01-31T00:00", "02-28T00:00"]),
        ("*/30 * * * * *", "UTC", "2026-01-01T00:00Z", "2026-01-01T00:01Z", ["01-01T00:00:30", "01-01T00:01"]),
    ],
)
def test_a_schedule_is_due_by_the_clocks_of_its_place(
    expression: str, zone: str, first: str, last: str, expected: list[str]
) -> None:
    due = DueTimes.parse(expression, zone)
    assert shown(due.following(ms(first), 100, ms(last))) == expected


@pytest.mark.parametrize(
    ("expression", "day", "count"),
    [("*/30 * * * *", "2026-03-29", 46), ("*/30 * * * *", "2026-10-25", 50), ("0 * * * *", "2026-10-25", 25)],
)
def test_what_is_due_all_day_is_due_by_the_time_that_passes(expression: str, day: str, count: int) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN))
    first_ms = round(midnight.timestamp()) * 1000 - 1
    last_ms = round((midnight + timedelta(days=1)).timestamp()) * 1000 - 1
    due = DueTimes.parse(expression, BERLIN)
    assert len(due.following(first_ms, 1000, last_ms)) == count


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Sydney", LORD_HOWE, "Asia/Kolkata"])
def test_each_night_of_a_year_is_due_once(zone: str) -> None:
    place = ZoneInfo(zone)
    midnight_ms = round(datetime(2026, 1, 1, tzinfo=place).timestamp()) * 1000
    times = DueTimes.parse(NIGHTLY, zone).following(midnight_ms, 365)
    days = [datetime.fromtimestamp(each / 1000, place).date() for each in times]
    assert days == [datetime(2026, 1, 1, tzinfo=UTC).date() + timedelta(days=day) for day in range(365)]


@pytest.mark.parametrize(
    "expression",
    [
        *("", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 32 * *", "* * * 13 *", "* * * * 9"),
        *("*/0 * * * *", "5-1 * * * *", "a * * * *", "@daily or so", "* * * * 1L/2", "* * W * *", "L L L L L"),
        *("0 0 30 2 *", "0 0 31 4,6,9,11 *", "² * * * *", "* * * * *\n", "0\t0 * * *", "1" * 300 + " * * * *"),
        *("0 0 0 0 0 0", "- - - - -", ", , , , ,", "# # # # #", "/ / / / /"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(BadCron):
        DueTimes.parse(expression, "UTC")


@pytest.mark.parametrize(
    "zone", ["", "Berlin", "CEST", "../UTC", "/etc/passwd", "Europe", "europe/berlin", "a" * 9999, "\0"]
)
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadZone):
        DueTimes.parse(NIGHTLY, zone)


@settings(deadline=None)
@given(st.text(alphabet="*0123456789,-/#LW ABCDEFGHIJKLMNOPRSTUVY", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        due = DueTimes.parse(text, BERLIN)
    except BadCron:
        return
    times = [*due.following(ms("2026-03-28T00:00Z"), 3)]
    assert times == sorted(set(times))


def test_what_is_never_due_is_found_to_be_so() -> None:
    # A Monday that is the last one of its month, and the 1st or the 21st.
    assert DueTimes.parse("* * */20 * 1L", BERLIN).after(ms("2026-01-02T00:00Z")) is None


EXPRESSIONS = [
    *(NIGHTLY, "0,30 2 * * *", "*/15 * * * *", "0 * * * *", "5,50 30 2 * * *", "0 2,3 * * *", "*/20 */7 * * * *"),
    *("59 1-3 * * *", "30 1 * * SUN", "0 0 1 * *"),
]


@settings(deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from([BERLIN, "America/New_York", "UTC", "Asia/Kolkata", "Australia/Sydney"]),
    st.integers(0, 365 * 24 * 60),
    st.integers(0, 3 * 24 * 60),
    st.sampled_from([1, 3, 100]),
)
def test_the_last_times_are_the_same_one_by_one_and_counted_back(
    expression: str, zone: str, begin_min: int, length_min: int, most: int
) -> None:
    due = DueTimes.parse(expression, zone)
    first_ms = due.after(NEW_YEAR_MS + begin_min * 60_000)
    assert first_ms is not None
    until_ms = first_ms + length_min * 60_000
    expected = [first_ms, *due.following(first_ms, 100_000, until_ms)][-most:]
    assert [*due.passed(first_ms, until_ms, most)] == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cron, "_PASSED_ONE_BY_ONE", 0)
        assert [*due.passed(first_ms, until_ms, most)] == expected


def test_the_last_times_of_a_year_of_seconds_are_found_from_its_end() -> None:
    # One by one, these are 31 million steps.
    times = DueTimes.parse("* * * * * *", BERLIN).passed(NEW_YEAR_MS, NEW_YEAR_MS + 365 * DAY_MS, 100)
    assert [*times] == [NEW_YEAR_MS + 365 * DAY_MS - 1000 * back for back in range(99, -1, -1)]
