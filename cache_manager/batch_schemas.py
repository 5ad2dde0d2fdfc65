"""The JSON of batches, as clients send and get it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager.schemas import Progress, RequestModel, TaskView
from shared.dispatch.registry import BackendRegistry
from shared.store import Outage
from shared.tasks.outcomes import QueuePosition
from shared.tasks.task import Task

MAX_NAME_CHARS = 200


class NewBatchRequest(RequestModel):
    """The body of a new batch, which may have none. Names match in any case; null is the same as absent."""

    name: str | None = Field(default=None, max_length=MAX_NAME_CHARS)
    """Free text for the caller."""
    then: str | None = Field(default=None, min_length=1, max_length=2_400)
    """The path of an endpoint or a pipeline, with a query if it has one. It gets a task once all children have ended,
    with the list of them as its body."""


class BatchView(TaskView):
    """A batch as clients see it: a task, and the counts of its children."""

    name: str | None
    sealed: bool
    """Whether it takes no more children."""
    total: int
    """How many children it has."""
    completed: int
    failed: int
    cancelled: int
    unfinished: int
    progress: Progress | None
    """How many of the children have ended, 0 to 1. Null while there are none."""
    then: str | None
    then_task_id: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The task that gets the list of the children, once it is there."""

    @classmethod
    def of_batch(cls, batch: Task) -> Self:
        state = batch.children
        assert state is not None
        return cls(
            **TaskView.of(batch).model_dump(exclude={"progress"}),
            name=state.name or None,
            sealed=state.sealed,
            total=state.total,
            completed=state.completed,
            failed=state.failed,
            cancelled=state.cancelled,
            unfinished=state.unfinished,
            progress=state.ended / state.total if state.total else None,
            then=state.then.asked if state.then else None,
            then_task_id=state.then_id if state.then_exists else None,
        )


def view_of(
    task: Task,
    position: QueuePosition | None = None,
    outage: Outage | None = None,
    *,
    registry: BackendRegistry | None = None,
) -> TaskView:
    """A task as clients see it, as ``TaskView.of``; or a batch, which is in no queue."""
    if task.children is not None:
        return BatchView.of_batch(task)
    return TaskView.of(task, position, outage, registry=registry)


class BatchList(BaseModel):
    """A page of batches, newest first."""

    model_config = ConfigDict(
        alias_generator=to_pascal,
        populate_by_name=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )

    batches: list[BatchView]
    """A page may have fewer batches than the limit, even none, and not be the last."""
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""
