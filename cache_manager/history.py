"""The history of a task, as clients get it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from shared.http.times import IsoTime, iso
from shared.tasks.task import Event, Task


class HistoryEntry(BaseModel):
    """One transition of a task."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    timestamp: IsoTime
    state: Literal["created", "dispatched", "running", "completed", "failed", "cancelled"]
    status: str
    attempt: int
    actor: str = Field(serialization_alias="Who")
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
        "replay",
        "cancel",
        "children",
        "give-up",
    ]
    """Why: what the caller, the model service or the app did. `answer`: the answer to the dispatch was the result.
    `children`: those of the batch have ended, or the first of them. `requeue`: the dispatch came to nothing.
    `silence`: nothing was heard of the attempt. `give-up`: the app gave the task up. In the latter three, the status
    says more."""
    progress: float | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def of(cls, event: Event, progress: float | None = None) -> Self:
        return cls(
            progress=progress,
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

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    task_id: str
    events: list[HistoryEntry]

    @classmethod
    def of(cls, task: Task) -> Self:
        *earlier, last = task.history
        return cls(task_id=task.id, events=[*map(HistoryEntry.of, earlier), HistoryEntry.of(last, task.progress)])
