"""The tasks of a played backbone: attempts, leases and ends, in memory.

Each step is the one that the backbone itself takes (``docs/lifecycle.md``). A step that the backbone refuses raises
:class:`Problem`, which has the same status and document. Nothing here knows HTTP or runs in the background: a lease
ends when :meth:`Tasks.sweep` is called and the clock has passed it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable
from urllib.parse import unquote

ENDS = ("completed", "failed", "cancelled")
DEFERRED_END_S = 30.0
UNCOUNTED_RELEASES = 20
_LEASED = ("dispatched", "running")
_SILENCE = "the backend was not heard of for too long"
_TOLD_END = re.compile(r"\s*(completed|failed)(?:\s*\Z|\s?[-:.;])", re.IGNORECASE)


class Problem(Exception):
    """Raised when the backbone refuses a request.

    Attributes:
        document: the problem document (RFC 9457).
    """

    def __init__(self, status: int, slug: str, title: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.document: dict[str, Any] = {
            "type": f"urn:task-backbone:problem:{slug}",
            "title": title,
            "status": status,
            "detail": detail,
            **members,
        }


def invalid(pointer: str, detail: str) -> Problem:
    text = f"{pointer[1:] if pointer[:1] == '/' else pointer or 'body'}: {detail}"
    errors = [{"pointer": pointer, "detail": detail}]
    return Problem(400, "invalid-request", "The request is not valid.", text, errors=errors)


@dataclass(frozen=True)
class Content:
    """Bytes with their type, as somebody sent them."""

    data: bytes = field(repr=False)
    content_type: str
    encoding: str = ""


@dataclass
class Record:
    """One task. Times are in seconds of the clock."""

    id: str
    path: str
    query: str
    body: Content
    lease_s: float
    traceparent: str
    created_s: float
    changed_s: float
    state: str = "created"
    status: str = "created"
    attempt: int = 1
    failures: int = 0
    progress: float | None = None
    result: Content | None = None
    is_earlier_result: bool = False
    """Whether a pipeline's earlier step stored the result."""
    checkpoint: Content | None = None
    due_s: float | None = None
    """When the lease or the wait of a released task ends."""
    deferred: str | None = None
    """The end that only a text told."""
    released: tuple[int, int] = (0, 0)
    """The attempt that was given back last, and how many were in a row."""
    version: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS

    @property
    def holds_slot(self) -> bool:
        return self.state in _LEASED and not (self.deferred and self.state == "running")

    @property
    def etag(self) -> str:
        return f'"{int(self.created_s * 1000):x}-{self.version}"'


@dataclass
class Tasks:
    """All tasks of a played backbone.

    Args:
        now_s: the clock, in seconds since 1970.
        endpoint_url: what legacy clients see before a task's path.
    """

    now_s: Callable[[], float]
    lease_s: float = 300.0
    max_attempts: int = 10
    endpoint_url: str = ""
    records: dict[str, Record] = field(default_factory=dict)

    def create(self, path: str, query: str, body: Content, task_id: str = "", traceparent: str = "") -> Record:
        now_s = self.now_s()
        traceparent = traceparent or f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        task_id = task_id or str(uuid.uuid4())
        record = Record(task_id, path, query, body, self.lease_s, traceparent, now_s, now_s)
        self._note(record, "client", record.status)
        self.records[task_id] = record
        return record

    def find(self, task_id: str) -> Record:
        """
        Raises:
            Problem: 404.
        """
        if task_id not in self.records:
            title = "There is no such task."
            raise Problem(404, "no-such-task", title, "The id is unknown, or the task is past retention.")
        return self.records[task_id]

    def sweep(self) -> None:
        """Take the steps that are due: ends of leases, deferred ends, waits that are over."""
        now_s = self.now_s()
        for record in self.records.values():
            if record.due_s is None or now_s < record.due_s:
                continue
            record.due_s = None
            if record.deferred:
                record.state, record.deferred = record.deferred, None
                self._note(record, "client", record.status)
            elif record.state in _LEASED:
                record.failures += 1
                if record.failures >= self.max_attempts:
                    self._fail(record, f"Failed - {_SILENCE} (attempt {record.failures} of {self.max_attempts}).")
                else:
                    self._again(record, f"Retrying - {_SILENCE}", "reconciler")

    # What the dispatcher does.

    def claim(self, record: Record) -> None:
        record.state, record.due_s = "dispatched", None
        self._note(record, "dispatcher", "")

    def accept(self, record: Record, attempt: int) -> None:
        if record.attempt == attempt and record.state == "dispatched":
            record.due_s = self.now_s() + (DEFERRED_END_S if record.deferred else record.lease_s)

    def requeue(self, record: Record, attempt: int, status: str, *, failed: str = "") -> None:
        """The dispatch was not accepted: a new attempt, or if it *failed* for the last time, the end."""
        if record.attempt != attempt or record.state != "dispatched":
            return
        record.failures += bool(failed)
        if failed and record.failures >= self.max_attempts:
            self._fail(record, f"Failed - {failed} (attempt {record.failures} of {self.max_attempts}).")
        else:
            self._again(record, status, "dispatcher")

    def reject(self, record: Record, attempt: int, status: str) -> None:
        if record.attempt == attempt and record.state == "dispatched":
            self._fail(record, status)

    def answered(self, record: Record, attempt: int, result: Content, status: str) -> None:
        """The answer to the dispatch was the result."""
        if record.attempt == attempt and record.state in _LEASED:
            record.result, record.is_earlier_result = result, False
            self._end(record, "completed", status, "dispatcher")

    # What model services and callers do.

    def report(
        self,
        record: Record,
        attempt: int | None,
        *,
        to: str = "",
        status: str | None = None,
        progress: float | None = None,
    ) -> None:
        """A report (contract A1)."""
        told = _TOLD_END.match(status or "") if attempt is None and to not in ENDS else None
        if self._refuses(record, attempt, told[1].lower() if told else to, status):
            return
        record.deferred = told[1].lower() if told else None
        if told or to == "running":
            is_new, record.state = record.state != "running", "running"
        else:
            is_new = False
        self._tell(record, status, progress)
        if to in ENDS:
            self._end(record, to, status, "client")
        elif is_new:
            self._note(record, "client", status or "")

    def next_step(
        self,
        record: Record,
        attempt: int | None,
        path: str,
        query: str,
        body: Content | None,
        status: str | None = None,
    ) -> None:
        """Send the task to a pipeline's next step (contract A1.21)."""
        self._refuses(record, attempt, "created", None)
        record.path, record.query, record.body = path, query, body or record.body
        record.failures, record.released, record.checkpoint = 0, (0, 0), None
        record.is_earlier_result = record.result is not None
        self._again(record, status, "client")

    def heartbeat(self, record: Record, attempt: int | None, progress: float | None, status: str | None) -> None:
        self._refuses(record, attempt)
        self._check_leased(record)
        record.deferred = None
        self._tell(record, status, progress)

    def put_result(self, record: Record, attempt: int | None, result: Content, completed: str | None = None) -> None:
        """Args:
        completed: the text with which the result completes the task, percent-encoded; None: it does not.
        """
        status = None if completed is None else completion_text(completed)
        if self._refuses(record, attempt, "" if status is None else "completed", status, result):
            return
        record.deferred, record.result, record.is_earlier_result = None, result, False
        if status is None:
            self._tell(record, None, None)
        else:
            self._end(record, "completed", status, "client")

    def put_checkpoint(self, record: Record, attempt: int | None, checkpoint: Content) -> None:
        self._refuses(record, attempt)
        self._check_leased(record)
        record.deferred, record.checkpoint = None, checkpoint
        self._tell(record, None, None)

    def release(
        self, record: Record, attempt: int, *, failed: bool = False, after_s: float = 0, status: str | None = None
    ) -> None:
        """An attempt is given back (contract B13)."""
        if record.released[0] == attempt:
            return
        self._refuses(record, attempt)
        self._check_leased(record)
        in_a_row = 0 if failed else record.released[1] + 1
        counts = failed or in_a_row >= UNCOUNTED_RELEASES
        record.released = (attempt, in_a_row)
        record.failures += counts
        if counts and record.failures >= self.max_attempts:
            text = "Failed - the backend failed at it" if status is None else status
            self._end(record, "failed", f"{text} (attempt {record.failures} of {self.max_attempts})", "client")
            return
        if status is None:
            status = (
                "Retrying - the backend failed at it"
                if failed
                else "Awaiting service availability: the backend gave it back"
            )
        self._again(record, status, "client")
        if after_s:
            record.due_s = self.now_s() + after_s

    def cancel(self, record: Record) -> None:
        if not self._refuses(record, None, "cancelled", "Cancelled"):
            self._end(record, "cancelled", "Cancelled", "client")

    def view(self, record: Record, *, is_legacy: bool = False) -> dict[str, Any]:
        """A task as clients see it; as legacy clients see it, with the URL that it goes to."""
        url = self.endpoint_url + record.path + ("?" + record.query if record.query else "")
        return {
            "TaskId": record.id,
            "Timestamp": iso(record.changed_s),
            "Status": record.status,
            "BackendStatus": "created" if record.state == "dispatched" else record.state,
            "Endpoint": url if is_legacy else record.path,
            "Body": None,
            "PublishToGrid": True,
            "EndpointPath": record.path,
            "Attempt": record.attempt,
            "CreatedAt": iso(record.created_s),
            "ResultContentType": record.result.content_type if record.result else None,
            "ResultSize": len(record.result.data) if record.result else None,
            "Priority": 5,
            "LeaseSeconds": record.lease_s,
            "Progress": record.progress,
        }

    def conflict(self, record: Record, detail: str) -> Problem:
        title = "The task does not take this change."
        return Problem(409, "conflict", title, detail, Task=self.view(record))

    def _refuses(
        self,
        record: Record,
        attempt: int | None,
        to: str = "",
        status: str | None = None,
        result: Content | None = None,
    ) -> bool:
        """Whether the task has ended in that way already, so that nothing is left to do.

        Raises:
            Problem: 409. It has another attempt, or has ended in another way.
        """
        if attempt is not None and attempt != record.attempt:
            detail = f"The update speaks for another attempt than the current one, {record.attempt}."
            raise self.conflict(record, detail)
        if not record.has_ended:
            return False
        is_same = result in (None, record.result) and status in (None, record.status)
        if to != record.state or not (is_same or attempt is None):
            raise self.conflict(record, f"The task is {record.state} and stays so.")
        if not is_same and status is not None:
            self._turn(record, status, "client")
        return True

    def _check_leased(self, record: Record) -> None:
        if record.state not in _LEASED:
            raise self.conflict(record, "The task's state does not allow it.")

    def _tell(self, record: Record, status: str | None, progress: float | None) -> None:
        if status is not None:
            record.status = status
        if progress is not None:
            record.progress = progress
        now_s = self.now_s()
        record.changed_s, record.version = now_s, record.version + 1
        if record.state in _LEASED:
            record.due_s = now_s + (DEFERRED_END_S if record.deferred else record.lease_s)

    def _again(self, record: Record, status: str | None, who: str) -> None:
        """A new attempt at the task."""
        record.attempt, record.state = record.attempt + 1, "created"
        record.progress, record.deferred, record.due_s = None, None, None
        if record.result and not record.is_earlier_result:
            record.result = None
        self._turn(record, status, who)

    def _fail(self, record: Record, status: str) -> None:
        self._end(record, "failed", status, "dispatcher")

    def _end(self, record: Record, state: str, status: str | None, who: str) -> None:
        record.state, record.deferred, record.due_s, record.checkpoint = state, None, None, None
        self._turn(record, status, who)

    def _turn(self, record: Record, status: str | None, who: str) -> None:
        if status is not None:
            record.status = status
        self._note(record, who, status or "")

    def _note(self, record: Record, who: str, brief: str) -> None:
        """Add a transition to the history, with the text that came with it."""
        now_s = self.now_s()
        record.changed_s, record.version = now_s, record.version + 1
        record.history.append(
            {
                "Timestamp": iso(now_s),
                "State": record.state,
                "Status": brief[:200],
                "Attempt": record.attempt,
                "Who": who,
            }
        )


def completion_text(header: str) -> str:
    """The text of an ``X-Task-Complete`` header.

    Raises:
        Problem: 400. It is not percent-encoded UTF-8.
    """
    try:
        return unquote(header, errors="strict").strip() or "completed"
    except UnicodeDecodeError:
        raise invalid("X-Task-Complete", "percent-encoded UTF-8 is expected") from None


def iso(moment_s: float) -> str:
    moment = datetime.fromtimestamp(moment_s, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
