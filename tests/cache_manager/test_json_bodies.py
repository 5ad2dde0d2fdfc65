"""Bodies of tasks that come within a JSON document."""

from __future__ import annotations

import pytest

from cache_manager.json_bodies import body_of
from shared.http.bounded_json import read_json


@pytest.mark.parametrize(
    ("written", "content_type", "body"),
    [
        (b'"a text, \\u00e9\\n"', "text/plain; charset=utf-8", "a text, é\n".encode()),
        (b'""', "text/plain; charset=utf-8", b""),
        (b'{ "a": [1.10, 1e400, -0, 12345678901234567890123], "\\"": "\\"" }', "application/json", None),
        (b"[true, false, null, [], {}]", "application/json", b"[true,false,null,[],{}]"),
        (b"1.50", "application/json", b"1.50"),
    ],
)
async def test_a_text_is_a_body_as_it_is_and_anything_else_as_it_was_written(
    written: bytes, content_type: str, body: bytes | None
) -> None:
    expected = written.replace(b" ", b"") if body is None else body
    assert body_of(await read_json(written)) == (expected, content_type)


async def test_long_texts_stay_what_they_are() -> None:
    text = "é" * 200_000
    written = f'{{"a":"{text}"}}'.encode()
    assert body_of(await read_json(written)) == (written, "application/json")
    assert body_of(await read_json(f'"{text}"'.encode()))[0] == text.encode()
