"""The status texts that the backbone writes itself. Callers read them in ``Status``; some scripts get them as
arguments."""

from __future__ import annotations

from typing import Final

CANCELLED: Final = "Cancelled"
AWAITING_SERVICE: Final = "Awaiting service availability"
AWAITING_DISPATCHER: Final = "Awaiting a free dispatcher"
AWAITING_BODY: Final = "Awaiting the request body"
BODY_GONE: Final = "Failed - the request body is gone."
UNDELIVERED: Final = "Failed - unable to send to backend service."

_SILENCE: Final = "the backend was not heard of for too long"
SILENT_RETRYING: Final = f"Retrying - {_SILENCE}"
SILENT_FAILED: Final = f"Failed - {_SILENCE}."
SILENT_EXHAUSTED: Final = f"Failed - {_SILENCE} (attempt %d of %d)."
"""Filled in by Lua's ``string.format``: the failures, the attempt limit."""


def no_endpoint(reason: object) -> str:
    return f"Failed - {reason}."


def retrying(reason: str) -> str:
    return f"Retrying - the backend {reason}"


def rejected(reason: str) -> str:
    """*reason* may end with what the backend said, and so with any mark."""
    return f"Failed - the backend {reason.removesuffix('.')}."


def exhausted(reason: str, failures: int, max_attempts: int) -> str:
    return f"Failed - the backend {reason} (attempt {failures} of {max_attempts})."
