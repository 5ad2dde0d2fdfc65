"""Why a claimed task returns to its queue. Each reason means something else to the queue and to the task's
failures."""

from __future__ import annotations

from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.value import value


@value
class BackendBusy:
    """The backend had no room: the task keeps its place, and the capacity estimate falls.

    Attributes:
        retry_after_s: when the backend said to try again.
    """

    retry_after_s: float | None
    status: str = status_texts.AWAITING_SERVICE


@value
class BackendAway:
    """The backend could not be reached, or is not registered. That is the queue's matter, and the task keeps its
    place; it counts only if another task was accepted since the backend was away for this one last.

    Attributes:
        cause: why the queue is held, for callers.
        backend: the registered prefix; None if there is none.
        was_sent: whether the backend may have had the task.
        not_found: whether it answered that it does not know the path. If it accepts tasks at other paths, and never
            did at this one, the path is a mistake.
        timed_out: whether it did not answer in time.
    """

    cause: str
    backend: str | None
    was_sent: bool = False
    not_found: bool = False
    timed_out: bool = False

    @property
    def end_reason(self) -> EndReason:
        """Why a task ends that has waited too long for it, or tried it too often."""
        return EndReason.TIMEOUT if self.timed_out else EndReason.UNREACHABLE


@value
class BackendFailed:
    """The backend answered that it failed, which counts: the task returns after a backoff, and after many failures in
    a row the backend gets a pause."""

    status: str


@value
class DispatcherFull:
    """This process dispatches as many tasks as it may. The task keeps its place."""

    status: str = status_texts.AWAITING_DISPATCHER


@value
class BodyUnavailable:
    """Blob Storage did not give the request body, which is not the backend's failure. The task returns later."""

    status: str = status_texts.AWAITING_BODY


@value
class ResultUnstored:
    """The backend answered with the result, and Blob Storage did not take it. The task is worked on again, later."""

    status: str = status_texts.AWAITING_RESULT


RequeueReason = BackendBusy | BackendAway | BackendFailed | DispatcherFull | BodyUnavailable | ResultUnstored
