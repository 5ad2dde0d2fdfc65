"""When a submitted task is to run: what the v1 API reads of that from requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import azure.functions as func

from shared.http.functions import header
from shared.http.problems import invalid
from shared.http.times import ms_of
from shared.services import Services

START_AFTER_HEADER: Final = "Start-After"
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


@dataclass(frozen=True, slots=True)
class Timing:
    """When a task is to run.

    Attributes:
        asked: the headers that say so, as they were given. A submit that is repeated has the same.
    """

    start: Moment | None
    asked: Mapping[str, str]

    @property
    def fields(self) -> dict[str, Any]:
        """What a :class:`NewTask` has of it."""
        return {} if self.start is None else {"start_in_ms": self.start.in_ms, "start_at_ms": self.start.at_ms}


def timing_of(req: func.HttpRequest, services: Services) -> Timing:
    """
    Raises:
        Problem: 400 that names the header.
    """
    asked = {name: text for name in (START_AFTER_HEADER,) if (text := header(req, name)) is not None}
    start = _moment(asked, START_AFTER_HEADER)
    longest_s = services.settings.max_delay_s
    if start is not None and start.ahead_ms(services.now_ms()) > longest_s * 1000:
        raise invalid(START_AFTER_HEADER, f"it may be at most {longest_s:.15g} seconds ahead")
    return Timing(start, asked)


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
