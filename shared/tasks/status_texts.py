"""The status texts that the backbone writes itself, and what it reads in those of model services.

Callers read them in ``Status``; some scripts get them as arguments.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from shared.tasks.task import LONG_STATUS_CHARS, MAX_STATUS_CHARS, State

CANCELLED: Final = "Cancelled"
AWAITING: Final = "Awaiting "
"""With which each text begins that says why a dispatch came to nothing, without a failure of the task."""
AWAITING_SERVICE: Final = f"{AWAITING}service availability"
AWAITING_DISPATCHER: Final = f"{AWAITING}a free dispatcher"
AWAITING_BODY: Final = f"{AWAITING}the request body"
AWAITING_RESULT: Final = f"{AWAITING}room for the result"
BODY_GONE: Final = "Failed - the request body is gone."
BODY_TOO_LARGE: Final = "Failed - the request body is too large for this backend, which takes no reference to it."
UNDELIVERED: Final = "Failed - unable to send to backend service."

_SILENCE: Final = "the backend was not heard of for too long"
SILENT_RETRYING: Final = f"Retrying - {_SILENCE}"
SILENT_EXCUSED: Final = f"{AWAITING_SERVICE}: {_SILENCE}"
SILENT_FAILED: Final = f"Failed - {_SILENCE}."
SILENT_EXHAUSTED: Final = f"Failed - {_SILENCE} (attempt %d of %d)."
"""Filled in by Lua's ``string.format``: the failures, the attempt limit."""

_OVERRUN_BEGINNING: Final = "it ran for longer than "
_OVERRUN: Final = f"{_OVERRUN_BEGINNING}%.10g s"
OVERRUN_RETRYING: Final = f"Retrying - {_OVERRUN}"
OVERRUN_EXHAUSTED: Final = f"Failed - {_OVERRUN} (attempt %d of %d)."
"""Filled in by Lua: for how long an attempt may run; the failures, the attempt limit."""
EXPIRED: Final = "Failed - it expired after %.10g s in the queue."
"""Filled in by Lua: for how long it could wait."""

RELEASED: Final = f"{AWAITING_SERVICE}: the backend gave it back"
RELEASED_FAILED: Final = "Retrying - the backend failed at it"

CHILDREN_FAILED: Final = "%d of %d failed"
CHILDREN_CANCELLED: Final = "%d of %d cancelled"
THEN_ENDED: Final = "Then %s"
"""Of a batch that has failed. Filled in by Lua: how many of how many, the state."""

UNREGISTERED: Final = "no backend is registered for this path"
"""Why a queue is held, as for a backend that is away."""
NO_SUCH_ENDPOINT: Final = "Failed - the backend answers 404 at this path, and serves others."

_HOUR_S: Final = 3600


def tells_silence(status: str) -> bool:
    """Whether the app ended an attempt with this text because nothing was heard of it."""
    return _SILENCE in status


def tells_overrun(status: str) -> bool:
    """Whether the app ended an attempt with this text because it ran for longer than it may."""
    return _OVERRUN_BEGINNING in status


def expired(after_s: float) -> str:
    return EXPIRED % after_s


def backend(reason: str) -> str:
    return f"the backend {reason}"


def awaiting(cause: str) -> str:
    return f"{AWAITING_SERVICE}: {cause}"


def gave_up(cause: str, after_s: float) -> str:
    span = f"{after_s / _HOUR_S:g} hours" if after_s >= _HOUR_S else f"{after_s:g} seconds"
    return f"Failed - gave up after {span}: {cause}."


def retrying(cause: str) -> str:
    return f"Retrying - {cause}"


def rejected(reason: str) -> str:
    """*reason* may end with what the backend said, and so with any mark."""
    return f"Failed - the backend {reason.removesuffix('.')}."


def exhausted(cause: str, failures: int, max_attempts: int) -> str:
    return f"Failed - {cause} (attempt {failures} of {max_attempts})."


def released_exhausted(status: str | None) -> str:
    """For a task that its backend failed at and gave back for the last time, with the *status* that it gave. Filled
    in by Lua's ``string.format``: the failures, the attempt limit."""
    text = "Failed - the backend failed at it" if status is None else status.replace("%", "%%")
    return f"{text} (attempt %d of %d)"


def completion(header: str) -> str:
    """The text of an ``X-Task-Complete`` header.

    Raises:
        ValueError: it is not percent-encoded UTF-8, or too long. The message says what is expected.
    """
    try:
        text = unquote(header, errors="strict").strip()
    except UnicodeDecodeError:
        raise ValueError("percent-encoded UTF-8 is expected") from None
    if len(text) > MAX_STATUS_CHARS:
        raise ValueError(f"at most {MAX_STATUS_CHARS} characters are taken")
    return text or State.COMPLETED.value


_END: Final = re.compile(r"\s*(completed|failed)(?:\s*\Z|\s?[-:.;])", re.IGNORECASE)


def end_told(status: str) -> State | None:
    """The end that a model service's text tells: *completed* or *failed* alone, or set off from what follows. Legacy
    services end their tasks so, and report them as running."""
    told = _END.match(status)
    return State(told[1].lower()) if told else None


def beginning(status: bytes) -> tuple[str, bool]:
    """The text, or the beginning of one that is too long for a record, and whether it is."""
    if len(status) <= 4 * MAX_STATUS_CHARS and len(text := status.decode()) <= MAX_STATUS_CHARS:
        return text, False
    return status[: 4 * LONG_STATUS_CHARS].decode(errors="ignore")[:LONG_STATUS_CHARS], True
