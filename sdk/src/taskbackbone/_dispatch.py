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
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from taskbackbone._played import Content, Record, Tasks

ACCEPTED, COMPLETED, BUSY, AWAY, ERRED, REJECTED = "accepted", "completed", "busy", "away", "erred", "rejected"
_AWAITING = "Awaiting service availability"


@dataclass
class Answer:
    """What a model service answered to a dispatch.

    Attributes:
        meaning: ``accepted``, ``completed`` (the answer is the result), ``busy``, ``away``, ``erred``, ``rejected``.
        status: the HTTP status; 0 if there was no answer.
        headers: by their names in lower case.
        took_s: until the answer was there.
        reason: why it was not accepted.
    """

    meaning: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = field(default=b"", repr=False)
    took_s: float = 0.0
    reason: str = ""

    def settle(self, tasks: Tasks, record: Record, attempt: int) -> None:
        """Do to the task what follows from the answer."""
        if self.meaning == ACCEPTED:
            tasks.accept(record, attempt)
        elif self.meaning == COMPLETED:
            kind = self.headers.get("content-type") or "application/octet-stream"
            content = Content(self.body, kind, self.headers.get("content-encoding", ""))
            text = unquote(self.headers.get("x-task-complete", "")).strip()
            tasks.answered(record, attempt, content, text or "completed")
        elif self.meaning == BUSY:
            tasks.requeue(record, attempt, _AWAITING)
        elif self.meaning == AWAY:
            tasks.requeue(record, attempt, f"{_AWAITING}: the backend {self.reason}")
        elif self.meaning == ERRED:
            failed = f"the backend {self.reason}"
            tasks.requeue(record, attempt, f"Retrying - {failed}", failed=failed)
        else:
            tasks.reject(record, attempt, f"Failed - the backend {self.reason.rstrip('.')}.")


def post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """POST a task. Follows a redirect that only adds a slash to the path."""
    started_s = time.monotonic()
    answer = _post(url, headers, body, timeout_s)
    slashed = _with_slash(url, answer)
    if slashed:
        answer = _post(slashed, headers, body, timeout_s)
    answer.took_s = time.monotonic() - started_s
    return answer


def is_listening(url: str) -> bool:
    split = urlsplit(url)
    port = split.port or (443 if split.scheme == "https" else 80)
    try:
        socket.create_connection((split.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def is_loading(url: str) -> bool:
    """Whether a service that has ``/readyz`` says there that it takes no tasks yet."""
    split = urlsplit(url)
    connection = (HTTPSConnection if split.scheme == "https" else HTTPConnection)(split.netloc, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 503
    except (OSError, HTTPException):
        return False
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
    split = urlsplit(url)
    kind = HTTPSConnection if split.scheme == "https" else HTTPConnection
    connection = kind(split.hostname or "", split.port, timeout=timeout_s)
    try:
        target = urlunsplit(("", "", split.path or "/", split.query, ""))
        connection.request("POST", target, body, {**headers, "Content-Length": str(len(body))})
        response = connection.getresponse()
        data = response.read()
    except socket.timeout:
        return Answer(AWAY, reason="did not answer in time")
    except (OSError, HTTPException):
        return Answer(AWAY, reason="could not be reached")
    finally:
        connection.close()
    found: dict[str, str] = {name.lower(): value for name, value in response.getheaders()}
    meaning, reason = _meaning(response.status, found, data)
    return Answer(meaning, response.status, found, data, reason=reason)


def _meaning(status: int, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    if 200 <= status < 300:
        return (COMPLETED if "x-task-complete" in headers else ACCEPTED), ""
    reason = f"answered {status}"
    if status in (429, 503):
        return BUSY, reason
    text = text_of(headers.get("content-type", ""), body)
    if text and 400 <= status < 500:
        reason = f"{reason}: {text}"
    if status in (404, 502, 504):
        return AWAY, reason
    return (ERRED if status == 408 or status >= 500 else REJECTED), reason


def _with_slash(url: str, answer: Answer) -> str:
    location = answer.headers.get("location")
    if location is None or answer.status not in (301, 302, 307, 308):
        return ""
    called, target = urlsplit(url), urlsplit(urljoin(url, location))
    is_same = (called.hostname, called.port, called.query) == (target.hostname, target.port, target.query)
    return urlunsplit(called._replace(path=target.path)) if is_same and target.path == called.path + "/" else ""


def _detail(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    detail: Any = cast("dict[str, Any]", document).get("detail") if isinstance(document, dict) else document
    if isinstance(detail, list):
        return "; ".join(filter(None, map(_message, cast("list[Any]", detail))))
    return detail if isinstance(detail, str) else ""


def _message(error: Any) -> str:
    """One of the errors that FastAPI lists."""
    return str(cast("dict[str, Any]", error).get("msg", "")) if isinstance(error, dict) else ""
