"""Reads ``multipart/mixed`` (RFC 2046): where its parts are, and what their headers say.

Libraries that are at hand read forms (werkzeug), or copy a stream line by line (aiohttp, email), and nest. Here a
part is bytes, whatever its type, and what is needed of it is where it begins and ends.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from email.message import Message
from typing import Final, NamedTuple

from shared.http.bounded_json import in_turns
from shared.http.problems import invalid

MAX_HEAD_BYTES: Final = 8 * 1024
"""Of a part's headers."""
_TURN_BYTES: Final = 1024 * 1024
_TURN_ALIKE: Final = 2_000
"""After so many lines that begin like a boundary, others have their turn."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_REST_OF_DELIMITER = re.compile(rb"--[ \t]{0,256}+(?P<end>\r?\n|\Z)|[ \t]{0,256}+(?P<next>\r\n)")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_LINE_END: Final = b"\r\n"


class Part(NamedTuple):
    """Where a part is, its headers included.

    Attributes:
        number: counted from 1.
    """

    number: int
    start: int
    end: int


def boundary_of(content_type: str) -> bytes:
    """
    Raises:
        Problem: 400 if the type names no boundary, or one that cannot be.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise invalid("Content-Type", "multipart/mixed has a boundary of 1 to 70 characters")
    return boundary.encode()


async def parts_of(body: bytes, boundary: bytes, most: int) -> list[Part]:
    """Where the parts are. What is before the first and behind the last one is no part.

    Raises:
        Problem: 400 if there are more than *most*, or none, or if the last one has no end: then the rest is missing.
    """
    return await in_turns(_parts(body, boundary, most))


def headers_and_body(body: bytes, part: Part) -> tuple[dict[str, str], bytes]:
    """A part's headers, with their names in lower case, and what follows them.

    Raises:
        Problem: 400 if its headers cannot be read.
    """
    _, start, end = part
    if start == end or body.startswith(_LINE_END, start, end):
        return {}, body[start + len(_LINE_END) : end]
    head_end = body.find(2 * _LINE_END, start, min(end, start + MAX_HEAD_BYTES))
    if head_end < 0:
        # Headers alone: the empty line that ends them is the boundary's.
        if end - start > MAX_HEAD_BYTES or not body.endswith(_LINE_END, start, end):
            raise invalid("", f"its headers, of {MAX_HEAD_BYTES} bytes at most, are to end with an empty line")
        head_end = end - len(_LINE_END)
    headers: dict[str, str] = {}
    for line in body[start:head_end].split(_LINE_END):
        found = _HEADER.fullmatch(line)
        if found is None:
            raise invalid("", "its headers are to be like Name: value, in printable ASCII, each in one line")
        name = found[1].decode().lower()
        if name in headers:
            raise invalid(found[1].decode(), "it is there more than once")
        headers[name] = found[2].decode().rstrip(" \t")
    return headers, body[min(end, head_end + 2 * len(_LINE_END)) : end]


def _parts(body: bytes, boundary: bytes, most: int) -> Generator[None, None, list[Part]]:
    found: list[Part] = []
    delimiter = _LINE_END + b"--" + boundary
    # The first may be where the body begins, without a line end in front.
    place, start = 0 if body.startswith(delimiter[len(_LINE_END) :]) else -1, None
    at = len(delimiter) - len(_LINE_END) if place == 0 else 0
    alike = 0
    while True:
        rest = _REST_OF_DELIMITER.match(body, at) if place >= 0 else None
        if rest is not None:  # else another boundary begins in the same way
            if start is not None:
                if len(found) == most:
                    raise invalid("", f"it has more than {most:,} parts")
                found.append(Part(len(found) + 1, start, place))
            if rest["end"] is not None:
                break
            start = at = rest.end()
        elif place >= 0:
            alike += 1
            if alike % _TURN_ALIKE == 0:
                yield
        place = body.find(delimiter, at, at + _TURN_BYTES + len(delimiter))
        if place >= 0:
            at = place + len(delimiter)
        else:
            at += _TURN_BYTES
            if at >= len(body):
                raise invalid("", "a last line --BOUNDARY-- is missing, or lines do not end with CR LF")
            yield
    if not found:
        raise invalid("", "it has no part")
    return found
