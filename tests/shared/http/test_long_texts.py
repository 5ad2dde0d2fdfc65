"""A long text becomes JSON without being text as a whole."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.http.long_texts import with_text

MB = 1024 * 1024
DOCUMENT = b'{"TaskId":"\\"Status\\":\\"\\"","Status":"","BackendStatus":""}'


def written(text: str) -> dict[str, str]:
    return json.loads(asyncio.run(with_text(DOCUMENT, "Status", text.encode())))


@given(st.text())
def test_a_text_stands_in_its_place(text: str) -> None:
    assert written(text) == {"TaskId": '"Status":""', "Status": text, "BackendStatus": ""}


@pytest.mark.parametrize("character", ["x", "ü", "€", "\U0001f30d", '"', "\\", "\n", "\0"])
def test_pieces_end_between_characters(character: str) -> None:
    for lead in range(4):
        text = "-" * lead + character * 50_000
        assert written(text)["Status"] == text


def test_it_takes_what_it_writes_and_leaves_others_their_turns() -> None:
    text = ("\U0001f30d" + "x" * 4_000).encode() * 2_000

    async def run() -> tuple[int, int]:
        turns = 0
        tracemalloc.start()
        try:
            writing = asyncio.create_task(with_text(DOCUMENT, "Status", text))
            while not writing.done():
                turns += 1
                await asyncio.sleep(0)
            return tracemalloc.get_traced_memory()[1], turns
        finally:
            tracemalloc.stop()

    peak_bytes, turns = asyncio.run(run())
    assert peak_bytes <= 1.25 * len(text) + MB
    assert turns >= 100
