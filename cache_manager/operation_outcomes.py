"""What operations come to beside the outcomes of the store."""

from __future__ import annotations

from shared.tasks.outcomes import BatchRefused, Created, Draining, Existing, Full, Refused
from shared.tasks.task import Task
from shared.tasks.value import value


@value
class Unacceptable:
    """A request that makes no sense, though each of its members is valid. ``pointer`` names the member to change."""

    pointer: str
    detail: str


@value
class BodyTooLarge:
    limit_bytes: int


@value
class IdempotencyKeyReused:
    """An earlier request with the same key had another body; it made this task."""

    task: Task


SubmitOutcome = Created | Existing | Full | Draining | BatchRefused | BodyTooLarge | IdempotencyKeyReused
UpsertOutcome = Task | Refused | Full | Draining | BatchRefused | BodyTooLarge | Unacceptable
