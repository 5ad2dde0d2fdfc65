"""Reads the JSON of requests within bounds: of how many values, of memory, and of how long others wait.

A parser makes of 100 MB of ``[[],[],…]`` gigabytes of lists, and lets nothing else run meanwhile; nor would it in a
thread. So small bodies are parsed at once, and others piece by piece, with turns for others in between: what is too
much is refused as soon as it is seen, and a long text becomes UTF-8, without being text before.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Generator
from io import BytesIO
from typing import Any, Final, NoReturn, TypeVar, cast

from shared.http.problems import Problem, invalid

MAX_VALUES: Final = 50_000
"""How many values a body may have, all its objects, arrays and names included."""
"""Of an array that is read element by element, each element may have as many."""
MAX_DEPTH: Final = 64
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_AT_ONCE_BYTES: Final = 64 * 1024
_TEXT_BYTES: Final = 64 * 1024
_TEXTS_BYTES: Final = 4 * 1024 * 1024
"""Longer texts, and all after that many bytes of texts, become UTF-8: as text they may take four times the bytes."""
_NAME_BYTES: Final = 1_024
_TURN_BYTES: Final = 64 * 1024
_TURN_VALUES: Final = 500
_MAX_DIGITS: Final = 4_000

_BLANKS = re.compile(rb"[ \t\n\r]{0,262144}+")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]{0,1024}+"')
"""A text without escapes, after its first quote."""
_PIECE = re.compile(
    rb'(?:[^"\\\x00-\x1f]{1,64}+|\\(?:["\\/bfnrt]|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    rb"|(?![dD][89a-fA-F])[0-9a-fA-F]{4}))){0,4096}+"
)
"""Of a text: whole escapes, and both halves of what takes two. Half of a pair is no text."""
_SCALAR = re.compile(
    rb"(?P<number>-?(?:0|[1-9][0-9]{0,4000}+)(?P<fraction>(?:\.[0-9]{1,4000}+)?(?:[eE][+-]?[0-9]{1,9}+)?))"
    rb"|(?P<word>true|false|null)"
)
_WORDS: Final = {b"true": True, b"false": False, b"null": None}

Taken = TypeVar("Taken")


class Integer(int):
    """A number without a fraction, and how it is written."""

    written: str


class Fraction(float):
    """A number with a fraction or an exponent, and how it is written."""

    written: str


class Verbatim(bytes):
    """A value as it is written."""


class RepeatingObject(dict[str, Any]):
    """An object that has a name more than once, in whatever case."""

    repeated: frozenset[str]
    """The names in lower case."""


def _integer(written: str) -> Integer:
    if len(written) > _MAX_DIGITS:
        raise ValueError("the number is too long")
    number = Integer(written)
    number.written = written
    return number


def _fraction(written: str) -> Fraction:
    number = Fraction(written)
    number.written = written
    return number


def object_of(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A :class:`RepeatingObject` if a name is there more than once."""
    found = dict(members)
    names = {name.lower() for name in found}
    if len(names) == len(members):
        return found
    seen: set[str] = set()
    repeated: set[str] = set()
    for name, _ in members:
        (repeated if name.lower() in seen else seen).add(name.lower())
    repeating = RepeatingObject(found)
    repeating.repeated = frozenset(repeated)
    return repeating


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=object_of, parse_int=_integer, parse_float=_fraction, parse_constant=_no_constant
)


async def read_json(body: bytes) -> Any:
    """The document in a request's body: numbers are :class:`Integer` or :class:`Fraction`, long texts bytes of UTF-8.

    It takes as many bytes as the body has, and some megabytes, beside the body.

    Raises:
        Problem: 400 if it is empty or not JSON, or has too many values or levels.
    """
    if len(body) <= _AT_ONCE_BYTES and not body.strip():
        raise invalid("", "it is empty; a JSON object is expected")
    return await _read(body, lambda document: document, lambda reader: reader.document())


async def read_each(body: bytes, take: Callable[[Any], Taken], *, most: int, most_values: int) -> list[Taken]:
    """What *take* makes of each element of the array in a request's body, or of the object in it. Elements are what
    :func:`read_json` makes of them. Of a large body, no more than one is there at a time.

    Args:
        most: how many elements there may be.
        most_values: how many values all of them may have.

    Raises:
        Problem: 400 if the body is neither an array nor an object, or has too many elements, values or levels.
    """
    taken = await _read(
        body,
        lambda document: [take(element) for element in _elements(document, most)],
        lambda reader: reader.each(take, most, most_values),
    )
    if not taken:
        raise invalid("", "the array is empty")
    return taken


async def _read(
    body: bytes, whole: Callable[[Any], Taken], reading: Callable[[Reader], Generator[None, None, Taken]]
) -> Taken:
    """What is *whole*ly made of a small document, or what *reading* a large one piece by piece results in."""
    try:
        if len(body) <= _AT_ONCE_BYTES and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
            document = _DECODER.decode(body.removeprefix(BYTE_ORDER_MARK).decode())
            if b"\\u" in body:  # half of a pair of surrogates is decoded, and is no text
                json.dumps(document, ensure_ascii=False).encode()
            return whole(document)
        return await in_turns(reading(Reader(body)))
    except Problem:
        raise
    except ValueError:
        raise invalid("", "it is not JSON") from None


async def in_turns(pieces: Generator[None, None, Taken]) -> Taken:
    """What the generator results in, with turns for others where it yields."""
    try:
        while True:
            next(pieces)
            await asyncio.sleep(0)
    except StopIteration as end:
        return end.value


def _elements(document: Any, most: int) -> list[Any]:
    if isinstance(document, list):
        elements = cast("list[Any]", document)
        if len(elements) > most:
            raise _too_many(most)
        return elements
    if not isinstance(document, dict):
        raise _no_array()
    return [cast("dict[str, Any]", document)]


def _too_many(most: int) -> Problem:
    return invalid("", f"the array has more than {most} elements")


def too_deep() -> Problem:
    return invalid("", f"it is nested deeper than {MAX_DEPTH} levels")


def _no_array() -> Problem:
    return invalid("", "an array of objects, or one object, is expected")


class Reader:
    """Reads one body. Its generators yield where others may have their turn, and raise a ValueError for what is not
    JSON."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._at = start or (len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0)
        self._turn_at = self._at
        self._values = 0
        self._turn_values = _TURN_VALUES
        self._most_values = MAX_VALUES
        self._texts_bytes = 0

    @property
    def values(self) -> int:
        """How many it has met."""
        return self._values

    def line(self, end: int, verbatim: str, most_values: int) -> Generator[None, None, dict[str, Any]]:
        """The object in a line that ends before *end*. Its member *verbatim* is :class:`Verbatim`, unless it is a
        text."""
        self._most_values = min(most_values, MAX_VALUES)
        yield from self._skip_blanks()
        if self._data[self._at : self._at + 1] != b"{":
            raise ValueError("an object is expected")
        members = yield from self._members(1, verbatim)
        # Blanks within it, and behind it, may have led past the end of the line.
        if self._at <= end:
            yield from self._skip_blanks()
            if self._at >= end:
                return members
        raise ValueError("the object does not end with its line")

    def document(self) -> Generator[None, None, Any]:
        value = yield from self._value(0)
        yield from self._end()
        return value

    def each(self, take: Callable[[Any], Taken], most: int, most_values: int) -> Generator[None, None, list[Taken]]:
        """What *take* makes of each element, of which there are at most *most*, with *most_values* in all of them."""
        yield from self._skip_blanks()
        if self._data[self._at : self._at + 1] != b"[":
            if self._data[self._at : self._at + 1] != b"{":
                raise _no_array()
            return [take((yield from self.document()))]
        taken: list[Taken] = []
        goes_on = not (yield from self._ends(b"]"))
        while goes_on:
            if len(taken) == most:
                raise _too_many(most)
            self._most_values = min(most_values, self._values + MAX_VALUES)
            taken.append(take((yield from self._value(1))))
            goes_on = yield from self._goes_on(b"]")
        yield from self._end()
        return taken

    def _end(self) -> Generator[None]:
        yield from self._skip_blanks()
        if self._at != len(self._data):
            raise ValueError("something follows the document")

    def _value(self, depth: int) -> Generator[None, None, Any]:
        self._count()
        if self._values >= self._turn_values:
            self._turn_values = self._values + _TURN_VALUES
            yield
        yield from self._skip_blanks()
        match self._data[self._at : self._at + 1]:
            case b'"':
                return (yield from self._text())
            case b"[":
                return (yield from self._array(self._below(depth)))
            case b"{":
                return (yield from self._members(self._below(depth)))
            case _:
                return self._scalar()

    def _array(self, depth: int) -> Generator[None, None, list[Any]]:
        values: list[Any] = []
        if (yield from self._ends(b"]")):
            return values
        while True:
            values.append((yield from self._value(depth)))
            if not (yield from self._goes_on(b"]")):
                return values

    def _members(self, depth: int, verbatim: str | None = None) -> Generator[None, None, dict[str, Any]]:
        members: list[tuple[str, Any]] = []
        if (yield from self._ends(b"}")):
            return {}
        while True:
            yield from self._skip_blanks()
            if self._data[self._at : self._at + 1] != b'"':
                raise ValueError("a name is expected")
            self._count()
            name = yield from self._text()
            if isinstance(name, bytes):  # none that anybody knows
                name = name[:_NAME_BYTES].decode(errors="ignore")
            yield from self._skip_blanks()
            self._take(b":")
            yield from self._skip_blanks()
            begin = self._at
            value = yield from self._value(depth)
            if name.lower() == verbatim and not isinstance(value, (str, bytes)):
                value = Verbatim(self._data[begin : self._at])
            members.append((name, value))
            if not (yield from self._goes_on(b"}")):
                return object_of(members)

    def _ends(self, end: bytes) -> Generator[None, None, bool]:
        """Whether the array or object that begins here is empty."""
        self._at += 1
        yield from self._skip_blanks()
        if self._data[self._at : self._at + 1] != end:
            return False
        self._at += 1
        return True

    def _goes_on(self, end: bytes) -> Generator[None, None, bool]:
        yield from self._skip_blanks()
        if self._data[self._at : self._at + 1] == end:
            self._at += 1
            return False
        self._take(b",")
        return True

    def _scalar(self) -> Any:
        found = _SCALAR.match(self._data, self._at)
        if found is None:
            raise ValueError("a value is expected")
        self._at = found.end()
        if found["word"]:
            return _WORDS[found["word"]]
        written = found["number"].decode()
        return _fraction(written) if found["fraction"] else _integer(written)

    def _text(self) -> Generator[None, None, str | bytes]:
        start = self._at + 1
        plain = _PLAIN.match(self._data, start)
        if plain:
            text = self._data[start : plain.end() - 1]
            self._at = plain.end()
        else:
            text = yield from self._long_text(start)
        if len(text) > _TEXT_BYTES or self._texts_bytes + len(text) > _TEXTS_BYTES:
            return text
        self._texts_bytes += len(text)
        return text.decode()

    def _long_text(self, at: int) -> Generator[None, None, bytes]:
        found = BytesIO()  # gives what it has without a copy
        data = self._data
        while True:
            found_piece = _PIECE.match(data, at)
            assert found_piece is not None
            end = found_piece.end()
            while end > at and end < len(data) and data[end] & 0xC0 == 0x80:  # within a character
                end -= 1
            if end > at:
                piece = data[at:end]
                text = piece.decode()
                found.write(cast("str", json.loads(f'"{text}"')).encode() if b"\\" in piece else piece)
            elif data[at : at + 1] == b'"':
                self._at = at + 1
                return found.getvalue()
            else:
                raise ValueError("a text is expected to end")
            at = end
            if at - self._turn_at >= _TURN_BYTES:
                self._turn_at = at
                yield

    def _skip_blanks(self) -> Generator[None]:
        while self._data[self._at : self._at + 1] in (b" ", b"\n", b"\r", b"\t"):
            found = _BLANKS.match(self._data, self._at)
            assert found is not None
            self._at = found.end()
            if self._at - self._turn_at >= _TURN_BYTES:
                self._turn_at = self._at
                yield

    def _take(self, mark: bytes) -> None:
        if self._data[self._at : self._at + 1] != mark:
            raise ValueError("a mark is missing")
        self._at += 1

    def _count(self) -> None:
        self._values += 1
        if self._values > self._most_values:
            raise invalid("", f"it has more than {self._most_values} values")

    @staticmethod
    def _below(depth: int) -> int:
        if depth >= MAX_DEPTH:
            raise too_deep()
        return depth + 1
