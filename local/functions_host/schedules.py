"""The schedules of timers: NCRONTAB expressions, and TimeSpan intervals such as `00:05:00`."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from croniter import CroniterBadDateError, croniter

_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When a schedule is due whose date does not come, such as the 31st of February."""
_log = logging.getLogger("local.functions_host")
_TIME_SPAN = re.compile(r"(?:(\d{1,8})\.)?([01]?\d|2[0-3]):([0-5]?\d):([0-5]?\d(?:\.\d{1,7})?)")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


class Schedule(Protocol):
    def next_after(self, moment: datetime) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Interval:
    length: timedelta

    def next_after(self, moment: datetime) -> datetime:
        return moment + self.length


@dataclass(frozen=True, slots=True)
class Cron:
    """Six cron fields of plain numbers, seconds first. Day and weekday must both match; in a crontab, one must."""

    expression: str

    def next_after(self, moment: datetime) -> datetime:
        try:
            return croniter(self.expression, moment, day_or=False, second_at_beginning=True).get_next(datetime)
        except CroniterBadDateError:
            return _NEVER


def parse_schedule(written: str, settings: Mapping[str, str]) -> Schedule:
    """Returns the schedule of a timer trigger, with its `%SETTING%`s filled in.

    Of five fields, the first is the minute, as in a crontab. The log warns of them: most who write five mean six.
    Raises `ValueError` with the reason if the host would refuse the schedule.
    """
    text = re.sub(r"%([^%]+)%", lambda match: _setting(match[1], settings), written)
    parts = text.split()
    if len(parts) == len(_FIELDS) - 1:
        _log.warning("The schedule %r has five fields: its first one is the minute, not the second", text)
        parts.insert(0, "0")
    if len(parts) != len(_FIELDS):
        try:
            length = parse_time_span(text.strip())
        except ValueError:
            raise ValueError(
                f"{text!r} is neither an NCRONTAB expression of five or six fields nor hh:mm:ss"
            ) from None
        if not length:
            raise ValueError(f"{text!r} is no time at all")
        return Interval(length)
    return Cron(" ".join(field.parse(part) for field, part in zip(_FIELDS, parts, strict=True)))


def parse_time_span(text: str) -> timedelta:
    """Parses a .NET TimeSpan, `[d.]hh:mm:ss[.fff]`. .NET reads hours above 23 as days; this function refuses them."""
    match = _TIME_SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time span of the form hh:mm:ss with hours below 24")
    days, hours, minutes, seconds = match.groups()
    return timedelta(days=int(days or 0), hours=int(hours), minutes=int(minutes), seconds=float(seconds))


def _setting(name: str, settings: Mapping[str, str]) -> str:
    if not settings.get(name):
        raise ValueError(f"the setting {name} is not set")
    return settings[name]


class _Field(NamedTuple):
    name: str
    lowest: int
    highest: int
    value_names: tuple[str, ...] = ()

    def parse(self, text: str) -> str:
        """Reads the field as NCRONTAB does, into plain numbers that croniter reads the same way."""
        values = sorted({value for part in text.split(",") for value in self._parse_part(part)})
        return "*" if len(values) == self.highest - self.lowest + 1 else ",".join(map(str, values))

    def _parse_part(self, part: str) -> Iterable[int]:
        span, slash, step_text = part.partition("/")
        if slash and not (step_text.isascii() and step_text.isdigit()):
            raise ValueError(f"{part!r} has no step that could be used as {self.name}")
        step = int(step_text or 1) or 1  # NCRONTAB reads a step of 0 as 1
        if span == "*":
            return range(self.lowest, self.highest + 1, step)
        first, dash, last = span.partition("-")
        start = self._parse_value(first)
        if not dash:
            return range(start, self.highest + 1, step) if slash else (start,)
        # NCRONTAB swaps the ends of a range that runs backwards: 22-6 is 6-22.
        start, end = sorted((start, self._parse_value(last)))
        return range(start, end + 1, step)

    def _parse_value(self, text: str) -> int:
        if text.isascii() and text.isdigit():
            if self.lowest <= int(text) <= self.highest:
                return int(text)
        elif text:
            for value, name in enumerate(self.value_names, self.lowest):
                if name.lower().startswith(text.lower()):
                    return value
        raise ValueError(f"{text!r} is no {self.name} from {self.lowest} to {self.highest}")


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 6, _WEEKDAYS),
)
