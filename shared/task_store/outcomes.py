"""What comes of the steps of a task's life."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Self

from shared.record import record
from shared.task import Task


class Refusal(StrEnum):
    """Why a step was not taken; nothing has changed."""

    UNKNOWN = "unknown"
    STALE = "stale"
    FINISHED = "finished"
    STATE = "state"
    BODILESS = "bodiless"


@record
class Grant:
    """A slot for an attempt: it is to be dispatched now."""

    task_id: str
    attempt: int

    @property
    def turn(self) -> str:
        return f"{self.task_id}.{self.attempt}"

    @classmethod
    def of(cls, turn: str) -> Self:
        task_id, _, attempt = turn.rpartition(".")
        return cls(task_id, int(attempt))


@record
class Granted:
    """What may be dispatched now, and when it is worth to ask again; None when something else will come first."""

    grants: list[Grant]
    again_s: float | None
    claims: dict[Grant, Claimed | Refused] = field(default_factory=dict["Grant", "Claimed | Refused"])
    """What came of the claims of those that were claimed at once."""


@record
class QueuePlace:
    """Where a waiting task stands: how many go before it, by how the queue is now."""

    ahead: int
    slots: int
    """How many tasks the backend holds at a time."""
    service_s: float | None
    """How long a task took it of late; None while that is unknown, or no estimate is possible."""

    @property
    def wait_s(self) -> float | None:
        """How long until the task is dispatched, as far as can be told."""
        return None if self.service_s is None else (self.ahead + 1) * self.service_s / self.slots


@record
class Taken:
    """The turns wait or hold a slot. ``place`` is that of a new one; None where it holds a slot."""

    granted: Granted
    place: QueuePlace | None


@record
class Full:
    """As many wait as may."""

    room_in_s: float | None


@record
class Draining:
    """The queue takes no new tasks."""


@record
class Created:
    task: Task
    place: QueuePlace | None = None
    """Where it waits, if it does and that is known."""
    granted: Granted = field(default_factory=lambda: Granted([], None))
    """What its queue handed on, where it was told in the same step."""


@record
class Existing:
    """The id was taken; this is the task that has it."""

    task: Task


@record
class Left:
    """Where a task was before a transition."""

    path: str
    attempt: int


@record
class Moved:
    """The step was taken.

    Args:
        left: where it began, if state, path or attempt changed by it.
        granted: what the task's queue handed on, where it was told in the same step.
    """

    task: Task
    left: Left | None = None
    granted: Granted | None = None

    @property
    def transition(self) -> bool:
        return self.left is not None


@record
class Claimed:
    """The attempt is the caller's to dispatch. ``inline_body`` is None when the body is a blob."""

    task: Task
    inline_body: bytes | None


@record
class Refused:
    """The step was not taken. ``granted`` as of :class:`Moved`."""

    reason: Refusal
    task: Task | None
    granted: Granted | None = None


Outcome = Moved | Refused
