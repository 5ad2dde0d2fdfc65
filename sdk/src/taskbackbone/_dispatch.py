"""How a played backbone calls a model service, and what the answer means (``docs/lifecycle.md``)."""

from __future__ import annotations

import html
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, cast
from urllib.parse import unquote, urljoin, urlsplit

from ._played import LEASED, Content, Record, Tasks

_AWAITING = "Awaiting service availability"


@dataclass
class Answer:
    """What a model service answered to a dispatch.

    Attributes:
        meaning: ``accepted``, ``completed`` (the answer is the result), ``busy``, ``away``, ``erred``, ``rejected``.
        status: the HTTP status; 0 if there was no answer.
        headers: by their names in lower case.
        took_s: until the answer was there.
        reason: what it did, if it did not accept.
    """

    meaning: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = field(default=b"", repr=False)
    took_s: float = 0.0
    reason: str = ""

    @property
    def is_taken(self) -> bool:
        return self.meaning in ("accepted", "completed")

    def settle(self, tasks: Tasks, record: Record, attempt: int) -> None:
        """Do to the task what follows from the answer."""
        did = f"the backend {self.reason}"
        if self.meaning == "completed" and record.attempt == attempt and record.state in LEASED:
            kind, encoding = (self.headers.get(f"content-{name}", "") for name in ("type", "encoding"))
            text = unquote(self.headers["x-task-complete"]).strip() or "completed"
            tasks.end(record, "completed", text, Content(self.body, kind or Content.content_type, encoding))
        elif not tasks.is_called(record, attempt):
            pass
        elif self.meaning == "accepted":
            tasks.accept(record)
        elif self.meaning == "erred":
            tasks.requeue(record, f"Retrying - {did}", did)
        elif self.meaning == "rejected":
            tasks.end(record, "failed", f"Failed - {did.rstrip('.')}.")
        else:
            tasks.requeue(record, _AWAITING if self.meaning == "busy" else f"{_AWAITING}: {did}")


def connection_to(url: str, timeout_s: float) -> HTTPConnection:
    split = urlsplit(url)
    kind = HTTPSConnection if split.scheme == "https" else HTTPConnection
    return kind(split.hostname or "", split.port, timeout=timeout_s)


def target_of(url: str) -> str:
    split = urlsplit(url)
    return (split.path or "/") + (f"?{split.query}" if split.query else "")


def with_slash(url: str, status: int, location: str) -> str:
    """Where a redirect leads that only adds a slash to the path; else nothing."""
    other = urljoin(url, location)
    return other if 300 < status < 400 and other.partition("?")[0] == url.partition("?")[0] + "/" else ""


def post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """POST a task. Follows a redirect that only adds a slash to the path."""
    started_s = time.monotonic()
    answer = _post(url, headers, body, timeout_s)
    slashed = with_slash(url, answer.status, answer.headers.get("location", ""))
    if slashed:
        answer = _post(slashed, headers, body, timeout_s)
    answer.took_s = time.monotonic() - started_s
    return answer


def is_up(url: str, *, until_loaded: bool) -> bool:
    """Whether a service listens; and, *until_loaded*, does not say at ``/readyz`` that it takes no tasks yet."""
    connection = connection_to(url, 5)
    try:
        connection.connect()
    except OSError:
        return False
    try:
        if not until_loaded:
            return True
        connection.request("GET", "/readyz")
        return connection.getresponse().status != 503
    except (OSError, HTTPException):
        return True
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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


def _post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    connection = connection_to(url, timeout_s)
    try:
        connection.request("POST", target_of(url), body, {**headers, "Content-Length": str(len(body))})
        response = connection.getresponse()
        data = response.read()
    except socket.timeout:
        return Answer("away", reason="did not answer in time")
    except (OSError, HTTPException):
        return Answer("away", reason="could not be reached")
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    status, reason = response.status, f"answered {response.status}"
    if 200 <= status < 300:
        return Answer("completed" if "x-task-complete" in found else "accepted", status, found, data)
    text = text_of(found.get("content-type", ""), data)
    if text and 400 <= status < 500 and status != 429:
        reason = f"{reason}: {text}"
    meaning = {429: "busy", 503: "busy", 404: "away", 502: "away", 504: "away", 408: "erred"}.get(status)
    return Answer(meaning or ("erred" if status >= 500 else "rejected"), status, found, data, reason=reason)


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
