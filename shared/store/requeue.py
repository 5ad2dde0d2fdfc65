"""Why a claimed task returns to its queue. Each reason means something else to the queue and to the task's
failures."""

from __future__ import annotations

from shared.tasks import status_texts
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
class BackendFailed:
    """The dispatch failed, which counts: the task returns after a backoff, and the backend may get a pause.

    Attributes:
        answered: whether the backend gave an answer, if a useless one.
    """

    status: str
    answered: bool


@value
class DispatcherFull:
    """This process dispatches as many tasks as it may. The task keeps its place."""

    status: str = status_texts.AWAITING_DISPATCHER


@value
class BodyUnavailable:
    """Blob Storage did not give the request body, which is not the backend's failure. The task returns later."""

    status: str = status_texts.AWAITING_BODY


RequeueReason = BackendBusy | BackendFailed | DispatcherFull | BodyUnavailable
