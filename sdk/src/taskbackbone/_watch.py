"""A task that this service has, as the backbone was told of it, and when the next thing is to be told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from . import errors
from ._attempts import Attempt, Data, Events
from ._core import refusal, task_path
from ._payload import FilePayload, Payload, unpacked

if TYPE_CHECKING:
    from ._reports import Reporter

RUNNING_AFTER_S = 1.0
STATUS_CHARS = 1_000
"""Of a heartbeat and of a release; they take 1,024."""
_PROGRESS_EVERY_S = 1.0
_LONGEST_BEAT_S = 30.0


class Watch(Events):
    """A task that this service has, as the backbone was told of it."""

    def __init__(self, reporter: Reporter, attempt: Attempt, lost: Callable[[str], None]) -> None:
        super().__init__()
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
        self.confirmed_s = self.told_s = self.active_s
        """When the backbone last took something, and when it was last told."""
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
        super().started()
        self._reporter.wake()

    def progress(self, fraction: float | None, text: str | None) -> None:
        super().progress(fraction, text)
        if fraction is None and text is None:
            return
        self.fraction = self.fraction if fraction is None else fraction
        self.text = self.text if text is None else text
        if not self._has_news:
            self._has_news = True
            self._reporter.wake()

    async def ask(self, what: str, data: Data | None = None) -> Data | None:
        path = task_path(self.task_id, "/result" if what == "previous" else "/checkpoint")
        self.is_asking += 1
        try:
            if data is None:
                answer = await self._reporter.call(self, "GET", path, {}, None)
            else:
                headers = {"Content-Type": "application/octet-stream"}
                answer = await self._reporter.call(self, "PUT", path, headers, payload(data))
            if answer.status == 303:  # it is larger than the backbone passes on
                return await self._reporter.transfers.fetch_result(self.attempt, answer)
            if answer.is_success:
                encoding = answer.headers.get("content-encoding")
                return (await unpacked(encoding, answer.body)) if data is None else None
            if answer.status == 404 and data is None:
                return None
            raise refusal(answer)
        except ValueError as error:
            raise errors.BackboneError(str(error)) from error
        finally:
            self.is_asking -= 1
            self.active_s = time.monotonic()


def payload(data: Data) -> bytes | Payload:
    """What a call sends of it. Raises OSError."""
    return FilePayload(data) if isinstance(data, Path) else data
