"""How a server of a model is called, and what its answers say."""

from __future__ import annotations

import html
import json
import re
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from ._bounds import BoundedResponse


def connection_to(url: str, timeout_s: float) -> HTTPConnection:
    split = urlsplit(url)
    kind = HTTPSConnection if split.scheme == "https" else HTTPConnection
    connection = kind(split.hostname or "", split.port, timeout=timeout_s)
    connection.response_class = BoundedResponse
    return connection


def target_of(url: str) -> str:
    split = urlsplit(url)
    return (split.path or "/") + (f"?{split.query}" if split.query else "")


def with_slash(url: str, status: int, location: str) -> str:
    """Where a redirect leads that only adds a slash to the path; else nothing."""
    other = urljoin(url, location)
    return other if 300 < status < 400 and other.partition("?")[0] == url.partition("?")[0] + "/" else ""


def text_of(content_type: str, body: bytes) -> str:
    """The first 500 characters of a text or JSON body, of JSON its ``detail``; empty for any other."""
    kind, text = content_type.partition(";")[0].strip().lower(), body.decode(errors="replace")
    if kind == "application/json" or kind.endswith("+json"):
        text = _detail(text) or text
    elif kind == "text/html":
        text = html.unescape(re.sub(r"<[^<>]*>", " ", text.partition("</head>")[2] or text))
    elif not kind.startswith("text/"):
        return ""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:4000]).split())[:500].rstrip()


def _detail(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    detail: Any = cast("dict[str, Any]", document).get("detail") if isinstance(document, dict) else document
    if isinstance(detail, list):  # FastAPI lists errors
        errors = [cast("dict[str, Any]", each) for each in cast("list[Any]", detail) if isinstance(each, dict)]
        return "; ".join(str(error["msg"]) for error in errors if "msg" in error)
    return detail if isinstance(detail, str) else ""
