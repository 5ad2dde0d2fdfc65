"""How the backbone is called, without any input or output.

Steps are a generator. It yields ``Call`` and ``Sleep`` and is sent the ``Answer``; where there is none, ``NoAnswer``
is thrown into it. ``_drivers`` runs such steps.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar, Union, cast
from urllib.parse import quote, urlsplit

from . import __version__, errors
from ._payload import Payload, decoded

T = TypeVar("T")
TIMEOUT_S = 30.0
"""For how long the backbone may be silent while it answers a call."""
RETRY_FOR_S = 120.0
LARGE_BYTES = 1024 * 1024
"""A body over this is not sent before the largest that is taken is known."""
LONGEST_ID = 1_024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 20.0
_REASON_CHARS = 300
_MOST_JSON_BYTES = 16 * 1024 * 1024
"""Its lists may take thirty times as much."""


class Call(NamedTuple):
    """One request. Its ``repr`` shows no headers, since these have the key, and no query.

    The body of a 2xx may be streamed.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | Payload | None
    timeout_s: float
    streamed: bool

    @property
    def size(self) -> int:
        return 0 if self.body is None else len(self.body)

    def __repr__(self) -> str:
        return f"Call({self.method} {self.url.partition('?')[0]})"  # a query may carry a permission


class Sleep(NamedTuple):
    seconds: float


class Work(NamedTuple):
    """Something that takes long and is no call. It is done in a thread where others would be held up.

    ``halt`` makes it stop: whoever waits for it does so no longer.
    """

    do: Callable[[], Any]
    halt: Callable[[], None]


class Answer(NamedTuple):
    """What the backbone answered, with names of headers in small letters; *repeated* if not to the first call.

    A *stream* is an iterable of bytes with ``close()``, an asynchronous one from aiohttp.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    stream: Any = None
    repeated: bool = False

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one if it is anything else."""
        import json

        try:
            if len(self.body) > _MOST_JSON_BYTES:
                return {}
            document = json.loads(decoded(self.headers.get("content-encoding"), self.body, _MOST_JSON_BYTES))
        except (ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", document) if isinstance(document, dict) else {}

    @property
    def retry_after_s(self) -> float | None:
        """What ``Retry-After`` says, in seconds from now; None without it."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        if not text:
            return None
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError):
            return None


class NoAnswer(errors.BackboneError):
    """A call got no whole answer. The message says why, and no header."""


Steps = Generator[Union[Call, Sleep, Work], Any, T]
"""Steps that end in a T."""


class Backbone:
    """Where the backbone is, and on whose behalf it is called: the parameters are those of ``TaskClient``.

    Raises:
        ValueError: there is no URL, or it is none, or something cannot stand in a header. Never repeats a value.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        owner: str | None = None,
        gateway_key: str | None = None,
    ) -> None:
        # A variable that was made of a file may end with that file's line.
        self.url = _base_url(url or os.environ.get("BACKBONE_URL", "").strip())
        headers = {
            "x-functions-key": key or os.environ.get("BACKBONE_KEY", "").strip(),
            "X-Task-Owner": owner,
            "X-Gateway-Key": gateway_key,
        }
        self._headers = {name: _header(name, value) for name, value in headers.items() if value}
        self._headers["User-Agent"] = f"taskbackbone/{__version__}"
        self._headers["Accept-Encoding"] = "identity"

    def call(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Payload | None = None,
        timeout_s: float = TIMEOUT_S,
        streamed: bool = False,
    ) -> Call:
        """A call of *path*, such as ``/api/v1/tasks/ID``, which is escaped already, as *query* is."""
        sent = {**self._headers, **{name: _header(name, value) for name, value in (headers or {}).items()}}
        url = self.url + path + ("?" + query if query else "")
        return Call(method, url, sent, body, timeout_s, streamed)

    def __repr__(self) -> str:
        return f"Backbone({self.url!r})"


def task_path(task_id: str, rest: str = "") -> str:
    if not task_id or len(task_id) > LONGEST_ID or not task_id.strip("."):
        raise errors.NotFound("No task can have this id.", 404, {"type": "urn:task-backbone:problem:no-such-task"})
    return f"/api/v1/tasks/{quote(task_id, safe='')}{rest}"


def request(call: Call, *, retry_for_s: float = RETRY_FOR_S) -> Steps[Answer]:
    """Make a call that may be made twice, until it has an answer that stays, or *retry_for_s* seconds are over.

    The answer of the last time is returned, whatever it is.

    Raises:
        Unreachable: there was none.
        TooLarge: twice, the platform ended the connection over a large body.
    """
    give_up_s = time.monotonic() + retry_for_s
    pause_s, ends, repeated = _FIRST_PAUSE_S, 0, False
    while True:
        answer, least_s = None, 0.0
        try:
            answer = (yield call)._replace(repeated=repeated)
            if not is_transient(answer.status):
                return answer
            failure: object = f"status {answer.status}"
            least_s = answer.retry_after_s or 0.0
            ends += _is_platforms_limit(call, answer)
        except NoAnswer as error:
            failure = error
        if ends == 2:
            limit = f"The platform refused a body of {call.size:,} bytes twice: it takes none so large."
            raise errors.TooLarge(limit, 500)
        left_s = give_up_s - time.monotonic()
        if left_s <= least_s:
            if answer is None:
                raise errors.Unreachable(f"The backbone does not answer: {failure}")
            return answer
        wait_s = min(least_s + random.uniform(0, pause_s), left_s)
        _log_repetition(call, failure, wait_s)
        yield Sleep(wait_s)
        pause_s, repeated = min(2 * pause_s, _LONGEST_PAUSE_S), True


def _log_repetition(call: Call, why: object, wait_s: float) -> None:
    import logging

    path = urlsplit(call.url).path
    logging.getLogger("taskbackbone").info("%s %s: %s; again in %.1f s", call.method, path, why, wait_s)


def is_transient(status: int) -> bool:
    """Whether the same call may be answered otherwise later."""
    return status in (408, 429) or (status >= 500 and status != 501)


def refusal(answer: Answer) -> errors.BackboneError:
    """The error that an answer other than 2xx stands for."""
    problem = answer.json()
    kind = str(problem.get("type", "")).rpartition(":")[2]
    message = _message(answer, problem)
    if kind in ("queue-full", "queue-draining"):
        return errors.QueueFull(message, answer.status, problem)
    if kind.startswith("upload-"):
        return errors.Refused(message, answer.status, problem)
    if is_transient(answer.status):
        return errors.Unreachable(message, answer.status)
    return _REFUSALS.get(answer.status, errors.Refused)(message, answer.status, problem)


_REFUSALS: dict[int, type[errors.Refused]] = {
    400: errors.InvalidRequest,
    401: errors.NotAllowed,
    403: errors.NotAllowed,
    404: errors.NotFound,
    409: errors.Conflict,
    411: errors.InvalidRequest,
    413: errors.TooLarge,
    422: errors.KeyReused,
}


def _message(answer: Answer, problem: Mapping[str, Any]) -> str:
    told = problem.get("detail") or problem.get("title")
    if told:
        return str(told)[:_REASON_CHARS]
    if 300 <= answer.status < 400:
        return f"The server redirects ({answer.status}); nothing was sent there. Is the URL right?"
    return f"The server answered {answer.status}, and not in the backbone's words. Are URL and key right?"


def _is_platforms_limit(call: Call, answer: Answer) -> bool:
    return (
        answer.status == 500
        and not answer.body
        and call.size > LARGE_BYTES
        and answer.headers.get("connection", "").lower() == "close"
    )


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    is_plain = not (parts.username or parts.query or parts.fragment)  # a key belongs into its header
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError("url, or BACKBONE_URL, must be http:// or https://, a host, and perhaps a path.")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path[:-4] if path.endswith('/api') else path}"


def _header(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise ValueError(f"{name}: printable ASCII is expected, without blanks around it.")
    return value
