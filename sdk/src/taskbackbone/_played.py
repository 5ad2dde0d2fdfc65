"""The tasks of a played backbone, in memory: each step is the one that the backbone takes (``docs/lifecycle.md``).

A step that the backbone refuses raises :class:`Problem`. A lease ends when :meth:`Tasks.sweep` is called late enough.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable
from urllib.parse import unquote

ENDS = ("completed", "failed", "cancelled")
LEASED = ("dispatched", "running")
DEFERRED_END_S = 30.0
UNCOUNTED_RELEASES = 20
_SILENCE = "the backend was not heard of for too long"
_WHO = {
    **dict.fromkeys(("claim", "answer", "requeue"), "dispatcher"),
    **dict.fromkeys(("silence", "overrun", "expired"), "reconciler"),
}
"""By the reason of a transition, where it is not the client."""
_END_REASONS = {
    **dict.fromkeys(("answer", "requeue"), "rejected"),
    "silence": "lease",
    "overrun": "timeout",
    "expired": "expired",
}
"""Why a task has failed, by the reason of the transition, where it was not reported."""
_TOLD_END = re.compile(r"\s*(completed|failed)(?:\s*\Z|\s?[-:.;])", re.IGNORECASE)


class Problem(Exception):
    """The backbone refuses a request, with this problem document (RFC 9457)."""

    def __init__(self, status: int, slug: str, title: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        kind = f"urn:task-backbone:problem:{slug}"
        self.document: dict[str, Any] = {"type": kind, "title": title, "status": status, "detail": detail, **members}


def invalid(pointer: str, expected: str) -> Problem:
    name = pointer[1:] if pointer[:1] == "/" else pointer or "body"
    errors = [{"pointer": pointer, "detail": expected}]
    return Problem(400, "invalid-request", "The request is not valid.", f"{name}: {expected}", errors=errors)


@dataclass(frozen=True)
class Content:
    """Bytes with their type, as somebody sent them."""

    data: bytes = field(repr=False)
    content_type: str = "application/octet-stream"
    encoding: str = ""


@dataclass(eq=False)
class Record:
    """A task.

    Attributes:
        state: ``created``, ``dispatched``, ``running``, ``completed``, ``failed`` or ``cancelled``.
        status: the text for the caller.
        due_s: when its lease ends, or its wait if it starts later or was released for a while; by the clock.
        start_s: when it may start; None: at once.
        expires_s: when it fails unless a service has had it by then.
        max_run_s: for how long an attempt may run; ``run_until_s`` is when that is over.
        deferred: the end that a text told, without an attempt: it takes effect after 30 s.
        kept: what was stored for the next attempt.
        released: the attempt that was given back last, and how many were in a row.
        pipeline: the paths and queries where it goes on, each once the step before has completed.
        step: in which step it is: 1 for the first.
        sent_on: by attempts that a next step has followed, how that came.
        history: its transitions, as the backbone tells them.
    """

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
    kept: Content | None = None
    due_s: float | None = None
    start_s: float | None = None
    expires_s: float | None = None
    max_run_s: float | None = None
    run_until_s: float | None = None
    deferred: str | None = None
    released: tuple[int, int] = (0, 0)
    pipeline: Sequence[tuple[str, str]] = ()
    step: int = 1
    sent_on: dict[int, tuple[Any, ...]] = field(default_factory=dict[int, Any])
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def checkpoint(self) -> bytes | None:
        return self.kept.data if self.kept else None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS

    @property
    def is_done(self) -> bool:
        """Whether it has ended, or its text tells that it will."""
        return self.has_ended or self.deferred is not None

    @property
    def holds_slot(self) -> bool:
        return self.state in LEASED and not (self.deferred and self.state == "running")


@dataclass
class Tasks:
    """All tasks of a played backbone, by a clock in seconds since 1970."""

    now_s: Callable[[], float]
    lease_s: float
    max_attempts: int
    endpoint_url: str = ""
    """What stands before a path, for legacy clients."""
    records: dict[str, Record] = field(default_factory=dict[str, Record])

    def add(self, record: Record) -> None:
        record.traceparent = record.traceparent or f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        record.due_s = record.start_s
        self._note(record, "submit", record.status)
        self.records[record.id] = record

    def find(self, task_id: str) -> Record:
        """Raises Problem, 404."""
        if task_id not in self.records:
            detail = "The id is unknown, or the task is past retention."
            raise Problem(404, "no-such-task", "There is no such task.", detail)
        return self.records[task_id]

    def sweep(self) -> None:
        """Take the steps that are due."""
        now_s = self.now_s()
        for record in self.records.values():
            if record.state == "created" and _is_over(record.expires_s, now_s):
                waited_s = max(0.0, (record.expires_s or 0) - max(record.created_s, record.start_s or 0))
                self._turn(record, "failed", f"Failed - it expired after {waited_s:.10g} s in the queue.", "expired")
            elif record.state in LEASED and not record.deferred and _is_over(record.run_until_s, now_s):
                ran = f"it ran for longer than {record.max_run_s:.10g} s"
                self._fail_attempt(record, f"Retrying - {ran}", f"Failed - {ran}", "overrun", end=".")
            if not _is_over(record.due_s, now_s):
                continue
            record.due_s = None
            if record.deferred:
                self._turn(record, record.deferred, record.status, "report")
            elif record.state in LEASED:
                self._fail_attempt(record, f"Retrying - {_SILENCE}", f"Failed - {_SILENCE}", "silence", end=".")

    # What the dispatcher does.

    def claim(self, record: Record) -> None:
        record.due_s, record.run_until_s = None, None
        if record.max_run_s is not None:
            record.run_until_s = self.now_s() + record.max_run_s
        self._turn(record, "dispatched", None, "claim")

    def is_called(self, record: Record, attempt: int) -> bool:
        """Whether the answer to a dispatch still counts."""
        return record.attempt == attempt and record.state == "dispatched"

    def accept(self, record: Record) -> None:
        record.expires_s = None
        record.due_s = self.now_s() + (DEFERRED_END_S if record.deferred else record.lease_s)

    def requeue(self, record: Record, status: str, failed: str = "") -> None:
        """The dispatch was not accepted, and *failed* says if that counts."""
        if failed:
            self._fail_attempt(record, status, f"Failed - {failed}", "requeue", end=".")
        else:
            self._begin_again(record, status, "requeue")

    def end(self, record: Record, state: str, status: str, result: Content | None = None) -> None:
        """The answer to the dispatch has ended the task."""
        if result is not None:
            record.result, record.is_earlier_result = result, False
        self._turn(record, state, status, "answer", result)

    # What model services and callers do.

    def report(
        self, record: Record, attempt: int | None, to: str, status: str | None, progress: float | None = None
    ) -> None:
        """A report (contract A1)."""
        match = _TOLD_END.match(status or "") if attempt is None and to not in ENDS else None
        told = match[1].lower() if match else None
        if self._is_repeated(record, attempt, told or to, status):
            return
        record.deferred, before = told, record.state
        if told or to == "running":
            record.state = "running"
        self._tell(record, status, progress)
        if to in ENDS:
            self._turn(record, to, status, "report")
        elif record.state != before:
            self._note(record, "report", status or "")

    def next_step(
        self,
        record: Record,
        attempt: int | None,
        path: str,
        query: str,
        body: Content | None,
        status: str | None = None,
    ) -> None:
        """Send the task on by a report (contract A1.21)."""
        self._is_repeated(record, attempt, "created", None)
        self._go_on(record, path, query, body, status)

    def send_on(
        self, record: Record, attempt: int, path: str, query: str, body: Content | None, takes_result: bool
    ) -> None:
        """Send the task on with a body, with its result as the body, or with the same one (contract B16.10)."""
        way = path, query, body, takes_result
        if record.sent_on.get(attempt) == way:
            return
        self._check_leased(record, attempt)
        if takes_result and record.result is None:
            raise self._conflict(record, "The task has no result that could become the next step's body.")
        record.sent_on[attempt] = way
        if takes_result:
            body, record.result = record.result, None
        self._go_on(record, path, query, body, "created")

    def heartbeat(self, record: Record, attempt: int | None, progress: float | None, status: str | None) -> None:
        self._check_leased(record, attempt)
        record.deferred = None
        self._tell(record, status, progress)

    def put_result(self, record: Record, attempt: int | None, result: Content, completed: str | None) -> None:
        """*completed* is the text with which it completes the task, percent-encoded; None: it does not."""
        try:
            status = None if completed is None else unquote(completed, errors="strict").strip() or "completed"
        except UnicodeDecodeError:
            raise invalid("X-Task-Complete", "percent-encoded UTF-8 is expected") from None
        if self._is_repeated(record, attempt, "" if status is None else "completed", status, result):
            return
        record.deferred, record.result, record.is_earlier_result = None, result, False
        if status is None:
            self._tell(record)
        else:
            self._turn(record, "completed", status, "report", result)

    def put_checkpoint(self, record: Record, attempt: int | None, checkpoint: Content) -> None:
        self._check_leased(record, attempt)
        record.deferred, record.kept = None, checkpoint
        self._tell(record)

    def release(self, record: Record, attempt: int, failed: bool, after_s: float, status: str | None) -> None:
        """An attempt is given back (contract B13)."""
        if record.released[0] == attempt:
            return
        self._check_leased(record, attempt)
        in_a_row = 0 if failed else record.released[1] + 1
        record.released, record.expires_s = (attempt, in_a_row), None
        if failed or in_a_row >= UNCOUNTED_RELEASES:
            reason = "the backend failed at it"
            self._fail_attempt(record, status or f"Retrying - {reason}", status or f"Failed - {reason}", "release")
        else:
            self._begin_again(record, status or "Awaiting service availability: the backend gave it back", "release")
        if after_s and not record.has_ended:
            record.due_s = self.now_s() + after_s

    def cancel(self, record: Record) -> None:
        if not self._is_repeated(record, None, "cancelled", "Cancelled"):
            self._turn(record, "cancelled", "Cancelled", "cancel")

    def view(self, record: Record, *, is_legacy: bool = False) -> dict[str, Any]:
        """A task as clients see it; legacy clients see the URL that it goes to."""
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
            **({} if record.start_s is None else {"StartAt": iso(record.start_s)}),
            **({} if record.expires_s is None else {"ExpiresAt": iso(record.expires_s)}),
            **({} if record.max_run_s is None else {"MaxRunSeconds": record.max_run_s}),
            **({"Step": record.step, "Steps": 1 + len(record.pipeline)} if record.pipeline else {}),
        }

    def _is_repeated(
        self, record: Record, attempt: int | None, to: str, status: str | None, result: Content | None = None
    ) -> bool:
        """Whether the task has ended in that way already. Raises Problem if it has not, and cannot."""
        sent_on = record.sent_on.get(attempt or 0)
        if sent_on == ("completed", result) and to == "completed":
            return True
        self._check_attempt(record, attempt)
        if not record.has_ended:
            return False
        is_same = result in (None, record.result) and status in (None, record.status)
        if to != record.state or not (is_same or attempt is None):
            raise self._conflict(record, f"The task is {record.state} and stays so.")
        if not is_same:
            self._turn(record, to, status, "report")
        return True

    def _check_leased(self, record: Record, attempt: int | None) -> None:
        self._check_attempt(record, attempt)
        if record.has_ended:
            raise self._conflict(record, f"The task is {record.state} and stays so.")
        if record.state not in LEASED:
            raise self._conflict(record, "The task's state does not allow it.")

    def _check_attempt(self, record: Record, attempt: int | None) -> None:
        if attempt not in (None, record.attempt):
            other = f"The update speaks for another attempt than the current one, {record.attempt}."
            raise self._conflict(record, other)

    def _conflict(self, record: Record, detail: str) -> Problem:
        return Problem(409, "conflict", "The task does not take this change.", detail, Task=self.view(record))

    def _tell(self, record: Record, status: str | None = None, progress: float | None = None) -> None:
        record.status = record.status if status is None else status
        record.progress = record.progress if progress is None else progress
        record.changed_s = self.now_s()
        if record.state in LEASED:
            self.accept(record)

    def _fail_attempt(self, record: Record, status: str, last_status: str, why: str, end: str = "") -> None:
        record.failures, record.expires_s = record.failures + 1, None
        if record.failures >= self.max_attempts:
            counted = f"{last_status} (attempt {record.failures} of {self.max_attempts}){end}"
            self._turn(record, "failed", counted, why)
        else:
            self._begin_again(record, status, why)

    def _begin_again(self, record: Record, status: str | None, why: str) -> None:
        record.attempt, record.progress, record.deferred, record.due_s = record.attempt + 1, None, None, None
        if not record.is_earlier_result:
            record.result = None
        self._turn(record, "created", status, why)

    def _go_on(self, record: Record, path: str, query: str, body: Content | None, status: str | None) -> None:
        record.path, record.query, record.body = path, query, body or record.body
        record.failures, record.released, record.kept, record.expires_s = 0, (0, 0), None, None
        record.is_earlier_result = record.result is not None
        self._begin_again(record, status, "next-step")

    def _turn(self, record: Record, state: str, status: str | None, why: str, result: Content | None = None) -> None:
        if state == "completed" and record.step <= len(record.pipeline):
            body = None if record.is_earlier_result else record.result
            record.sent_on[record.attempt] = state, result
            record.result, record.step = record.result if body is None else None, record.step + 1
            self._go_on(record, *record.pipeline[record.step - 2], body, status)
            record.status = record.state
            return
        record.state = state
        if state in ENDS:
            record.deferred, record.due_s, record.kept, record.expires_s = None, None, None, None
        record.status = record.status if status is None else status
        self._note(record, why, status or "")

    def _note(self, record: Record, why: str, text: str) -> None:
        """Add a transition to the history, with the text that came with it."""
        record.changed_s = self.now_s()
        who = _WHO.get(why, "client")
        record.history.append(
            {
                "Timestamp": iso(record.changed_s),
                "State": record.state,
                "Status": text[:200],
                "Attempt": record.attempt,
                "Who": who,
                "EndpointPath": record.path,
                "Reason": "give-up" if record.state == "failed" and who != "client" else why,
            }
        )
        if record.state in ENDS:
            end = _END_REASONS.get(why, "reported") if record.state == "failed" else record.state
            record.history[-1]["EndReason"] = end


def _is_over(moment_s: float | None, now_s: float) -> bool:
    return moment_s is not None and moment_s <= now_s


def iso(moment_s: float) -> str:
    moment = datetime.fromtimestamp(moment_s, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
