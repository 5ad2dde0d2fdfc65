"""What callers do, as steps: the faces in ``client`` only run them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from urllib.parse import quote, urlencode

from . import errors
from ._core import LARGE_BYTES, RETRY_FOR_S, TIMEOUT_S, Answer, Backbone, Sleep, Steps, refusal, request, task_path
from ._payload import TOGETHER_BYTES, Payload

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

LONGEST_POLL_S = 30
"""A wait at the backbone is no longer, since the platform gives a stopped instance's requests so long."""
_LONGEST_SLEEP_S = 600.0
"""Of a waiting task. The estimate may be wrong: then the end is noticed so late at most."""
_POSITION_POLL_S = 5.0
_LEAST_LOOK_S = 0.2
_MOST_WAITED_FOR = 200
UNTOLD = errors.Unreachable("The backbone has not told what became of it.")
_PREFERRED_WAIT_S = 20
_TOLD = (
    *("BackendStatus", "Status", "Attempt", "Progress", "QueuePosition", "EndpointPath", "Step", "ResultSize"),
    *("Total", "Unfinished", "Failed", "Sealed", "ThenTaskId"),
)

Query = Union[str, Mapping[str, Any], Sequence["tuple[str, Any]"], None]
Pipeline = Union[str, Sequence[str], None]
When = Union[float, "datetime", None]
"""In how many seconds, or at which time, which has a zone."""


class Deadline:
    """When a wait is to end; never with None."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self, at_most: float = float("inf")) -> float:
        return max(0.0, min(at_most, self._end_s - time.monotonic()))


class Item(NamedTuple):
    """One of the bodies that are submitted together, and its idempotency key."""

    body: bytes | Payload
    content_type: str
    key: str


class Caller:
    """Whom the calls go to, and how patiently: the parameters are those of ``TaskClient``."""

    def __init__(
        self,
        backbone: Backbone,
        timeout_s: float = TIMEOUT_S,
        retry_for_s: float = RETRY_FOR_S,
        upload_over_bytes: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.timeout_s = timeout_s
        self.retry_for_s = retry_for_s
        self._upload_over_bytes = upload_over_bytes
        self._max_body_bytes: int | None = None
        self.most_together_bytes = min(
            TOGETHER_BYTES, TOGETHER_BYTES if upload_over_bytes is None else upload_over_bytes
        )
        self._max_upload_bytes = 0
        self.waits_for_many = True

    def demand(
        self, method: str, path: str, *, wait_s: float = 0, retry_for_s: float | None = None, **options: Any
    ) -> Steps[Answer]:
        """A call that is repeated, and answered 2xx or 304, but perhaps only after *wait_s*."""
        call = self.backbone.call(method, path, timeout_s=self.timeout_s + wait_s, **options)
        answer = yield from request(call, retry_for_s=self.retry_for_s if retry_for_s is None else retry_for_s)
        if not answer.is_success and answer.status != 304:
            raise refusal(answer)
        return answer

    def member(self, path: str, name: str, query: str = "") -> Steps[Any]:
        """The member *name* of the JSON object at *path*."""
        return document_of((yield from self.demand("GET", path, query=query)), name)[name]

    def page(self, what: str, **members: Any) -> Steps[Any]:
        """A page of ``Tasks``, ``Batches`` or ``Queues``."""
        query = urlencode({name: value for name, value in members.items() if value is not None})
        return document_of((yield from self.demand("GET", "/api/v1/" + what.lower(), query=query)), what)

    def queue(self, path: str) -> Steps[dict[str, Any]]:
        return document_of((yield from self.demand("GET", "/api/v1/queues" + _escaped(path))), "EndpointPath")

    def max_body_bytes(self) -> Steps[int | None]:
        """``MaxBodyBytes`` of health, read once; None if health does not tell it now."""
        if self._max_body_bytes is None:
            call = self.backbone.call("GET", "/api/v1/health", timeout_s=self.timeout_s)
            told: dict[str, Any] = {}
            with suppress(errors.Unreachable):  # then the submit tells
                told = (yield from request(call, retry_for_s=self.timeout_s / 10)).json()
            most, most_uploaded = told.get("MaxBodyBytes"), told.get("MaxUploadBytes")
            self._max_body_bytes = most if isinstance(most, int) else None
            self._max_upload_bytes = most_uploaded if isinstance(most_uploaded, int) else 0
        return self._max_body_bytes

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Payload,
        *,
        headers: Mapping[str, str],
        uploaded: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Steps[Answer]:
        """A call with a body, which is uploaded if it has more bytes than the backbone takes.

        Parameters:
            uploaded: what is told of an upload beside its body; None: it cannot be one.
        """
        over, limit = self._upload_over_bytes, None
        if len(body) > (LARGE_BYTES if over is None else min(over, LARGE_BYTES)):
            limit = yield from self.max_body_bytes()
            most = max(limit or 0, self._max_upload_bytes) if uploaded is not None else limit
            if most and len(body) > most:
                raise errors.TooLarge(f"The body has {len(body):,} bytes; the backbone takes {most:,} at most.")
        bounds = [bound for bound in (over, limit) if bound is not None]
        try:
            if uploaded is not None and self._max_upload_bytes and bounds and len(body) > min(bounds):
                from ._blobs import upload

                def hand_in(headers: Mapping[str, str]) -> Steps[Answer]:
                    return self.demand(method, path, body=b"", headers=headers, **options)

                return (yield from upload(self, hand_in, body, headers, uploaded))
            return (yield from self.demand(method, path, body=body, headers=headers, **options))
        except errors.TooLarge:
            self._max_body_bytes = None  # it was lowered
            raise

    def submit(
        self,
        path: str,
        body: bytes | Payload,
        content_type: str,
        *,
        query: Query = None,
        idempotency_key: str | None = None,
        prefers_end: bool = False,
        **wishes: Any,
    ) -> Steps[Answer]:
        """With *prefers_end*, the answer may come at the task's end, if it is soon; *wishes* are of ``asked``."""
        headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key or os.urandom(16).hex()}
        headers.update(asked(**wishes))
        wait_s = 0
        if prefers_end and len(body) <= LARGE_BYTES:  # else it is sent again if the connection breaks meanwhile
            wait_s = _PREFERRED_WAIT_S
            headers["Prefer"] = f"wait={wait_s}"
        target, text = endpoint(path, query)
        path = "/api/v1/submit" + target
        return (yield from self.send("POST", path, body, query=text, headers=headers, uploaded={}, wait_s=wait_s))

    def submit_many(
        self, path: str, items: Sequence[Item], *, query: Query = None, **wishes: Any
    ) -> Steps[list[Any]]:
        """What becomes of each of *items*: a task as a JSON object, or the error that stands for its refusal.

        Raises:
            NotFound: with no ``kind``: this backbone takes one at a time.
        """
        target, text = endpoint(path, query)
        mark = os.urandom(16).hex()
        parts: list[bytes] = []
        for item in items:
            head = f"--{mark}\r\nContent-Type: {item.content_type}\r\nIdempotency-Key: {item.key}\r\n\r\n"
            parts += head.encode(), item.body if isinstance(item.body, bytes) else b"".join(item.body), b"\r\n"
        body = b"".join([*parts, f"--{mark}--\r\n".encode()])
        headers = {"Content-Type": f"multipart/mixed; boundary={mark}", **asked(**wishes)}
        path = "/api/v1/submit-many" + target
        try:
            answer = yield from self.demand("POST", path, query=text, body=body, headers=headers)
            told = [json.loads(line) for line in answer.body.splitlines()]
        except errors.Refused as error:  # none was taken
            told = error.problem.get("Outcomes")
            if told is None:
                raise
        outcomes = {each["Line"]: _outcome(each) for each in told}
        return [outcomes.get(number, UNTOLD) for number, _ in enumerate(items, 1)]

    def replay(self, task_id: str) -> Steps[Answer]:
        call = self.backbone.call("POST", task_path(task_id, "/replay"), body=b"", timeout_s=self.timeout_s)
        answer = yield from request(call, retry_for_s=self.retry_for_s)
        if answer.is_success:
            return answer
        is_lost = answer.status == 409 and answer.repeated  # perhaps: the answer that it is replayed
        task: dict[str, Any] = answer.json().get("Task") or {}
        if is_lost and task.get("BackendStatus") in ("created", "running"):
            return (yield from self.demand("GET", task_path(task_id)))
        raise refusal(answer)

    def remove(self, path: str, query: str = "") -> Steps[None]:
        call = self.backbone.call("DELETE", path, query=query, timeout_s=self.timeout_s)
        answer = yield from request(call, retry_for_s=self.retry_for_s)
        if not answer.is_success and not (answer.status == 404 and answer.repeated):
            raise refusal(answer)


class TaskView:
    """A task as it was last seen."""

    def __init__(self, caller: Caller, seen: Mapping[str, Any] | Answer) -> None:
        self._caller = caller
        self.document: dict[str, Any] = {} if isinstance(seen, Answer) else dict(seen)
        """The task as the API's JSON object."""
        self._etag: str | None = None
        self._retry_after_s: float | None = None
        if isinstance(seen, Answer):
            self._see(seen)

    @property
    def id(self) -> str:
        return str(self.document["TaskId"])

    @property
    def state(self) -> str:
        """``created``, ``running``, ``completed``, ``failed`` or ``cancelled``."""
        return str(self.document.get("BackendStatus", ""))

    @property
    def is_finished(self) -> bool:
        return self.state in ("completed", "failed", "cancelled")

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
    def step(self) -> int | None:
        """In which step of its pipeline it is, 1 for the first; None if it is in none."""
        return self.document.get("Step")

    @property
    def steps(self) -> int | None:
        """How many steps its pipeline has."""
        return self.document.get("Steps")

    @property
    def progress(self) -> float | None:
        """0 to 1; None if the model service does not tell."""
        return self.document.get("Progress")

    @property
    def queue_position(self) -> int | None:
        """1 for the next; None if the task does not wait in its queue."""
        return self.document.get("QueuePosition")

    @property
    def start_at(self) -> Any:
        """When the task may start, as a ``datetime`` in UTC; None if at once."""
        return moment(self.document.get("StartAt"))

    @property
    def expires_at(self) -> Any:
        """When the task fails unless it was dispatched before, as a ``datetime`` in UTC; None if never."""
        return moment(self.document.get("ExpiresAt"))

    @property
    def estimated_start(self) -> Any:
        """When the waiting task will start, as a ``datetime`` in UTC; None if that is unknown."""
        return moment(self.document.get("EstimatedStart"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.state!r}, {self.status[:100]!r})"

    def _see(self, answer: Answer) -> bool:
        """Take in an answer with the task, or a 304. Says whether anything is new."""
        self._retry_after_s = answer.retry_after_s
        if answer.status == 304:
            return False
        before, self.document = self.document, document_of(answer, "TaskId")
        self._etag = answer.headers.get("etag")
        return any(self.document.get(name) != before.get(name) for name in _TOLD)

    def _until_end(self, timeout_s: float | None, on_change: Callable[[Any], object] | None) -> Steps[None]:
        return self._until(lambda: self.is_finished, Deadline(timeout_s), on_change)

    def _until(
        self, is_so: Callable[[], bool], deadline: Deadline, on_change: Callable[[Any], object] | None
    ) -> Steps[None]:
        patience_s, given_s = self._caller.retry_for_s, deadline.timeout_s or 0.0
        late = errors.WaitTimeout(f"Task {self.id} has not ended within {given_s:g} s; it goes on.", self)
        while not is_so():
            is_last = deadline.left_s() < patience_s
            try:
                is_new = yield from self._look(deadline, closely=on_change is not None)
            except errors.Unreachable as error:
                if is_last:
                    raise late from error
                raise
            if is_new and on_change is not None:
                on_change(self)
            if not is_so() and not deadline.left_s():
                raise late
            if not is_so() and self.is_finished:  # then no wait lasts: its tasks are still being cancelled
                yield Sleep(deadline.left_s(_POSITION_POLL_S / 5))

    def _look(self, deadline: Deadline, *, closely: bool) -> Steps[bool]:
        """Wait for the next change (*closely*: of the place in the queue, too) for as long as one wait lasts."""
        retry_after_s = 1.0 if self._retry_after_s is None else self._retry_after_s
        headers, wait_s = {"If-None-Match": self._etag or '"none"'}, LONGEST_POLL_S
        if closely and self.queue_position is not None:  # a new position ends no wait, and makes no new ETag
            headers, wait_s = {}, min(_POSITION_POLL_S, max(1.0, retry_after_s))
        elif self.state == "created" and retry_after_s > LONGEST_POLL_S:
            yield Sleep(deadline.left_s(min(retry_after_s, _LONGEST_SLEEP_S)))
            wait_s = 0
        wait_s = round(deadline.left_s(wait_s), 3)
        began_s, state, etag = time.monotonic(), self.state, self._etag
        answer = yield from self._caller.demand(
            "GET",
            task_path(self.id),
            query=f"wait={wait_s:g}",
            headers=headers,
            wait_s=wait_s,
            retry_for_s=deadline.left_s(self._caller.retry_for_s),
        )
        is_new = self._see(answer)
        took_s = time.monotonic() - began_s
        if not self.is_finished and took_s < wait_s:
            if self._etag == etag:  # the wait had to make room for another
                pause_s = self._retry_after_s or 1.0
            else:  # a task may change all the time
                pause_s = _LEAST_LOOK_S - took_s if self.state == state else 0.0
            if pause_s > 0:
                yield Sleep(deadline.left_s(pause_s))
        return is_new

    def _check_result(self) -> None:
        if self.state == "failed":
            raise errors.TaskFailed(self.status, self)
        if self.state == "cancelled":
            raise errors.TaskCancelled(f"Task {self.id} was cancelled.", self)
        if self.document.get("ResultSize") is None:
            kind = "urn:task-backbone:problem:no-result"
            raise errors.NotFound(f"The task has stored no result. Its status: {self.status}", 404, {"type": kind})


def target_of(path: os.PathLike[str] | str, task_id: str, content_type: str) -> Path:
    """The file that a result is saved to: *path*, or one in it if it is a folder."""
    from pathlib import Path

    target = Path(path)
    return target / (task_id + suffix_of(content_type)) if target.is_dir() else target


def suffix_of(content_type: str) -> str:
    from mimetypes import guess_extension

    return guess_extension(content_type.partition(";")[0].strip().lower()) or ""


def moment(text: str | None) -> Any:
    """What the API says of a time, as a ``datetime`` in UTC."""
    if not text:
        return None
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def asked(
    *,
    priority: int | None = None,
    pipeline: Pipeline = None,
    batch: str | None = None,
    start_after: When = None,
    start_before: When = None,
    max_run_s: float | None = None,
    callback: str | None = None,
) -> dict[str, str]:
    """The headers of a submit that say how it is to be done.

    Raises:
        ValueError: a time has no zone.
    """
    told = {
        "Priority": "" if priority is None else str(priority),
        "Pipeline": _steps(pipeline),
        "Batch": batch,
        "Start-After": as_time(start_after),
        "Start-Before": as_time(start_before),
        "Max-Run": as_time(max_run_s),
        "Callback": callback,
    }
    return {name: text for name, text in told.items() if text}


def as_time(time: Any) -> str:
    """A number of seconds, or a time, as a header has it; empty for None. Raises ValueError."""
    if time is None:
        return ""
    if not hasattr(time, "isoformat"):
        return str(round(time, 3))
    if getattr(time, "tzinfo", None) is None:
        raise ValueError("A time needs a zone, as datetime.now(timezone.utc) has one.")
    return time.isoformat(timespec="milliseconds")


def _steps(pipeline: Pipeline) -> str:
    """The header that names these endpoints, with commas between."""
    paths = [pipeline] if isinstance(pipeline, str) else pipeline or ()
    named = ["?".join(filter(None, endpoint(path, None))) for path in paths]
    return ", ".join(re.sub(",(?=/|$)", "%2C", step) for step in named)


def endpoint(path: str, query: Query) -> tuple[str, str]:
    """*path* and *query* as they stand in a URL; *path* may have a query, too."""
    path, _, beside = path.partition("?")
    if query is None or isinstance(query, str):
        text = query or ""
    else:
        pairs = query.items() if isinstance(query, Mapping) else query
        named = [(name, str(value).lower() if isinstance(value, bool) else value) for name, value in pairs]
        text = urlencode(named, doseq=True)
    text = quote("&".join(part for part in (beside, text) if part), safe="%/:?@!$&'()*+,;=-._~")
    if any(part.partition("=")[0] in ("code", "clientId") for part in text.split("&")):
        raise ValueError("The backbone keeps the query parameters code and clientId to itself.")
    return _escaped(path), text


def _escaped(path: str) -> str:
    escaped = quote(path if path.startswith("/") else "/" + path, safe="/%:@+,=-._~!$&'()*;")
    if any(part.lower().replace("%2e", ".") in (".", "..") for part in escaped.split("/")):
        raise ValueError("A path has no segments of dots.")
    return escaped


def _outcome(told: Mapping[str, Any]) -> Any:
    """What one of many has come to."""
    if told.get("TaskId"):
        return told
    return refusal(Answer(int(told.get("StatusCode") or 500), {}, json.dumps(told.get("Problem")).encode()))


def is_older(error: errors.Refused) -> bool:
    """Whether the backbone, or its gateway, does not know such a call."""
    return error.status in (404, 405) and not error.kind


def first_ends(caller: Caller, tasks: Sequence[Any], deadline: Deadline) -> Steps[list[Any]]:
    """Wait until any of *tasks* have ended, and return these, as they are then."""
    late = f"{len(tasks)} tasks have not ended within {deadline.timeout_s or 0:g} s; they go on."
    began_s = float("-inf")
    while not (ended := [task for task in tasks if task.is_finished]):
        if not caller.waits_for_many:
            yield from tasks[0]._until(lambda: tasks[0].is_finished, deadline, None)
            continue
        if began_s > 0 and not deadline.left_s():
            raise errors.WaitTimeout(late, tasks[0])
        yield Sleep(max(0.0, began_s + _LEAST_LOOK_S - time.monotonic()))  # a task may change all the time
        began_s, is_last = time.monotonic(), deadline.left_s() < caller.retry_for_s
        groups = [tasks[first : first + _MOST_WAITED_FOR] for first in range(0, len(tasks), _MOST_WAITED_FOR)]
        try:
            for group in groups:
                yield from _look_at(caller, group, deadline, LONGEST_POLL_S / len(groups))
        except errors.Unreachable as error:
            if not is_last:
                raise
            raise errors.WaitTimeout(late, tasks[0]) from error
        except errors.Refused as error:
            if not is_older(error):
                raise
            caller.waits_for_many = False
    return ended


def _look_at(caller: Caller, tasks: Sequence[Any], deadline: Deadline, longest_s: float) -> Steps[None]:
    """Wait until one of them is another one than it was."""
    named, wait_s = {task.id: task for task in tasks}, round(deadline.left_s(longest_s), 3)
    known = {task.id: task._etag for task in tasks if task._etag}
    answer = yield from caller.demand(
        "POST",
        "/api/v1/tasks/wait",
        body=json.dumps({"TaskIds": list(named), "Seconds": wait_s, "Known": known}).encode(),
        headers={"Content-Type": "application/json"},
        wait_s=wait_s,
        retry_for_s=deadline.left_s(caller.retry_for_s),
    )
    told = document_of(answer, "Tasks")
    for one in told.get("Unknown") or ():
        kind = "urn:task-backbone:problem:no-such-task"
        raise errors.NotFound(f"There is no task {one}, or not any more.", 404, {"type": kind})
    for one in told["Tasks"]:
        task = named[one["Task"]["TaskId"]]
        task.document, task._etag = one["Task"], one["ETag"]
    if answer.retry_after_s:  # the wait had to make room for another
        yield Sleep(deadline.left_s(answer.retry_after_s))


def document_of(answer: Answer, name: str) -> dict[str, Any]:
    """The JSON object that an answer has, and that has a member *name*."""
    document = answer.json()
    if name not in document:
        raise errors.Unreachable("What answers is not the backbone: is the URL right?", answer.status)
    return document
