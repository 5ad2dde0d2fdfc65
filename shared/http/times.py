"""Times as JSON has them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field

IsoTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""ISO 8601 in UTC."""
TIME_EXPECTED: Final = "a time with its zone is expected, such as 2026-11-28T06:00:00Z"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

_LATEST_MS: Final = 253_402_300_799_000


def iso(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ms_of(text: str) -> int:
    """The Unix milliseconds of a time as RFC 3339 writes it. A time before 1970 is 0. One that lies behind the year
    9999, as some zone has its end, is the end of that year, as :func:`iso` can write no later one.

    Raises:
        ValueError: it is none.
    """
    # A plus sign that a client did not encode in a query has become a blank.
    text = re.sub(r" (?=\d\d:\d\d\Z)", "+", text)
    if not _TIME.fullmatch(text):
        raise ValueError(TIME_EXPECTED)
    try:
        return min(_LATEST_MS, max(0, int(datetime.fromisoformat(text.upper()).timestamp() * 1000)))
    except (ValueError, OverflowError):
        raise ValueError(TIME_EXPECTED) from None
