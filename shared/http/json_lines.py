"""Reads JSON of which each line is an object (NDJSON): a broken line is nobody else's trouble.

Short lines are parsed at once, each in a turn of its own, and long ones piece by piece, as ``bounded_json.py`` does.
Nothing is made of the whole body: only where its lines are is known before the first of them is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, Final, NamedTuple, cast

from shared.http.bounded_json import BYTE_ORDER_MARK, MAX_DEPTH, Reader, Verbatim, in_turns, object_of, too_deep
from shared.http.problems import Problem, invalid

MAX_VALUES_OF_LINES: Final = 500_000
"""How many values all the lines of a body may have that are read piece by piece."""
_AT_ONCE_BYTES: Final = 64 * 1024
_BLANKS = re.compile(rb"[ \t\r\n]{0,262144}+")
_BLANKS_OF_TEXT = re.compile(r"[ \t\r\n]*+")
# A text without an end goes up to where the line ends: else each of its quotes would be looked at as a beginning.
_TEXTS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]')


def _no_constant(name: str) -> object:
    raise ValueError(name)


_VALUES: Final = json.JSONDecoder(parse_constant=_no_constant)
_MEMBERS: Final = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=list)
"""Of objects, it makes lists of their members: a name may be there twice."""


class Line(NamedTuple):
    """Where a line is.

    Attributes:
        number: counted from 1, empty lines too.
    """

    number: int
    start: int
    end: int


class JsonLines:
    """The lines of a body.

    Args:
        verbatim: the name, in lower case, of the member that comes as it is written (:class:`Verbatim`), unless it is
            a text.
    """

    def __init__(self, body: bytes, verbatim: str) -> None:
        self._body = body
        self._verbatim = verbatim
        self._values_left = MAX_VALUES_OF_LINES

    async def places(self, most: int) -> list[Line]:
        """Where the lines are that are not empty.

        Raises:
            Problem: 400 if there are more than *most*, or none.
        """
        return await in_turns(self._places(most))

    async def read(self, line: Line) -> dict[str, Any]:
        """The object in a line. Of a long one, long texts are bytes of UTF-8.

        Raises:
            Problem: 400 if it is no JSON object, or has too many values or levels.
        """
        try:
            if line.end - line.start <= _AT_ONCE_BYTES:
                return _short_line(self._body[line.start : line.end], self._verbatim)
            reader = Reader(self._body, line.start)
            try:
                return await in_turns(reader.line(line.end, self._verbatim, self._values_left))
            finally:
                self._values_left = max(0, self._values_left - reader.values)
        except Problem:
            raise
        except (ValueError, RecursionError):
            raise invalid("", "it is not a JSON object") from None

    def _places(self, most: int) -> Generator[None, None, list[Line]]:
        body, found = self._body, list[Line]()
        at, number = len(BYTE_ORDER_MARK) if body.startswith(BYTE_ORDER_MARK) else 0, 1
        while True:
            while blanks := cast("re.Match[bytes]", _BLANKS.match(body, at)).end() - at:
                number += body.count(b"\n", at, at + blanks)
                at += blanks
                if blanks > _AT_ONCE_BYTES:
                    yield
            if at == len(body):
                break
            if len(found) == most:
                raise invalid("", f"it has more than {most:,} lines")
            end = body.find(b"\n", at)
            end = len(body) if end < 0 else end
            found.append(Line(number, at, end))
            at = end
        if not found:
            raise invalid("", "it is empty; a line for each task is expected")
        return found


def _short_line(line: bytes, verbatim: str) -> dict[str, Any]:
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _levels(line) > MAX_DEPTH:
        raise too_deep()
    text = line.decode()
    if b"\\u" in line:  # half of a pair of surrogates is decoded, and is no text
        json.dumps(_VALUES.decode(text), ensure_ascii=False).encode()
    at = _behind(text, 0, "{")
    members: list[tuple[str, Any]] = _MEMBERS.decode(text)
    if all(name.lower() != verbatim or isinstance(value, str) for name, value in members):
        return object_of(members)
    return object_of(_as_written(text, at, verbatim))


def _as_written(text: str, at: int, verbatim: str) -> list[tuple[str, Any]]:
    """The members of the object whose first one, or end, is at *at*, as it is valid."""
    members: list[tuple[str, Any]] = []
    goes_on = text[at : at + 1] != "}"
    while goes_on:
        name, at = _VALUES.raw_decode(text, at)
        begin = _behind(text, at, ":")
        value, at = _VALUES.raw_decode(text, begin)
        if name.lower() == verbatim and not isinstance(value, str):
            value = Verbatim(text[begin:at].encode())
        members.append((name, value))
        at = _behind_blanks(text, at)
        goes_on = text[at : at + 1] != "}"
        if goes_on:
            at = _behind(text, at, ",")
    return members


def _behind_blanks(text: str, at: int) -> int:
    return cast("re.Match[str]", _BLANKS_OF_TEXT.match(text, at)).end()


def _behind(text: str, at: int, mark: str) -> int:
    """Where what follows the *mark* begins, which is to be here."""
    at = _behind_blanks(text, at)
    if text[at : at + 1] != mark:
        raise ValueError("a mark is missing")
    return _behind_blanks(text, at + 1)


def _levels(line: bytes) -> int:
    """How deep it is nested, if it is JSON."""
    depth = deepest = 0
    for found in cast("list[bytes]", _TEXTS_AND_BRACKETS.findall(line)):
        if found in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif found in (b"]", b"}"):
            depth -= 1
    return deepest
