"""The delivery policy of Event Grid, as pure functions of what has happened so far."""

from dataclasses import dataclass
from http import HTTPStatus

ANSWER_TIMEOUT_S = 30
DEAD_LETTER_DELAY_S = 300
DEAD_LETTER_UNAVAILABLE_S = 4 * 3600
DEAD_LETTER_RETRY_S = 60  # inferred

RETRY_DELAYS_S = (10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
"""The delays before the second attempt, the third, and so on; the last one repeats."""

MIN_DELAY_S: dict[int, int] = {HTTPStatus.REQUEST_TIMEOUT: 120, HTTPStatus.SERVICE_UNAVAILABLE: 30}
OTHER_MIN_DELAY_S = 10

GIVE_UP_REASONS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "UndeliverableDueToHttpBadRequest",
    HTTPStatus.UNAUTHORIZED: "UndeliverableDueToHttpUnauthorized",
    HTTPStatus.FORBIDDEN: "UndeliverableDueToHttpForbidden",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "UndeliverableDueToHttpRequestEntityTooLarge",
}
ATTEMPTS_EXCEEDED = "MaxDeliveryAttemptsExceeded"
TIME_TO_LIVE_EXCEEDED = "TimeToLiveExceeded"
PROBATION = "UndeliverableDueToProbationCausedByClientError"

_OUTCOMES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "BadRequest",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.REQUEST_TIMEOUT: "TimedOut",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLarge",
    HTTPStatus.TOO_MANY_REQUESTS: "Busy",
    HTTPStatus.SERVICE_UNAVAILABLE: "Busy",
}


@dataclass(frozen=True)
class Answer:
    """A subscriber's answer to a delivery: an HTTP status, or None if the exchange itself failed."""

    status: int | None
    outcome: str
    """The name that a dead letter shows as ``lastDeliveryOutcome``."""

    @classmethod
    def of_status(cls, status: int) -> "Answer":
        return cls(status, "Delivered" if 200 <= status <= 204 else _OUTCOMES.get(status, "GenericError"))

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status <= 204


TIMED_OUT = Answer(None, "TimedOut")
SOCKET_ERROR = Answer(None, "SocketError")


@dataclass(frozen=True)
class RetryIn:
    delay_s: float


@dataclass(frozen=True)
class GiveUp:
    reason: str


def after_failure(answer: Answer, *, attempts: int, max_attempts: int, jitter: float) -> RetryIn | GiveUp:
    """Decides what follows the failure of attempt number `attempts`, counted from 1.

    `jitter` is the share by which this delay is longer than the schedule says. It never shortens the delay, so the
    minimum of the status code holds.
    """
    if reason := GIVE_UP_REASONS.get(answer.status or 0):
        return GiveUp(reason)
    if attempts >= max_attempts:
        return GiveUp(ATTEMPTS_EXCEEDED)
    scheduled_s = RETRY_DELAYS_S[min(attempts, len(RETRY_DELAYS_S)) - 1]
    minimum_s = MIN_DELAY_S.get(answer.status or 0, OTHER_MIN_DELAY_S)
    return RetryIn(max(scheduled_s, minimum_s) * (1 + jitter))


def has_expired(*, published_at_s: float, time_to_live_minutes: int, now_s: float) -> bool:
    """Called only when an attempt is due; until then, an event outlives its time to live."""
    return now_s - published_at_s >= time_to_live_minutes * 60


@dataclass
class EndpointHealth:
    """Delayed delivery: an endpoint that keeps failing gets no events, not even new ones, for ever longer times.

    The service documents "the first 10 events" and "up to several hours"; the steps between are inferred.
    """

    FAILURES_TOLERATED = 9
    HOLDS_S = RETRY_DELAYS_S[2:8]

    held_until_s: float = 0.0
    _failures: int = 0
    _holds: int = 0

    def succeeded(self) -> None:
        self.held_until_s, self._failures, self._holds = 0.0, 0, 0

    def failed(self, now_s: float) -> None:
        """Counts a failure. Deliveries that were under way when the hold began do not extend it when they fail."""
        self._failures += 1
        if self._failures > self.FAILURES_TOLERATED and now_s >= self.held_until_s:
            self.held_until_s = now_s + self.HOLDS_S[min(self._holds, len(self.HOLDS_S) - 1)]
            self._holds += 1
