"""When a submitted task is to run: what the v1 API reads of that from requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import azure.functions as func

from shared.backend_settings import LONGEST_S
from shared.http.functions import header
from shared.http.problems import invalid
from shared.http.times import ms_of
from shared.services import Services
from shared.tasks.timing import Moment, Timing

START_AFTER_HEADER: Final = "Start-After"
START_BEFORE_HEADER: Final = "Start-Before"
MAX_RUN_HEADER: Final = "Max-Run"
MAX_RUN_EXPECTED: Final = f"a number of seconds from 1 to {LONGEST_S} is expected"
_LATEST_MS: Final = 253_402_300_799_000 - 86_400_000
"""The end of the year 9999, later than which no time can be written, in any zone."""
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
MOMENT_EXPECTED: Final = "a number of seconds is expected, or a time with its zone, such as 2026-11-28T06:00:00Z"


class AskedTiming(NamedTuple):
    of_task: Timing
    headers: Mapping[str, str]
    """Those that say it, as they were given. A submit that is repeated has the same."""


def timing_of(req: func.HttpRequest, services: Services) -> AskedTiming:
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
    return AskedTiming(Timing(start, _expiry(asked, start), _max_run_ms(asked)), asked)


def _expiry(asked: Mapping[str, str], start: Moment | None) -> Moment | None:
    expiry = _moment(asked, START_BEFORE_HEADER)
    if expiry is None:
        return None
    if expiry == ("create", 0):
        raise invalid(START_BEFORE_HEADER, "a time after the submit is expected")
    if start is not None and expiry.is_before(start):
        raise invalid(START_BEFORE_HEADER, "a time after that of Start-After is expected")
    return Moment("epoch", min(expiry.ms, _LATEST_MS)) if expiry.since == "epoch" else expiry


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
        return Moment("create", round(float(text) * 1000))
    try:
        return Moment("epoch", ms_of(text.strip()))
    except ValueError:
        raise invalid(name, MOMENT_EXPECTED) from None
