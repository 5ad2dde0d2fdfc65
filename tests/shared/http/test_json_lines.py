"""JSON of which each line is an object."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.http.bounded_json import Verbatim
from shared.http.json_lines import _TEXTS_AND_BRACKETS, JsonLines, Line
from shared.http.problems import Problem

LONG = 70_000
"""More bytes than a line has that is read at once."""
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


async def read(body: bytes) -> list[Any]:
    """What each line is: an object, or the detail of its problem."""
    lines = JsonLines(body, "body")
    found: list[Any] = []
    for line in await lines.places(1_000):
        try:
            found.append(await lines.read(line))
        except Problem as problem:
            found.append(str(problem))
    return found


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=4), is_long=st.booleans(), ascii_only=st.booleans())
async def test_a_body_is_a_text_or_comes_as_it_is_written(values: list[Any], is_long: bool, ascii_only: bool) -> None:
    padding = " " * LONG if is_long else " "
    written = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    body = "\n".join(
        f'{{"a" : 1,{padding}"Body":{padding}{each}{padding}, "b": ["body"]}}' for each in written
    ).encode()
    for found, value, text in zip(await read(body), values, written, strict=True):
        assert (found["a"], found["b"]) == (1, ["body"])
        if isinstance(value, str):
            assert found["Body"] == value
        else:
            assert isinstance(found["Body"], Verbatim)
            assert found["Body"] == text.encode()


@pytest.mark.parametrize("padding", ["", " " * LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "line", ['{"a": 1', '{"a" 1}', "{a: 1}", '{"a": 1,}', '{"a": 1} 2', "[]", "1", "{]", '{"a": 01}', '{"a": "\\x"}']
)
async def test_what_is_no_object_is_refused_alone(line: str, padding: str) -> None:
    good, other, last = await read(f'{{"a":1}}\n{padding}{line}{padding}\n{{"a":3}}'.encode())
    assert (good, other, last) == ({"a": 1}, "body: it is not a JSON object", {"a": 3})


@pytest.mark.parametrize("depth", [1, 62, 63, 64, 65, 1_000, 40_000])
@pytest.mark.parametrize("padding", ["", " " * LONG], ids=["short", "long"])
async def test_no_line_is_nested_deeper_than_64_levels(depth: int, padding: str) -> None:
    (found,) = await read(f'{{"Body":{padding}{"[" * depth}{"]" * depth}}}'.encode())
    assert isinstance(found, dict) == (depth <= 63)


async def test_blanks_do_not_carry_an_object_over_its_line() -> None:
    found = await read(b'{"a": 1, "b":' + b" " * LONG + b'\n2}\n{"a": 3}')
    assert found == ["body: it is not a JSON object"] * 2 + [{"a": 3}]


async def test_brackets_in_texts_are_no_levels() -> None:
    (found,) = await read(json.dumps({"Body": '[{"\\' * 100}).encode())
    assert found == {"Body": '[{"\\' * 100}


async def test_a_long_line_has_a_number_of_values_and_all_of_them_have_another() -> None:
    line = b'{"Body": [' + b"0," * 40_000 + b"0]}\n"
    found = await read(line * 13 + b"{}\n" + line)
    assert [isinstance(each, dict) for each in found] == [True] * 12 + [False, True, False]


async def test_a_broken_long_line_is_counted_too() -> None:
    line = b'{"Body": [' + b"0," * 40_000 + b"\n"
    found = await read(line * 13 + b'{"Body": [' + b"0," * 40_000 + b"0]}\n")
    assert not any(isinstance(each, dict) for each in found)


async def test_numbers_of_lines_count_empty_ones() -> None:
    body = b"\xef\xbb\xbf\r\n\n{}\r\n  \t\n {}\n\n{}"
    places = await JsonLines(body, "body").places(3)
    assert [line.number for line in places] == [3, 5, 7]
    assert [body[line.start : line.end] for line in places] == [b"{}\r", b"{}", b"{}"]
    with pytest.raises(Problem):
        await JsonLines(body, "body").places(2)


async def test_others_have_their_turn_while_lines_are_read() -> None:
    """Of blanks, of a long text, and of many values."""
    body = b"\n" * 10_000_000 + b'{"Body": "' + b"x" * 5_000_000 + b'"}\n{"Body": [' + b"0," * 45_000 + b"0]}"
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    assert [line.number for line in await JsonLines(body, "body").places(9)] == [10_000_001, 10_000_002]
    assert turns > 30
    assert len(await read(body)) == 2
    other.cancel()
    assert turns > 150


def test_a_place_is_a_line() -> None:
    assert Line(1, 0, 2)._fields == ("number", "start", "end")


def test_a_text_without_an_end_is_looked_at_once() -> None:
    """Each quote in it is not a beginning too: 64 KiB of them would keep all others waiting for seconds."""
    line = b"[" * 2 + b'"' + b'\\"' * 1_000
    found = _TEXTS_AND_BRACKETS.findall(line)
    assert found == [b"[", b"[", line[2:]]
    assert _TEXTS_AND_BRACKETS.findall(line + b"\\") == found
