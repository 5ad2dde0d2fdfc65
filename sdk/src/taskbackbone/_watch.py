"""A task that this service has, as the backbone was told of it, and when the next thing is to be told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from . import errors
from ._attempts import Attempt, Data
from ._core import Answer, refusal, task_path
from ._payload import FilePayload, Payload, decoded

if TYPE_CHECKING:
    from ._reports import Reporter

RUNNING_AFTER_S = 1.0
STATUS_CHARS = 1_000
"""Of a heartbeat and of a release; they take 1,024."""
_PROGRESS_EVERY_S = 1.0
_LONGEST_BEAT_S = 30.0


class Watch:
    """A task that this service has, as the backbone was told of it. It is the `Events` of the task's work."""

    def __init__(self, reporter: Reporter, attempt: Attempt, lost: Callable[[str], None]) -> None:
        assert attempt.task_id is not None
        self.attempt = attempt
        self.task_id = attempt.task_id
        self.lost = lost
        """Called with the reason when the task is no longer this service's."""
        self.is_ending = False
        self.is_running_told = False
        self.is_being_told = False
        self.fraction: float | None = None
        self.text: str | None = None
        self.active_s = self.confirmed_s = self.told_s = time.monotonic()
        """When the work was last known to be alive; when the backbone last took something; when it was last told."""
        self.started_s: float | None = None
        self.is_asking = 0
        """How many questions of the work are being answered."""
        self.beat_s = min(_LONGEST_BEAT_S, max(1.0, attempt.lease_s / 3))
        self._reporter = reporter
        self.failures = 0
        """How many times in a row nothing was taken."""
        self._has_news = False

    @property
    def lease_left_s(self) -> float:
        return self.confirmed_s + self.attempt.lease_s - time.monotonic()

    @property
    def due_s(self) -> float:
        """When the next thing is to be told or looked at, in the loop's monotonic time."""
        if self.is_being_told:
            return self.confirmed_s + self.attempt.lease_s
        due_s = self.told_s + (min(self.beat_s, 2.0**self.failures / 2) if self.failures else self.beat_s)
        if self.started_s is not None and not self.is_running_told and not self.is_ending:
            due_s = min(due_s, max(self.started_s + RUNNING_AFTER_S, self.told_s + RUNNING_AFTER_S))
        elif self._has_news and self.is_running_told:
            due_s = min(due_s, self.told_s + _PROGRESS_EVERY_S)
        return min(due_s, self.confirmed_s + self.attempt.lease_s)

    def status(self) -> str:
        return f"running - {self.text}"[:STATUS_CHARS] if self.text else "running"

    def is_sent(self) -> None:
        """What is known is on its way."""
        self._has_news = False
        self.told_s = time.monotonic()

    def is_taken(self, sent_s: float) -> None:
        """What was sent then was taken: the lease counts from there."""
        self.confirmed_s = max(self.confirmed_s, sent_s)
        self.failures = 0

    def started(self) -> None:
        self.started_s = self.active_s = time.monotonic()
        self._reporter.wake()

    def progress(self, fraction: float | None, text: str | None) -> None:
        self.active_s = time.monotonic()
        if fraction is None and text is None:
            return
        self.fraction = self.fraction if fraction is None else fraction
        self.text = self.text if text is None else text
        if not self._has_news:
            self._has_news = True
            self._reporter.wake()

    async def checkpoint(self, data: Data) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        answer = await self._ask("PUT", "/checkpoint", headers, payload(data))
        if not answer.is_success:
            raise refusal(answer)

    async def restored(self) -> bytes | None:
        return await self._read("/checkpoint")

    async def previous_result(self) -> bytes | None:
        return await self._read("/result")

    async def _read(self, what: str) -> bytes | None:
        answer = await self._ask("GET", what, {})
        if answer.status == 404:
            return None
        if not answer.is_success:
            raise refusal(answer)
        try:
            return decoded(answer.headers.get("content-encoding"), answer.body)
        except ValueError as error:
            raise errors.BackboneError(str(error)) from error

    async def _ask(self, method: str, what: str, headers: dict[str, str], body: Any = None) -> Answer:
        self.is_asking += 1
        try:
            return await self._reporter.call(self, method, task_path(self.task_id, what), headers, body)
        finally:
            self.is_asking -= 1
            self.active_s = time.monotonic()


def payload(data: Data) -> bytes | Payload:
    return FilePayload(data) if isinstance(data, Path) else data
