"""How a played backbone calls a model service, and what the answer means (``docs/lifecycle.md``)."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import unquote

from ._bounds import EndlessAnswer, chunks_of
from ._payload import MOST_BYTES
from ._played import LEASED, Content, Record, Tasks
from ._upstream import connection_to, target_of, text_of, with_slash

_MOST_TEXT_BYTES = 64 * 1024
"""Of an answer that is no result."""
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
    # Lower than those of outgoing connections, one of which might have it before it is used.
    while True:
        port = random.randrange(11_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def _post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    connection, end_s = connection_to(url, timeout_s), time.monotonic() + timeout_s
    data = bytearray()
    try:
        connection.request("POST", target_of(url), body, {**headers, "Content-Length": str(len(body))})
        response = connection.getresponse()
        is_result = response.status // 100 == 2 and "x-task-complete" in response.headers
        for chunk in chunks_of(response):
            data += chunk
            if len(data) > MOST_BYTES:
                return Answer("rejected", response.status, reason=f"answered with more than {MOST_BYTES} bytes")
            if time.monotonic() > end_s and is_result:
                return Answer("erred", response.status, reason="did not end its answer in time")
            if time.monotonic() > end_s or (len(data) > _MOST_TEXT_BYTES and not is_result):
                break
    except socket.timeout:
        return Answer("away", reason="did not answer in time")
    except EndlessAnswer:
        return Answer("erred", reason="sent an answer that does not end")
    except (OSError, HTTPException):
        return Answer("away", reason="could not be reached")
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    status, reason, content = response.status, f"answered {response.status}", bytes(data)
    if 200 <= status < 300:
        return Answer("completed" if "x-task-complete" in found else "accepted", status, found, content)
    text = text_of(found.get("content-type", ""), content)
    if text and 400 <= status < 500 and status != 429:
        reason = f"{reason}: {text}"
    meaning = {429: "busy", 503: "busy", 404: "away", 502: "away", 504: "away", 408: "erred"}.get(status)
    return Answer(meaning or ("erred" if status >= 500 else "rejected"), status, found, content, reason=reason)
