"""The task: its states, its record, and what it looks like from outside.

The state machine is drawn in ``docs/lifecycle.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from shared.record import record

DEFAULT_PRIORITY: Final = 5
MAX_ATTEMPT: Final = 999_999_999
"""No task gets that far; a larger number is not an attempt."""


class State(StrEnum):
    """Where a task stands. The value is what the index keys in Redis are named by."""

    CREATED = "created"
    """Waiting: to be published, delivered, or for a slot of its backend."""
    DISPATCHED = "dispatched"
    """Claimed by a dispatcher; the backend was asked, or accepted and has not yet reported."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)

    @property
    def backend_status(self) -> str:
        """The name existing clients know: they have no word for a task handed over but not yet reported on."""
        return State.CREATED.value if self is State.DISPATCHED else self.value


class Who(StrEnum):
    """Who caused a transition, for the task's history."""

    CLIENT = "client"
    DISPATCHER = "dispatcher"
    RECONCILER = "reconciler"


# These two are tuples, since some are made from every reply of Redis: a frozen dataclass takes four times as long.
class Content(NamedTuple):
    """A stored body or result: inline in Redis, or in Blob Storage when it has a blob's name."""

    content_type: str
    size_bytes: int
    blob: str | None = None


class Event(NamedTuple):
    """One transition in a task's history."""

    at_ms: int
    state: State
    attempt: int
    who: str
    status: str


@record
class Task:
    """One task as its record in Redis says. Times are Unix milliseconds by the Redis server's clock."""

    id: str
    state: State
    path: str
    """The endpoint path, which is the queue's name."""
    query: str
    """The query string the backend is called with, without ``?``."""
    status: str
    """Free text for the caller."""
    attempt: int
    """Number of the current dispatch: the fence. A new one is drawn whenever the task goes back to its queue."""
    failures: int
    """Attempts that failed at this endpoint; a busy answer is none."""
    publishes: int
    """Events published for the current attempt."""
    priority: int
    """0 to 9, by which it goes before or after others of its owner's in the queue."""
    wanted: bool
    """Whether the backbone is to dispatch the task (``PublishToGrid``); False for one that is only kept track of."""
    version: int
    created_ms: int
    updated_ms: int
    queued_ms: int
    """Since when it stands in its endpoint's queue; a retry keeps its place."""
    body: Content | None
    result: Content | None
    traceparent: str
    fingerprint: str
    """What an idempotent submit was made of; empty for others."""
    owner: str
    unannounced: bool
    """Whether it has ended, and those who want to hear of that have not heard."""
    history: Sequence[Event]

    @property
    def etag(self) -> str:
        # With the birth time: a client may choose an id again after its former task was purged.
        return f'"{self.created_ms:x}-{self.version}"'
