"""Why a task has ended: one word of a closed set. Whoever is on call groups by it."""

from __future__ import annotations

from enum import StrEnum


class EndReason(StrEnum):
    """Why a task has ended. All but the first two are reasons of a failure."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """Its backend refused it, or answered each attempt with an error; or the app could not send it: its body is gone
    or too large for this backend, its pipeline was lost."""
    UNREACHABLE = "unreachable"
    """Its backend could not be reached, was not registered, or its connection broke."""
    TIMEOUT = "timeout"
    """Its backend did not answer the dispatch in time, or its attempts ran for longer than they may."""
    EXPIRED = "expired"
    """No backend had it by the time until which it could wait for that. It says nothing of the backend."""
    LEASE = "lease"
    """Nothing was heard of it for its lease, too often."""
    PUBLISHES = "publishes"
    """Its event was published too often, and nobody claimed the task."""
    REPORTED = "reported"
    """Its model service reported the failure, or gave it back for the last time; or so did the tasks of a batch."""
