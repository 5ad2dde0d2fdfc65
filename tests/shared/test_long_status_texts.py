"""What a record holds of a status text."""

from __future__ import annotations

import tracemalloc

import pytest

from shared.tasks.status_texts import beginning
from shared.tasks.task import LONG_STATUS_CHARS, MAX_STATUS_CHARS

CHARACTERS = ["x", "ü", "€", "\U0001f30d"]


@pytest.mark.parametrize("character", CHARACTERS)
def test_a_text_is_long_by_its_characters(character: str) -> None:
    whole = character * MAX_STATUS_CHARS
    assert beginning(whole.encode()) == (whole, False)
    assert beginning(f"{whole}x".encode()) == (whole[:LONG_STATUS_CHARS], True)
    assert beginning(f"x{whole}".encode()) == (f"x{whole}"[:LONG_STATUS_CHARS], True)


def test_a_long_one_is_not_made_a_text() -> None:
    text = ("\U0001f30d" + "x" * 8_000_000).encode()
    tracemalloc.start()
    try:
        assert beginning(text)[1]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
