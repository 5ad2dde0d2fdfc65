"""When a schedule is due: a cron expression, by the clocks of a place."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import islice, takewhile
from typing import Final, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MAX_CRON_CHARS: Final = 256
_CRON: Final = re.compile(rf"[\x21-\x7e ]{{1,{MAX_CRON_CHARS}}}")
_WITH_SECONDS: Final = 6
_PASSED_ONE_BY_ONE: Final = 1_000
"""How many times are looked at one by one to find the last of them; of more, they are counted back from the end."""
_LONGEST_FOLD: Final = timedelta(hours=3)
"""For how long clocks are put back at most, at a change."""


class BadCron(ValueError):
    """Raised for what is no cron expression. The message says why, in words for people."""


class BadZone(ValueError):
    """Raised for what is no time zone of the IANA."""


@dataclass(frozen=True, slots=True)
class DueTimes:
    """The due times of a cron expression, in Unix milliseconds.

    As Debian's cron has them, on the days the clocks change too. Where neither the minute nor the hour begins with a
    star, what the clocks leave out is due when they go on, and what they show twice is due once. All else is due by
    the time that passes.
    """

    cron: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, cron: str, zone: str) -> Self:
        """
        Raises:
            BadCron: it is no expression of five or six fields.
            BadZone: there is no such time zone.
        """
        due = cls(cron, zone_of(zone))
        if not _CRON.fullmatch(cron):
            raise BadCron(f"five or six fields are expected, at most {MAX_CRON_CHARS} characters")
        try:
            CronSim(cron, datetime(2000, 1, 1, tzinfo=due.zone))
        except CronSimError as error:
            raise BadCron(f"{str(error)[:1].lower()}{str(error)[1:]}") from None
        except (AssertionError, TypeError, ValueError):  # of what the library does not expect
            raise BadCron("five or six fields are expected, as of a crontab") from None
        return due

    def after(self, moment_ms: int) -> int | None:
        """The first one after a moment. None: it is not due within the next fifty years."""
        return next(self._from(moment_ms), None)

    def following(self, moment_ms: int, most: int, until_ms: int | None = None) -> Sequence[int]:
        """The first ones after a moment, at most so many, and none after *until_ms*."""
        times = islice(self._from(moment_ms), most)
        return [*takewhile(lambda time_ms: until_ms is None or time_ms <= until_ms, times)]

    def passed(self, first_ms: int, until_ms: int, most: int) -> Sequence[int]:
        """The last ones, at most so many, from *first_ms*, which is one, to *until_ms*. The cost is bounded, however
        many there are between."""
        last = deque([first_ms], maxlen=most)
        for count, time_ms in enumerate(self._from(first_ms)):
            if time_ms > until_ms:
                return [*last]
            if count == _PASSED_ONE_BY_ONE:
                back = [*islice(self._back_from(until_ms, first_ms), most)]
                return [*reversed(back)] or [*last]
            last.append(time_ms)
        return [*last]

    def _from(self, moment_ms: int) -> Iterator[int]:
        for time_ms in self._found(moment_ms // 1000):
            # Where the clocks show the same hour twice, the library begins with the first time.
            if time_ms > moment_ms:
                moment_ms = time_ms
                yield time_ms

    def _back_from(self, moment_ms: int, first_ms: int) -> Iterator[int]:
        """The times until a moment, the last one first."""
        begin_s = moment_ms // 1000 + 1 + round(_LONGEST_FOLD.total_seconds())
        moment_ms += 1
        for time_ms in self._found(begin_s, reverse=True):
            if time_ms < first_ms:
                return
            if time_ms < moment_ms:
                moment_ms = time_ms
                yield time_ms

    def _found(self, moment_s: int, *, reverse: bool = False) -> Iterator[int]:
        """The times that the library finds, some of them perhaps before the moment, or twice."""
        fields = self.cron.split()
        moment = datetime.fromtimestamp(moment_s, self.zone)
        expression = CronSim(self.cron, moment, reverse=reverse)
        if len(fields) == _WITH_SECONDS and not (fields[1].startswith("*") or fields[2].startswith("*")):
            # The library does not see to the days on which the clocks change if there is a field of seconds.
            begin = moment if reverse else datetime.fromtimestamp(moment_s - 60, self.zone)
            seconds = sorted(expression.seconds, reverse=reverse)
            for minute in CronSim(" ".join(fields[1:]), begin, reverse=reverse):
                yield from (_ms_of(minute) + 1000 * second for second in seconds)
        else:
            yield from map(_ms_of, expression)


def zone_of(name: str) -> ZoneInfo:
    """
    Raises:
        BadZone: there is no such time zone.
    """
    if name not in _zones():
        raise BadZone("the name of a time zone of the IANA is expected, such as Europe/Berlin")
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    # Of the package, whatever the machine has: all instances take the same names.
    return frozenset((files("tzdata") / "zones").read_text().split())


def _ms_of(moment: datetime) -> int:
    return round(moment.timestamp()) * 1000
