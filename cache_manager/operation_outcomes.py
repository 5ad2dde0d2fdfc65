"""What operations come to beside the outcomes of the store."""

from __future__ import annotations

from shared.tasks.outcomes import BatchRefused, Created, Draining, Existing, Full, Refused
from shared.tasks.task import Task
from shared.tasks.uploads import Upload
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
    """An earlier request with the same key was a different one; it made this task."""

    task: Task


@value
class TakesNoReference:
    """The upload is larger than what passes through the app, and a backend on the task's way takes no reference."""

    path: str
    limit_bytes: int


@value
class UploadUnknown:
    """There is no such upload, nobody can use it any more, or it is another owner's."""


@value
class UploadUsed:
    """The upload is another task's, or for another purpose."""

    upload: Upload


@value
class UploadMismatch:
    """What was written is not what was declared. ``detail`` says in what."""

    detail: str


@value
class TooManySchedules:
    """The owner has as many schedules as it may."""


SubmitOutcome = (
    Created | Existing | Full | Draining | BatchRefused | BodyTooLarge | IdempotencyKeyReused | TakesNoReference
)
UpsertOutcome = Task | Refused | Full | Draining | BatchRefused | BodyTooLarge | Unacceptable
