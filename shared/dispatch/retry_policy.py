"""What a backend's answer means for a task: a pure function of both."""

from __future__ import annotations

from shared.dispatch.backend_client import Busy, Rejected, Unreachable
from shared.store import BackendBusy, BackendFailed, RequeueReason
from shared.tasks import status_texts
from shared.tasks.value import value


@value
class Fail:
    """The task ends as failed."""

    status: str


def after_answer(answer: Busy | Unreachable | Rejected, failures: int, max_attempts: int) -> RequeueReason | Fail:
    """What follows from an *answer* that did not accept the task.

    Args:
        failures: attempts of the task that failed before.
    """
    match answer:
        case Busy():
            return BackendBusy(answer.retry_after_s)
        case Unreachable() if failures + 1 < max_attempts:
            return BackendFailed(status_texts.retrying(answer.reason), answered=answer.answered)
        case Unreachable():
            return Fail(status_texts.exhausted(answer.reason, failures + 1, max_attempts))
        case Rejected():
            return Fail(status_texts.rejected(answer.reason))
