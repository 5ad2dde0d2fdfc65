"""Bodies of tasks that come within a JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from shared.http.bounded_json import Fraction, Integer

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
_text: Final = json.JSONEncoder(ensure_ascii=False).encode


def body_of(value: Any) -> tuple[bytes, str]:
    """The bytes of a body, and what type they are of unless the caller says another: a text as it is, anything else
    as JSON, with its numbers as they were written. The *value* is what ``read_json`` has made of it."""
    match value:
        case str():
            return value.encode(), TEXT
        case bytes():
            return value, TEXT
        case _:
            return b"".join(_pieces(value)), JSON


def _pieces(value: Any) -> Iterator[bytes]:
    match value:
        case None | bool():
            yield {None: b"null", True: b"true", False: b"false"}[value]
        case Integer() | Fraction():
            yield value.written.encode()
        case str():
            yield _text(value).encode()
        case bytes():  # a long text
            yield _text(value.decode()).encode()
        case Mapping():
            yield from _members(cast("Mapping[str, Any]", value))
        case _:
            yield from _elements(cast("Sequence[Any]", value))


def _members(value: Mapping[str, Any]) -> Iterator[bytes]:
    yield b"{"
    for index, (name, member) in enumerate(value.items()):
        yield (b"," if index else b"") + _text(name).encode() + b":"
        yield from _pieces(member)
    yield b"}"


def _elements(value: Sequence[Any]) -> Iterator[bytes]:
    yield b"["
    for index, element in enumerate(value):
        if index:
            yield b","
        yield from _pieces(element)
    yield b"]"
