"""When a submitted task is to run: what the v1 API reads of that from requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypedDict

import azure.functions as func

from shared.backend_settings import LONGEST_S
from shared.http.functions import header
from shared.http.problems import invalid
from shared.http.times import ms_of
from shared.services import Services

START_AFTER_HEADER: Final = "Start-After"
START_BEFORE_HEADER: Final = "Start-Before"
MAX_RUN_HEADER: Final = "Max-Run"
MAX_RUN_EXPECTED: Final = f"a number of seconds from 1 to {LONGEST_S} is expected"
_LATEST_MS: Final = 253_402_300_799_000 - 86_400_000
"""The end of the year 9999, later than which no time can be written, in any zone."""
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
MOMENT_EXPECTED: Final = "a number of seconds is expected, or a time with its zone, such as 2026-11-28T06:00:00Z"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that a request names: so many ms from now, by the clock of Redis, or else a time."""

    in_ms: int | None = None
    at_ms: int | None = None

    def ahead_ms(self, now_ms: int) -> int:
        """How far ahead it lies; less than 0 if it is over."""
        return self.in_ms if self.in_ms is not None else (self.at_ms or 0) - now_ms

    def is_before(self, other: Moment) -> bool:
        """Whether it is known to lie before the other one, or to be the same, without a clock."""
        if self.in_ms is not None and other.in_ms is not None:
            return self.in_ms <= other.in_ms
        return self.at_ms is not None and other.at_ms is not None and self.at_ms <= other.at_ms


class Times(TypedDict, total=False):
    """What a submit says of when its task is to run, under the names that a new task has for it."""

    start_in_ms: int | None
    start_at_ms: int | None
    start_before_in_ms: int | None
    start_before_at_ms: int | None
    max_run_ms: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """When a task is to run.

    Attributes:
        expiry: until when a model service has to have it.
        max_run_ms: for how long an attempt may run.
        asked: the headers that say so, as they were given. A submit that is repeated has the same.
    """

    start: Moment | None
    expiry: Moment | None
    max_run_ms: int | None
    asked: Mapping[str, str]

    @property
    def fields(self) -> Times:
        """What a :class:`NewTask` has of it."""
        if not self.asked:
            return {}
        start, expiry = self.start or Moment(), self.expiry or Moment()
        return {
            "start_in_ms": start.in_ms,
            "start_at_ms": start.at_ms,
            "start_before_in_ms": expiry.in_ms,
            "start_before_at_ms": expiry.at_ms,
            "max_run_ms": self.max_run_ms,
        }


def timing_of(req: func.HttpRequest, services: Services) -> Timing:
    """
    Raises:
        Problem: 400 that names the header.
    """
    names = (START_AFTER_HEADER, START_BEFORE_HEADER, MAX_RUN_HEADER)
    asked = {name: text for name in names if (text := header(req, name)) is not None}
    start = _moment(asked, START_AFTER_HEADER)
    longest_s = services.settings.max_delay_s
    if start is not None and start.ahead_ms(services.now_ms()) > longest_s * 1000:
        raise invalid(START_AFTER_HEADER, f"it may be at most {longest_s:.15g} seconds ahead")
    return Timing(start, _expiry(asked, start), _max_run_ms(asked), asked)


def _expiry(asked: Mapping[str, str], start: Moment | None) -> Moment | None:
    expiry = _moment(asked, START_BEFORE_HEADER)
    if expiry is None:
        return None
    if expiry.in_ms == 0:
        raise invalid(START_BEFORE_HEADER, "a time after the submit is expected")
    if start is not None and expiry.is_before(start):
        raise invalid(START_BEFORE_HEADER, "a time after that of Start-After is expected")
    return expiry if expiry.at_ms is None else Moment(at_ms=min(expiry.at_ms, _LATEST_MS))


def _max_run_ms(asked: Mapping[str, str]) -> int | None:
    text = asked.get(MAX_RUN_HEADER)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text.strip()) or not 1 <= float(text) <= LONGEST_S:
        raise invalid(MAX_RUN_HEADER, MAX_RUN_EXPECTED)
    return round(float(text) * 1000)


def _moment(asked: Mapping[str, str], name: str) -> Moment | None:
    text = asked.get(name)
    if text is None:
        return None
    if _SECONDS.fullmatch(text.strip()):
        return Moment(in_ms=round(float(text) * 1000))
    try:
        return Moment(at_ms=ms_of(text.strip()))
    except ValueError:
        raise invalid(name, MOMENT_EXPECTED) from None
