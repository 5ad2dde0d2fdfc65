"""What callers do, as steps: the faces ``_async`` and ``_sync`` only run them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union, cast
from urllib.parse import quote, urlencode

from . import errors
from ._core import LARGE_BYTES, RETRY_FOR_S, TIMEOUT_S, Answer, Backbone, Sleep, Steps, refusal, request, task_path
from ._payload import Payload

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_POLL_S = 30
"""A wait at the backbone is no longer, since the platform gives a stopped instance's requests so long."""
_LONGEST_SLEEP_S = 600.0
"""Of a waiting task. The estimate may be wrong: then the end is noticed so late at most."""
_POSITION_POLL_S = 5.0
_LEAST_LOOK_S = 0.2
_PREFERRED_WAIT_S = 20
_ENDS = ("completed", "failed", "cancelled")

Query = Union[str, Mapping[str, Any], Sequence["tuple[str, Any]"], None]


class Caller:
    """Whom the calls go to, and how patiently.

    Parameters:
        timeout_s: for how long the backbone may be silent.
        retry_for_s: for how long a call is repeated.
    """

    def __init__(self, backbone: Backbone, timeout_s: float = TIMEOUT_S, retry_for_s: float = RETRY_FOR_S) -> None:
        self.backbone = backbone
        self.timeout_s = timeout_s
        self.retry_for_s = retry_for_s
        self._max_body_bytes: int | None = None

    def ask(self, method: str, path: str, *, retry_for_s: float | None = None, **options: Any) -> Steps[Answer]:
        """A call that is repeated, whatever its answer.

        Raises:
            Unreachable: there is none.
        """
        timeout_s = self.timeout_s + options.pop("wait_s", 0)
        call = self.backbone.call(method, path, timeout_s=timeout_s, **options)
        return (yield from request(call, retry_for_s=self.retry_for_s if retry_for_s is None else retry_for_s))

    def demand(self, method: str, path: str, **options: Any) -> Steps[Answer]:
        """The same, but any answer other than 2xx is an error.

        Raises:
            Refused: by its answer.
        """
        answer = yield from self.ask(method, path, **options)
        if not answer.is_success:
            raise refusal(answer)
        return answer

    def document(self, path: str, name: str, query: str = "") -> Steps[dict[str, Any]]:
        """The JSON object at *path*, which must have the member *name*."""
        return _object((yield from self.demand("GET", path, query=query)), name)

    def max_body_bytes(self) -> Steps[int | None]:
        """``MaxBodyBytes`` of health, read once; None if health does not tell it now."""
        if self._max_body_bytes is None:
            call = self.backbone.call("GET", "/api/v1/health", timeout_s=self.timeout_s)
            try:
                told = (yield from request(call, retry_for_s=self.timeout_s / 10)).json().get("MaxBodyBytes")
            except errors.Unreachable:
                told = None  # then the submit tells
            self._max_body_bytes = told if isinstance(told, int) else None
        return self._max_body_bytes

    def within_limit(self, size: int) -> Steps[None]:
        """
        Raises:
            TooLarge: the backbone takes no body of *size* bytes.
        """
        limit = yield from self.max_body_bytes()
        if limit is not None and size > limit:
            raise errors.TooLarge(f"The body has {size:,} bytes; the backbone takes {limit:,} at most.")

    def submit(
        self,
        path: str,
        body: bytes | Payload,
        content_type: str,
        *,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        prefers_end: bool = False,
    ) -> Steps[Answer]:
        """
        Parameters:
            prefers_end: the answer may come at the task's end, if that is soon.
        """
        target, query_text = _endpoint(path, query)
        headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key or os.urandom(16).hex()}
        if priority is not None:
            headers["Priority"] = str(priority)
        if len(body) > LARGE_BYTES:
            prefers_end = False  # it would be sent again if the connection broke during the wait
            yield from self.within_limit(len(body))
        if prefers_end:
            headers["Prefer"] = f"wait={_PREFERRED_WAIT_S}"
        answer = yield from self.ask(
            "POST",
            "/api/v1/submit" + target,
            query=query_text,
            headers=headers,
            body=body,
            wait_s=_PREFERRED_WAIT_S if prefers_end else 0,
        )
        if not answer.is_success:
            if answer.status == 413:
                self._max_body_bytes = None  # it was lowered
            raise refusal(answer)
        return answer

    def replay(self, task_id: str) -> Steps[Answer]:
        answer = yield from self.ask("POST", task_path(task_id, "/replay"), body=b"")
        is_lost = answer.status == 409 and answer.repeated  # perhaps: the answer that it is replayed
        if is_lost and _task_of(answer).get("BackendStatus") in ("created", "running"):
            return (yield from self.demand("GET", task_path(task_id)))
        if not answer.is_success:
            raise refusal(answer)
        return answer

    def open_result(self, task_id: str, start: int = 0, etag: str | None = None) -> Steps[Answer]:
        """The streamed result from its byte *start*, or the whole of it if this *etag* is no longer its."""
        headers = {"Range": f"bytes={start}-", "If-Range": etag} if start and etag else {}
        return (yield from self.demand("GET", task_path(task_id, "/result"), headers=headers, streamed=True))


class Deadline:
    """When a wait is to end; never with None."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self, at_most: float) -> float:
        return at_most if self._end_s is None else max(0.0, min(at_most, self._end_s - time.monotonic()))

    @property
    def is_over(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s


class Sight:
    """A task as the backbone last showed it, and what is needed to ask for it again."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document: dict[str, Any] = dict(document)
        self.etag: str | None = None
        self.retry_after_s: float | None = None

    def see(self, answer: Answer) -> bool:
        """Take in an answer with the task, or a 304. Says whether anything is new."""
        self.retry_after_s = answer.retry_after_s
        if answer.status == 304:
            return False
        before, self.document = self.document, _object(answer, "TaskId")
        self.etag = answer.headers.get("etag")
        return any(self.document.get(name) != before.get(name) for name in _TOLD)


_TOLD = ("BackendStatus", "Status", "Attempt", "Progress", "QueuePosition", "EndpointPath", "ResultSize")


class TaskView:
    """A task as it was last seen."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    @property
    def document(self) -> dict[str, Any]:
        """The task as the API's JSON object."""
        return self._sight.document

    @property
    def id(self) -> str:
        return str(self.document["TaskId"])

    @property
    def state(self) -> str:
        """``created``, ``running``, ``completed``, ``failed`` or ``cancelled``."""
        return str(self.document.get("BackendStatus", ""))

    @property
    def is_finished(self) -> bool:
        return self.state in _ENDS

    @property
    def status(self) -> str:
        """The text that the model service or the backbone has for the caller."""
        return str(self.document.get("Status", ""))

    @property
    def path(self) -> str:
        """The endpoint's path, which names the queue."""
        return str(self.document.get("EndpointPath", ""))

    @property
    def attempt(self) -> int:
        return int(self.document.get("Attempt", 0))

    @property
    def progress(self) -> float | None:
        """0 to 1; None if the model service does not tell."""
        return self.document.get("Progress")

    @property
    def queue_position(self) -> int | None:
        """1 for the next; None if the task does not wait in its queue."""
        return self.document.get("QueuePosition")

    @property
    def estimated_start(self) -> Any:
        """When the waiting task will start, as a ``datetime`` in UTC; None if that is unknown."""
        text = self.document.get("EstimatedStart")
        if not text:
            return None
        from datetime import datetime

        return datetime.fromisoformat(text.replace("Z", "+00:00"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.state!r}, {self.status[:100]!r})"


def look(caller: Caller, sight: Sight, deadline: Deadline, *, closely: bool) -> Steps[bool]:
    """Wait for a task's next change, or for as long as one wait lasts. Says whether anything is new.

    Parameters:
        closely: whether a new position in the queue is of interest too.

    Raises:
        Unreachable: the backbone gave no answer until then.
    """
    view = TaskView(sight)
    retry_after_s = 1.0 if sight.retry_after_s is None else sight.retry_after_s
    waits, headers, wait_s = view.state == "created", {"If-None-Match": sight.etag or '"none"'}, LONGEST_POLL_S
    if closely and view.queue_position is not None:  # a new position ends no wait, and makes no new ETag
        headers, wait_s = {}, min(_POSITION_POLL_S, max(1.0, retry_after_s))
    elif waits and retry_after_s > LONGEST_POLL_S:
        yield Sleep(deadline.left_s(min(retry_after_s, _LONGEST_SLEEP_S)))
        wait_s = 0
    wait_s = round(deadline.left_s(wait_s), 3)
    began_s, state, etag = time.monotonic(), view.state, sight.etag
    answer = yield from caller.ask(
        "GET",
        task_path(view.id),
        query=f"wait={wait_s:g}",
        headers=headers,
        wait_s=wait_s,
        retry_for_s=deadline.left_s(caller.retry_for_s),
    )
    if not answer.is_success and answer.status != 304:
        raise refusal(answer)
    is_new = sight.see(answer)
    took_s = time.monotonic() - began_s
    if not view.is_finished and took_s < wait_s:
        if sight.etag == etag:  # the wait had to make room for another
            pause_s = sight.retry_after_s or 1.0
        else:  # a task may change all the time
            pause_s = _LEAST_LOOK_S - took_s if view.state == state else 0.0
        if pause_s > 0:
            yield Sleep(deadline.left_s(pause_s))
    return is_new


def pause_before_resuming(failures: int) -> Steps[None]:
    """Before a result that broke off is read on."""
    yield Sleep(random.uniform(0, 0.25 * 2**failures))


def target_of(path: os.PathLike[str] | str, task_id: str, content_type: str) -> Path:
    """The file that a result is saved to: *path*, or one in it if it is a folder."""
    from pathlib import Path

    target = Path(path)
    if not target.is_dir():
        return target
    from mimetypes import guess_extension

    return target / (task_id + (guess_extension(content_type.partition(";")[0].strip().lower()) or ""))


def list_query(path: str | None, status: str | None, limit: int | None, cursor: str | None) -> str:
    members = {"path": path, "status": status, "limit": limit, "cursor": cursor}
    return urlencode({name: value for name, value in members.items() if value is not None})


def queue_path(path: str | None) -> str:
    return "/api/v1/queues" + (_escaped(path) if path else "/")


def _endpoint(path: str, query: Query) -> tuple[str, str]:
    """*path* and *query* as they stand in a URL; *path* may have a query, too."""
    path, _, beside = path.partition("?")
    if query is None or isinstance(query, str):
        text = query or ""
    else:
        pairs = query.items() if isinstance(query, Mapping) else query
        text = urlencode([(name, one) for name, value in pairs for one in _texts(value)])
    text = quote("&".join(part for part in (beside, text) if part), safe="%/:?@!$&'()*+,;=-._~")
    if any(part.partition("=")[0] in ("code", "clientId") for part in text.split("&")):
        raise ValueError("The backbone keeps the query parameters code and clientId to itself.")
    return _escaped(path), text


def _texts(value: Any) -> list[str]:
    """A parameter's value as it stands in a query; several of a list."""
    values = cast("list[Any]", value if isinstance(value, (list, tuple)) else [value])
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in values]


def _escaped(path: str) -> str:
    escaped = quote(path if path.startswith("/") else "/" + path, safe="/%:@+,=-._~!$&'()*;")
    if any(part.lower().replace("%2e", ".") in (".", "..") for part in escaped.split("/")):
        raise ValueError("A path has no segments of dots.")
    return escaped


def _task_of(conflict: Answer) -> dict[str, Any]:
    return conflict.json().get("Task") or {}


def _object(answer: Answer, name: str) -> dict[str, Any]:
    document = answer.json()
    if name not in document:
        raise errors.Unreachable("What answers is not the backbone: is the URL right?", answer.status)
    return document
