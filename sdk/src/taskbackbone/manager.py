"""Reports on a task, for model services that keep a server of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from . import errors
from ._calls import Caller, Query, endpoint
from ._core import RETRY_FOR_S, TIMEOUT_S, Backbone, Steps, task_path
from ._drivers import run_sync
from ._payload import Payload, body_of

T = TypeVar("T")
_GOES_ON = ("created", "running")


class TaskManager:
    """Reports on one attempt of a task. A call without an answer is repeated.

    If the task is no longer this attempt's, the call raises ``Conflict``, and ``cancelled`` is true from then on:
    stop the work.

    Parameters:
        task_id: the header ``taskId`` of the dispatch.
        attempt: its header ``X-Task-Attempt``; without it, the backbone trusts that this is the current attempt.
        url, key: of the backbone; without them, ``BACKBONE_URL`` and ``BACKBONE_KEY``.
        slots, instance: tell with each report how many tasks this instance of the service holds at a time.
        timeout_s, retry_for_s, upload_over_bytes: as of ``TaskClient``.

    Raises:
        ValueError: the URL is missing, or one of these cannot be right.
    """

    def __init__(
        self,
        task_id: str,
        attempt: int | None = None,
        *,
        url: str | None = None,
        key: str | None = None,
        slots: int | None = None,
        instance: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_for_s: float = RETRY_FOR_S,
        upload_over_bytes: int | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.cancelled = False
        self._caller = Caller(Backbone(url, key), timeout_s, retry_for_s, upload_over_bytes)
        self._dispatch: Mapping[str, str] = {}
        told = {"X-Task-Attempt": attempt, "X-Task-Slots": slots, "X-Task-Instance": instance}
        self._headers = {name: str(value) for name, value in told.items() if value is not None}

    @classmethod
    def of(cls, headers: Mapping[str, str], **options: Any) -> TaskManager:
        """For the dispatch with these *headers*; *options* are those of the class.

        Raises:
            KeyError: there is no ``taskId``: a direct call, which is answered with its result.
        """
        named = {name.lower(): value for name, value in headers.items()}
        attempt = named.get("x-task-attempt")
        manager = cls(named["taskid"], int(attempt) if attempt else None, **options)
        manager._dispatch = named
        return manager

    @property
    def has_large_body(self) -> bool:
        """Whether the dispatch only names its body, since that is large: ``save_body`` fetches it."""
        return "x-task-body" in self._dispatch

    def save_body(self, path: os.PathLike[str] | str) -> Path:
        """Fetch the large body that the dispatch names into a file, in several parts at a time.

        Raises:
            NotAllowed: it does not lie where ``SERVICE_STORAGE`` says, or the storage does not give it.
            Corrupted, NotFound, Unreachable: it cannot be fetched, or is another.
            KeyError: the dispatch names none.
        """
        from ._blobs import fetch

        return fetch(self._dispatch, Path(path), self._caller.retry_for_s)

    def update(self, status: str, progress: float | None = None) -> None:
        """Report that the task is at work, with a text for the caller, and how far it is: 0 to 1."""
        self._report("running", status, Progress=progress)

    def complete(self, text: str = "", result: Any = None, content_type: str | None = None) -> None:
        """End the task, in one step with its *result* if there is one: anything that ``TaskClient.submit`` takes.

        Raises:
            TooLarge: the result is larger than the backbone takes. The task goes on: ``fail`` it.
        """
        status = _ended("completed", text)
        if result is None:
            self._report("completed", status)
        else:
            self._put("/result", result, content_type, status)

    def fail(self, text: str = "") -> None:
        """End the task as failed, with the reason for its caller."""
        self._report("failed", _ended("failed", text))

    def heartbeat(self, progress: float | None = None, status: str | None = None) -> None:
        """Renew the lease. Do so three times as often as the lease is long, if there is nothing to report."""
        self._post(task_path(self.task_id, "/heartbeat"), {"Progress": progress, "Status": status})

    def result(self, result: Any, content_type: str | None = None) -> None:
        """Store the result before ``complete``, or of a pipeline's step.

        Raises:
            TooLarge: it is larger than the backbone takes.
        """
        self._put("/result", result, content_type)

    def release(self, after_s: float | None = None, *, failed: bool = False, status: str | None = None) -> None:
        """Give the task back: it waits at its old place, for *after_s* seconds at least, and begins anew.

        Parameters:
            failed: whether this attempt counts as a failure; the last one fails the task.
            status: a text for the caller.
        """
        told = {"Failed": failed or None, "RetryAfterSeconds": after_s, "Status": status}
        self._post(task_path(self.task_id, "/release"), told)

    def checkpoint(self, data: Any, content_type: str | None = None) -> None:
        """Keep something for the next attempt."""
        self._put("/checkpoint", data, content_type)

    def restored(self) -> bytes | None:
        """What an earlier attempt has kept; None if there is nothing."""
        try:
            return self._run(self._caller.demand("GET", task_path(self.task_id, "/checkpoint"))).body
        except errors.NotFound:
            return None

    def next(
        self,
        path: str,
        body: Any = None,
        *,
        query: Query = None,
        content_type: str | None = None,
        takes_result: bool = False,
    ) -> None:
        """Send the task on to another endpoint, whose queue it then waits in. It needs the attempt.

        Parameters:
            path: of that endpoint, perhaps with a query.
            body: anything that ``TaskClient.submit`` takes; without one, the endpoint gets the body that came here.
            query: as of ``TaskClient.submit``.
            content_type: of the body; without it, what its type or file name says.
            takes_result: the stored result is the body.

        Raises:
            InvalidRequest: there is no such endpoint.
            Conflict: there is no result, or as always.
        """
        path, text = endpoint(path, query)
        data, kind = _content(body)
        headers = {"Content-Type": content_type or kind}
        if body is None:
            headers = {"X-Next-Body": "result" if takes_result else "current"}
        self._send("POST", task_path(self.task_id, "/next" + path), data, headers, query=text)

    def _report(self, state: str, status: str, **members: Any) -> None:
        told = {"TaskId": self.task_id, "Attempt": self.attempt, "BackendStatus": state, "Status": status}
        self._post("/api/CacheConnectorUpsert", {**told, **members})

    def _post(self, path: str, document: Mapping[str, Any]) -> None:
        told = {name: value for name, value in document.items() if value is not None}
        self._send("POST", path, json.dumps(told, allow_nan=False).encode(), {"Content-Type": "application/json"})

    def _put(self, rest: str, data: Any, content_type: str | None, ends_as: str | None = None) -> None:
        body, kind = _content(data)
        more = {} if ends_as is None else {"X-Task-Complete": quote(ends_as)}
        uploaded = {"TaskId": self.task_id} if rest == "/result" and self.attempt is not None else None
        headers = {"Content-Type": content_type or kind, **more}
        self._send("PUT", task_path(self.task_id, rest), body, headers, uploaded=uploaded)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | Payload,
        headers: Mapping[str, str],
        query: str = "",
        uploaded: Mapping[str, str] | None = None,
    ) -> None:
        sent = {**self._headers, **headers}
        self._run(self._caller.send(method, path, body, headers=sent, query=query, uploaded=uploaded))

    def _run(self, steps: Steps[T]) -> T:
        try:
            return run_sync(steps)
        except errors.Conflict as error:
            is_ours = error.task.get("Attempt") == self.attempt and error.task.get("BackendStatus") in _GOES_ON
            self.cancelled = self.cancelled or not is_ours
            raise

    def __repr__(self) -> str:
        return f"TaskManager({self.task_id!r}, {self.attempt})"


def _content(data: Any) -> tuple[bytes | Payload, str]:
    ready = body_of(data)
    if ready is None:
        raise TypeError("A stream that cannot rewind cannot be sent again: read it first.")
    return ready


def _ended(word: str, text: str) -> str:
    """*word*, with *text* behind it if there is one. Legacy callers look for the word."""
    if not text:
        return word
    return text if text.lower().startswith(word) else f"{word} - {text}"
