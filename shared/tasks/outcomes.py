"""What comes of the steps of a task's life."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from enum import StrEnum
from typing import Literal, Self

from shared.tasks.task import Task
from shared.tasks.value import value


class Refusal(StrEnum):
    """Why a step was refused. Nothing has changed."""

    UNKNOWN = "unknown"
    STALE = "stale"
    FINISHED = "finished"
    STATE = "state"
    SLOTLESS = "slotless"
    """It waits in its queue for a slot, and cannot be claimed before."""
    BODILESS = "bodiless"
    RESULTLESS = "resultless"
    EXPIRED = "expired"
    """It cannot be claimed any more: the time is over until which it could wait for a backend."""
    BATCH = "batch"
    """It is a batch, which takes no such step."""
    DONE = "done"
    """The same operation has taken it with this task before."""
    UNFINISHED = "unfinished"
    """It can be removed only once it has ended."""


@value
class SlotGrant:
    """A slot that an attempt was granted: the attempt is to be dispatched now."""

    task_id: str
    attempt: int

    @property
    def entry_id(self) -> str:
        """The attempt's name in its queue's keys."""
        return f"{self.task_id}.{self.attempt}"

    @classmethod
    def parse(cls, entry_id: str) -> Self:
        task_id, _, attempt = entry_id.rpartition(".")
        return cls(task_id, int(attempt))

    @classmethod
    def of(cls, task: Task) -> Self:
        """The grant that *task*'s current attempt has or will get."""
        return cls(task.id, task.attempt)


@value
class Granted:
    """The slots that the queue at *path* granted, and when to ask it again.

    Attributes:
        ask_again_s: None if an event will tell sooner.
        claims: the outcomes of claims that were already made, in the step that granted the slots.
    """

    path: str
    grants: Sequence[SlotGrant]
    ask_again_s: float | None = None
    claims: dict[SlotGrant, Claimed | Refused] = field(default_factory=dict["SlotGrant", "Claimed | Refused"])


@value
class QueuePosition:
    """Where a waiting task stands in its queue, as the queue is now."""

    ahead: int
    """How many tasks go first."""
    slots: int
    """How many tasks the backend holds at a time."""
    service_s: float | None
    """How long a task has taken the backend of late; None while that is unknown or no estimate is possible."""
    is_paused: bool = False
    """Whether the queue is paused."""
    least_wait_s: float = 0
    """How long it waits at least, whatever slots are free: the queue's rate does not allow it before, or its owner
    may have only so many tasks in flight."""

    @property
    def wait_s(self) -> float | None:
        """How long until the task is dispatched, as an estimate."""
        if self.service_s is None:
            return None
        return max((self.ahead + 1) * self.service_s / self.slots, self.least_wait_s)


@value
class Enqueued:
    """The entries wait or hold a slot. ``position`` is that of a new one; None if it holds a slot."""

    granted: Granted
    position: QueuePosition | None


@value
class Full:
    """The queue holds as many waiting tasks as it may.

    Attributes:
        is_owners: whether it holds as many of the task's owner as it may.
        is_delayed: whether the task was to start later, and is one too many with those that are to start there.
    """

    room_in_s: float | None
    is_owners: bool = False
    is_delayed: bool = False


@value
class Draining:
    """The queue takes no new tasks."""


@value
class Created:
    """The task is stored.

    Attributes:
        position: where it waits, if it waits and its queue could tell.
    """

    task: Task
    position: QueuePosition | None = None
    granted: Sequence[Granted] = ()


@value
class Existing:
    """The id was taken. This is the task that has it."""

    task: Task
    granted: Sequence[Granted] = ()


@value
class TooLate:
    """The child's registration at its batch does not count any more. Nothing was created."""

    granted: Sequence[Granted] = ()


@value
class BatchRefused:
    """The batch does not take the child. Nothing was created."""

    reason: Literal["unknown", "sealed", "full"]


@value
class Origin:
    """Where a task was before a transition."""

    path: str
    attempt: int


@value
class Applied:
    """The step was taken.

    Attributes:
        origin: where it began, if it changed state, path or attempt.
        granted: the slots that queues granted because of it.
        service_ms: how long the backend took for a task that it completed.
        slot: what a report means to the slot of a task that is still running: its text told an end, so that the slot
            is free, or the report took such an end back, so that the slot is held again. Or to that of a task that
            its backend gave back: the queue forgets it.
        late_ms: how long ago the end was reported that takes effect with it.
        unnamed_blobs: a result, a body, a long status that the step has replaced: nothing names them any more.
    """

    task: Task
    origin: Origin | None = None
    granted: Sequence[Granted] = ()
    service_ms: int | None = None
    slot: Literal["freed", "held", "forgotten"] | None = None
    unnamed_blobs: Sequence[str] = ()
    late_ms: int = 0

    @property
    def is_transition(self) -> bool:
        return self.origin is not None

    @property
    def path(self) -> str:
        """The endpoint path at which the task was when the step began."""
        return (self.origin or self.task).path


@value
class Unacknowledged(Applied):
    """The step was taken, and its write has not arrived in time where ``DURABILITY`` wants it: nobody is told."""


@value
class Claimed:
    """The attempt is the caller's to dispatch. ``inline_body`` is None if the body is a blob."""

    task: Task
    inline_body: bytes | None


@value
class Refused:
    """The step was not taken. ``granted`` as in :class:`Applied`."""

    reason: Refusal
    task: Task | None
    granted: Sequence[Granted] = ()

    @property
    def path(self) -> str:
        """The endpoint path of the task; empty if it is unknown."""
        return self.task.path if self.task else ""


Outcome = Applied | Refused
