"""What a backend's answer means for a task: a pure function of both."""

from __future__ import annotations

from shared.dispatch.backend_client import Busy, Erred, NotFound, Rejected, Unreachable
from shared.store import BackendAway, BackendBusy, BackendFailed, RequeueReason
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.value import value


@value
class Fail:
    """The task ends as failed."""

    status: str
    reason: EndReason


def after_answer(
    answer: Busy | Unreachable | NotFound | Erred | Rejected, backend: str, failures: int, max_attempts: int
) -> RequeueReason | Fail:
    """What follows from an *answer* that did not accept the task.

    Args:
        backend: the registered prefix of the backend that gave it.
        failures: attempts of the task that failed before.
    """
    match answer:
        case Busy():
            return BackendBusy(answer.retry_after_s)
        case Unreachable():
            return BackendAway(
                status_texts.backend(answer.reason), backend, was_sent=answer.was_sent, timed_out=answer.timed_out
            )
        case NotFound():
            return BackendAway(status_texts.backend(answer.reason), backend, not_found=True)
        case Erred() if failures + 1 < max_attempts:
            return BackendFailed(status_texts.retrying(status_texts.backend(answer.reason)))
        case Erred():
            status = status_texts.exhausted(status_texts.backend(answer.reason), failures + 1, max_attempts)
            return Fail(status, EndReason.TIMEOUT if answer.timed_out else EndReason.REJECTED)
        case Rejected():
            return Fail(status_texts.rejected(answer.reason), EndReason.REJECTED)
