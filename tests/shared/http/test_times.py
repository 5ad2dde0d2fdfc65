"""Times as JSON has them."""

from __future__ import annotations

import pytest

from shared.http.times import iso, ms_of


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-11-28t06:00:00.123456z", "2026-11-28T06:00:00.123000Z"),
        ("2026-11-28T06:00:00 01:00", "2026-11-28T05:00:00.000000Z"),  # whose plus sign nobody has encoded
        ("1969-12-31T23:59:59Z", "1970-01-01T00:00:00.000000Z"),
        ("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.000000Z"),
        ("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_each_time_that_is_read_can_be_written(text: str, written: str) -> None:
    assert iso(ms_of(text)) == written


@pytest.mark.parametrize(
    "text", ["", "2026-11-28", "2026-02-30T00:00:00Z", "2026-11-28T06:00:00", "10000-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time with its zone"):
        ms_of(text)
