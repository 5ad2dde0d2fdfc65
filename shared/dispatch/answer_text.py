"""What the body of an answer says, in a line that is safe to show and to log."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Final, cast

MAX_CHARS: Final = 500
_LOOKED_AT_CHARS: Final = 8 * MAX_CHARS
"""A line may be that long before its markup, blanks and control characters are removed."""
_MAX_ERRORS: Final = 20
_TAG = re.compile(r"<[^<>]*>")


def text_of(content_type: str, body: bytes) -> str:
    """The first 500 characters of the text of *body*, without control characters. Of JSON, that is the ``detail`` of
    a problem document or of FastAPI, if it has one. Empty if the body is neither text nor JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    text = body.decode(errors="replace")
    if kind == "application/json" or kind.endswith("+json"):
        text = _detail(text) or text
    elif kind in ("text/html", "application/xhtml+xml"):
        text = _without_markup(text)
    elif not kind.startswith("text/"):
        return ""
    text = text.lstrip()[:_LOOKED_AT_CHARS]
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:MAX_CHARS].rstrip()


def _detail(text: str) -> str:
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return ""
    detail = cast("dict[str, Any]", document).get("detail") if isinstance(document, dict) else document
    if isinstance(detail, list):
        return "; ".join(filter(None, map(_error, cast("list[Any]", detail)[:_MAX_ERRORS])))
    return detail if isinstance(detail, str) else ""


def _error(error: Any) -> str:
    """One of the errors that FastAPI lists: ``{"loc": ["body", "size"], "msg": "Field required"}``."""
    if not isinstance(error, dict):
        return error if isinstance(error, str) else ""
    entry = cast("dict[str, Any]", error)
    where, message = entry.get("loc"), entry.get("msg")
    if not isinstance(message, str):
        return ""
    path = ".".join(str(part) for part in cast("list[Any]", where)) if isinstance(where, list) else ""
    return f"{path}: {message}" if path else message


def _without_markup(text: str) -> str:
    # What stands before the body is style and script, and a title that repeats the heading.
    for end in ("</head>", "</title>"):
        before, found, after = text.partition(end)
        text = after if found else before
    return html.unescape(_TAG.sub(" ", text[:_LOOKED_AT_CHARS]))
