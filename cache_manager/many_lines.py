"""The tasks in a request that submits many: lines of JSON, or the parts of ``multipart/mixed``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import azure.functions as func
from pydantic import ValidationError

from cache_manager import request_parsing as parse
from cache_manager.many_schemas import SubmitLine
from shared.http.bounded_json import Verbatim
from shared.http.json_lines import JsonLines
from shared.http.json_lines import Line as PlacedLine
from shared.http.multipart import Part, boundary_of, headers_and_body, parts_of
from shared.http.problems import invalid, invalid_fields, too_large
from shared.http.validation import field_errors
from shared.tasks.media import is_content_encoding, is_content_type
from shared.tasks.value import value

MOST_TASKS: Final = 1_000
MULTIPART: Final = "multipart/"
MIXED: Final = "multipart/mixed"
_OCTETS: Final = "application/octet-stream"
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_AS_IT_IS: Final = ("", "7bit", "8bit", "binary")
"""Transfer encodings that change nothing."""
_MEMBERS: Final = ("Body", "ContentType", "Query", "IdempotencyKey", "Priority")


@value
class AskedTask:
    """A task as its line or part asks for it. What is None, the request says for all of them."""

    body: bytes
    content_type: str
    encoding: str = ""
    query: str | None = None
    key: str | None = None
    priority: int | None = None


@value
class AskedLine:
    """Where a task stands in the request.

    Attributes:
        number: of its line or part, from 1.
        size_bytes: how much of the request it is.
        read: what it asks for; raises a Problem if that cannot be read, which is nobody else's trouble.
    """

    number: int
    size_bytes: int
    read: Callable[[], Awaitable[AskedTask]]


async def asked_lines(req: func.HttpRequest, most_bytes: int) -> Sequence[AskedLine]:
    """The tasks of a request. None of them has been read yet.

    Raises:
        Problem: 413 if the body is too large; 400 if it cannot be taken apart, or has no task or too many.
    """
    body, content_type = req.get_body(), parse.content_type(req)
    if len(body) > most_bytes:
        raise too_large(most_bytes)
    if parse.content_encoding(req):
        raise invalid("Content-Encoding", "none is expected: the lines or parts are read as they come")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith(MULTIPART):
        lines = JsonLines(body, "body")
        return [
            AskedLine(line.number, line.end - line.start, partial(_asked_by_line, lines, line))
            for line in await lines.places(MOST_TASKS)
        ]
    if kind != MIXED:
        raise invalid("Content-Type", f"{MIXED} is expected, or lines of JSON")
    parts = await parts_of(body, boundary_of(content_type), MOST_TASKS)
    return [AskedLine(part.number, part.end - part.start, partial(_asked_by_part, body, part)) for part in parts]


async def _asked_by_line(lines: JsonLines, line: PlacedLine) -> AskedTask:
    try:
        asked = SubmitLine.model_validate(await lines.read(line))
    except ValidationError as error:
        raise invalid_fields(field_errors(error, known=_MEMBERS)) from None
    body, content_type = _body_of(asked.body)
    return AskedTask(
        body,
        asked.content_type or content_type,
        "",
        None if asked.query is None else parse.without_host_parameters(asked.query),
        asked.idempotency_key,
        asked.priority,
    )


def _body_of(value: Any) -> tuple[bytes, str]:
    """The bytes that a model service gets for the member ``Body``, and their type."""
    if value is None or (value == b"null" and isinstance(value, Verbatim)):
        return b"", _OCTETS
    if isinstance(value, Verbatim):
        return value, _JSON
    return value if isinstance(value, bytes) else str(value).encode(), _TEXT


async def _asked_by_part(body: bytes, part: Part) -> AskedTask:
    headers, data = headers_and_body(body, part)
    if headers.get("content-transfer-encoding", "").lower() not in _AS_IT_IS:
        raise invalid("Content-Transfer-Encoding", "bytes are expected as they are: binary")
    content_type, encoding = headers.get("content-type", _OCTETS), headers.get("content-encoding", "")
    if not is_content_type(content_type):
        raise invalid("Content-Type", "1 to 255 printable ASCII characters are allowed")
    if not is_content_encoding(encoding):
        raise invalid("Content-Encoding", "names of codings are expected, at most 255 characters")
    query, key, priority = (headers.get(name) for name in ("query", "idempotency-key", "priority"))
    return AskedTask(
        data,
        content_type,
        "" if encoding.lower() == "identity" else encoding,
        None if query is None else parse.without_host_parameters(query),
        parse.key_of(key),
        None if priority is None else parse.priority_of(priority),
    )
