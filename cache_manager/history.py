"""The history of a task, as clients get it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager.callback_schemas import TaskCallback
from shared.http.times import IsoTime, iso
from shared.tasks.end_reason import EndReason
from shared.tasks.task import Event, Task


class HistoryEntry(BaseModel):
    """One transition of a task."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    timestamp: IsoTime
    state: Literal["created", "dispatched", "running", "completed", "failed", "cancelled"]
    status: str
    attempt: int
    actor: str = Field(serialization_alias="Who")
    operator: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of the operator who did it, if the app knows it. Only operators are told."""
    endpoint_path: str
    """Where the task then was. In a pipeline, each step has its own."""
    reason: Literal[
        "submit",
        "claim",
        "report",
        "answer",
        "next-step",
        "requeue",
        "release",
        "silence",
        "overrun",
        "replay",
        "cancel",
        "children",
        "give-up",
    ]
    """Why: what the caller, the model service or the app did. `answer`: the answer to the dispatch was the result.
    `children`: those of the batch have ended, or the first of them. `requeue`: the dispatch came to nothing.
    `silence`: nothing was heard of the attempt. `overrun`: it ran for longer than it may. `give-up`: the app gave the
    task up. In the latter four, the status says more."""
    end_reason: EndReason | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why the task has ended. `rejected`: the backend would not have it. `unreachable`: the backend could not be
    reached. `timeout`: it did not answer the dispatch, or the attempts ran for longer than they may. `expired`: no
    backend had it by the time at which it expires. `lease`: nothing was heard of its attempts. `publishes`: its event
    led to no dispatch. `reported`: its model service says so. Absent if it has not ended, or a former version ended
    it and did not say."""
    progress: float | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def of(cls, event: Event, progress: float | None = None, *, names: bool = False) -> Self:
        return cls(
            progress=progress,
            operator=event.operator or None if names else None,
            end_reason=event.end,
            timestamp=iso(event.at_ms),
            state=event.state.value,
            status=event.status,
            attempt=event.attempt,
            actor=event.actor,
            endpoint_path=event.path,
            reason=event.reason.value,
        )


class TaskHistory(BaseModel):
    """All transitions, oldest first. A very long history has the first and the last 31; in a pipeline, four more for
    each step."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    task_id: str
    events: list[HistoryEntry]
    callback: TaskCallback | None = Field(default=None, exclude_if=lambda value: value is None)
    """Absent if it tells nobody how it ends."""

    @classmethod
    def of(cls, task: Task, *, names: bool = False) -> Self:
        """
        Args:
            names: whether to tell the names of operators.
        """
        *earlier, last = task.history
        events = [HistoryEntry.of(event, names=names) for event in earlier]
        return cls(
            task_id=task.id,
            events=[*events, HistoryEntry.of(last, task.progress, names=names)],
            callback=TaskCallback.of(task),
        )
