"""What can go wrong: for callers below ``BackboneError``; a service's functions raise the three at the end.

No message holds a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BackboneError",
    "BatchFailed",
    "BodyUnreadable",
    "Cancelled",
    "Conflict",
    "Corrupted",
    "Fail",
    "InvalidCallback",
    "InvalidRequest",
    "KeyReused",
    "NotAllowed",
    "NotFound",
    "QueueFull",
    "Refused",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TooLarge",
    "TryAgain",
    "Unreachable",
    "WaitTimeout",
]


class BackboneError(Exception):
    """Any error of a call to the backbone, or of a task."""


class Refused(BackboneError):
    """The backbone does not do this. To repeat the same call does not help.

    Attributes:
        status: of the HTTP answer; 0 if the call was not made at all.
        problem: the problem document (RFC 9457); empty if the answer had none.
    """

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem: dict[str, Any] = dict(problem or {})

    @property
    def kind(self) -> str:
        """The last part of the problem's type, such as ``no-such-task``; empty if there is none."""
        return str(self.problem.get("type", "")).rpartition(":")[2]


class InvalidRequest(Refused):
    """Something in the request is missing or wrong; ``errors`` says what."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Each with ``pointer``, the name of a key, header or parameter, and ``detail``."""
        return list(self.problem.get("errors") or ())


class NotAllowed(Refused):
    """The key is missing or wrong, or somebody else's name was used without the gateway's key."""


class NotFound(Refused):
    """There is no such task, endpoint, result or checkpoint."""


class Conflict(Refused):
    """The task does not take this change: it has ended, or has a newer attempt."""

    @property
    def task(self) -> dict[str, Any]:
        """The task as it is, as a JSON object of the API; empty if the answer has none."""
        return dict(self.problem.get("Task") or {})


class TooLarge(Refused):
    """The body has more bytes than the backbone or its platform takes."""


class KeyReused(Refused):
    """Another request was made with this idempotency key before."""


class QueueFull(Refused):
    """The endpoint's queue takes no new tasks now: it is full, or an operator drains it."""


class Unreachable(BackboneError):
    """The backbone gave no answer, or could not work, for as long as the call was repeated.

    Attributes:
        status: of the last HTTP answer; 0 if there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BodyUnreadable(BackboneError):
    """What a body is read from failed, or has become shorter. The cause is its own error."""


class Corrupted(BackboneError):
    """What came is not what was stored: it has another length, or another SHA-256. Nothing of it is kept."""


class InvalidCallback(BackboneError):
    """A callback is not the backbone's, or not of now. Answer it 400, and do nothing.

    Attributes:
        reason: ``unsigned``, ``signature``, ``time`` or ``body``.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class TaskError(BackboneError):
    """A task has not, or not yet, come to its result.

    Attributes:
        task: its handle; None in another process than the one that made it.
    """

    def __init__(self, message: str, task: Any) -> None:
        super().__init__(message)
        self.task = task

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), None)


class TaskFailed(TaskError):
    """The task has failed; the message is its status text."""


class BatchFailed(TaskFailed):
    """Some tasks of a batch have no result. The message names the first of them, with their status texts.

    Attributes:
        tasks: their handles by the names of their items; empty in another process.
        saved: the files of the others, if they were saved.
    """

    def __init__(
        self, message: str, task: Any, tasks: Mapping[str, Any] | None = None, saved: Sequence[Any] = ()
    ) -> None:
        super().__init__(message, task)
        self.tasks: dict[str, Any] = dict(tasks or {})
        self.saved: list[Any] = list(saved)


class TaskCancelled(TaskError):
    """The task was cancelled."""


class WaitTimeout(TaskError):
    """The time for waiting is up. The task goes on, and may be waited for again."""


class Fail(Exception):
    """Raise it in a service's function: the task fails with this text, which its caller reads."""


class TryAgain(Exception):
    """Raise it in a service's function: the attempt counts as failed, and the task is tried again.

    Parameters:
        after_s: for how many seconds the next attempt waits at least.
        text: the task's status meanwhile.
    """

    def __init__(self, after_s: float = 0.0, text: str = "") -> None:
        super().__init__(text)
        self.after_s = after_s
        self.text = text


class Cancelled(BaseException):
    """Raised in a service's function when the task is no longer this service's.

    It is no ``Exception``, so that ``except Exception`` lets it pass. Its text says why, such as ``cancelled``,
    ``another attempt`` or ``shutdown``.
    """
