"""Which problem a client gets for an outcome: the one place where the operations' outcomes meet HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from cache_manager.batch_schemas import view_of
from cache_manager.operation_outcomes import (
    BodyTooLarge,
    IdempotencyKeyReused,
    TakesNoReference,
    TooManySchedules,
    Unacceptable,
    UploadMismatch,
    UploadUnknown,
    UploadUsed,
)
from shared.dispatch.registry import BackendRegistry
from shared.http.problems import Problem, invalid, no_such_task, too_large
from shared.store import MOST_CHILDREN, MOST_SCHEDULES
from shared.tasks.outcomes import Applied, BatchRefused, Created, Draining, Existing, Full, Refusal, Refused
from shared.tasks.task import Task

_UNKNOWN_WAIT_S: Final = 10
_PATHS_NAMED: Final = 10

OperationOutcome = (
    Task
    | Applied
    | Created
    | Existing
    | Refused
    | Full
    | Draining
    | BodyTooLarge
    | IdempotencyKeyReused
    | Unacceptable
    | BatchRefused
    | TakesNoReference
    | UploadUnknown
    | UploadUsed
    | UploadMismatch
    | None
)


def task_of(outcome: OperationOutcome, registry: BackendRegistry | None = None) -> Task:
    """The task that an operation returned. The *registry* is what a legacy call needs to show a refused one.

    Raises:
        Problem: it returned none, or refused.
    """
    match outcome:
        case Task():
            return outcome
        case Applied() | Created() | Existing():
            return outcome.task
        case Refused():
            raise _refused(outcome, registry)
        case Full():
            whose = "tasks of this owner" if outcome.is_owners else "tasks"
            later = ", or are to start there later," if outcome.is_delayed else ""
            raise Problem(
                429,
                "queue-full",
                "The owner's part of the queue is full." if outcome.is_owners else "The queue is full.",
                f"As many {whose} wait at this endpoint{later} as may. Try again.",
                headers={"Retry-After": str(retry_after_s(outcome.room_in_s))},
                members={"Full": "owner" if outcome.is_owners else "queue"},
            )
        case Draining():
            raise Problem(
                503,
                "queue-draining",
                "The queue takes no new tasks.",
                "The endpoint is being drained: tasks that wait there are still done.",
                headers={"Retry-After": str(retry_after_s(None))},
            )
        case BodyTooLarge() | None:
            raise problem_for(outcome)
        case Unacceptable():
            raise invalid(outcome.pointer, outcome.detail)
        case IdempotencyKeyReused():
            raise Problem(
                422,
                "idempotency-key-reused",
                "The idempotency key was used before.",
                "An earlier request with this Idempotency-Key had another body, query, type, pipeline or batch.",
                members={"TaskId": outcome.task.id},
            )
        case BatchRefused(reason="unknown"):
            raise unknown_batch()
        case BatchRefused(reason="sealed"):
            detail = "It was sealed or cancelled, or has ended."
            raise Problem(409, "batch-sealed", "The batch takes no more tasks.", detail)
        case BatchRefused():
            raise Problem(409, "batch-full", "The batch is full.", f"It has {MOST_CHILDREN:,} tasks already.")
        case TakesNoReference() | UploadUnknown() | UploadUsed() | UploadMismatch():
            raise upload_problem(outcome)


def problem_for(outcome: BodyTooLarge | Refused | None) -> Problem:
    match outcome:
        case BodyTooLarge():
            return too_large(outcome.limit_bytes)
        case Refused():
            return _refused(outcome, None)
        case None:
            return no_such_task()


def upload_problem(outcome: TakesNoReference | UploadUnknown | UploadUsed | UploadMismatch) -> Problem:
    match outcome:
        case TakesNoReference():
            return Problem(
                409,
                "no-reference",
                "The backend takes no reference.",
                f"{outcome.path}: the backend takes bodies of at most {outcome.limit_bytes} bytes.",
            )
        case UploadUnknown():
            return Problem(
                404,
                "unknown-upload",
                "There is no such upload.",
                "The id is unknown, or the upload can no longer be used.",
            )
        case UploadUsed():
            taken_by = {"TaskId": outcome.upload.task_id} if outcome.upload.task_id else {}
            return Problem(
                409,
                "upload-used",
                "The upload is for something else.",
                "Another task has it, or it is for another task or attempt.",
                members=taken_by,
            )
        case UploadMismatch():
            return Problem(409, "upload-mismatch", "What was written is not what was declared.", f"{outcome.detail}.")


def not_put_problem(
    outcome: BodyTooLarge
    | TooManySchedules
    | Unacceptable
    | TakesNoReference
    | UploadUnknown
    | UploadUsed
    | UploadMismatch,
) -> Problem:
    """Why a schedule was not stored."""
    match outcome:
        case BodyTooLarge():
            return problem_for(outcome)
        case TooManySchedules():
            return Problem(
                409,
                "too-many-schedules",
                "There are too many schedules.",
                f"An owner has {MOST_SCHEDULES:,} at most. One that is deleted makes room.",
            )
        case Unacceptable():
            return invalid(outcome.pointer, outcome.detail)
        case _:
            return upload_problem(outcome)


def no_such_schedule() -> Problem:
    return Problem(404, "no-such-schedule", "There is no such schedule.", "The name is unknown, or it was deleted.")


def no_schedule_body() -> Problem:
    return Problem(404, "no-body", "There is no body.", "The body of the schedule is gone. Put the schedule anew.")


def no_body(task: Task) -> Problem:
    return Problem(404, "no-body", "There is no body.", "The task has none.", members={"TaskId": task.id})


def unknown_batch() -> Problem:
    return Problem(404, "unknown-batch", "There is no such batch.", "The id is unknown, or the batch was removed.")


def unknown_endpoint(path: str, reason: str) -> Problem:
    return Problem(404, "unknown-endpoint", "There is no such endpoint.", f"{path!r}: {reason}.")


def only_a_prefix(path: str, of: Sequence[str]) -> Problem:
    named = ", ".join(of[:_PATHS_NAMED]) + (", …" if len(of) > _PATHS_NAMED else "")
    return unknown_endpoint(path, f"it has no tasks, it is only the beginning of {named}")


def no_result(task: Task) -> Problem:
    return Problem(
        404,
        "no-result",
        "There is no result.",
        "The task has stored none, or not yet.",
        members={"TaskId": task.id},
    )


def no_checkpoint(task: Task) -> Problem:
    return Problem(
        404,
        "no-checkpoint",
        "There is no checkpoint.",
        "No attempt has stored one, or the task has ended or gone on to another step.",
        members={"TaskId": task.id},
    )


def range_not_satisfiable(size_bytes: int) -> Problem:
    return Problem(
        416,
        "range-not-satisfiable",
        "The range lies outside of what is stored.",
        f"There are {size_bytes} bytes.",
        headers={"Content-Range": f"bytes */{size_bytes}"},
    )


def retry_after_s(wait_s: float | None) -> int:
    """When to ask again, for a caller that has to wait *wait_s*, if that is known."""
    return _UNKNOWN_WAIT_S if wait_s is None else max(1, math.ceil(wait_s))


def _refused(refused: Refused, registry: BackendRegistry | None) -> Problem:
    if refused.task is None:
        return no_such_task()
    if refused.reason is Refusal.BODILESS:
        return invalid("/Body", "a task to be published needs one, and none was kept")
    detail = {
        Refusal.FINISHED: f"The task is {refused.task.state} and stays so.",
        Refusal.STALE: f"The update speaks for another attempt than the current one, {refused.task.attempt}.",
        Refusal.UNFINISHED: "Only a finished task is removed, and a batch only with its children.",
        Refusal.BATCH: "It is a batch, and no model service has it.",
        Refusal.RESULTLESS: "The task has no result that could become the next step's body.",
    }.get(refused.reason, "The task's state does not allow it.")
    return Problem(
        409,
        "conflict",
        "The task does not take this change.",
        detail,
        members={"Task": view_of(refused.task, registry=registry).document()},
    )
