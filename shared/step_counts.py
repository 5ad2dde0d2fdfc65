"""Counts what happens to tasks, for alerts and charts: the metric ``tasks.steps``, also where no events are sent.

A counter costs nothing while nothing happens, and needs no look at Redis.
"""

from __future__ import annotations

from typing import Final, Literal

from opentelemetry import metrics

from shared.tasks import status_texts
from shared.tasks.ending import has_expired
from shared.tasks.outcomes import Applied, Outcome
from shared.tasks.task import State, Task

PATHS_LIMIT: Final = 1_000
"""How many endpoint paths a process counts apart: the SDK keeps each series for ever. Further ones are ``other``."""
OTHER: Final = "other"

Step = Literal["dispatched", "reported", "silent", "overrun", "expired", "completed", "failed", "cancelled"]

_OF_STATE: Final[dict[State, Step]] = {
    State.DISPATCHED: "dispatched",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
_steps: Final = metrics.get_meter("task_backbone").create_counter(
    "tasks.steps", description="Dispatches, reports, ends of silent attempts and ends of tasks, by endpoint path."
)
_paths: set[str] = set()


def count(path: str, step: Step) -> None:
    if path not in _paths:
        if len(_paths) < PATHS_LIMIT:
            _paths.add(path)
        else:
            path = OTHER
    _steps.add(1, {"path": path, "step": step})


def transition(task: Task) -> None:
    """Count a dispatch or an end. Batches are not counted: their tasks are. A task that has expired did not fail."""
    step = _OF_STATE.get(task.state)
    if has_expired(task):
        step = "expired"
    if step is not None and task.children is None:
        count(task.path, step)


def report(outcome: Outcome) -> None:
    """Count what a model service said of a task, if that was taken: a report, a heartbeat, a result."""
    if isinstance(outcome, Applied):
        count(outcome.path, "reported")


def given_up(applied: Applied) -> None:
    """Count an attempt that the reconciler has ended because nothing was heard of it, or because it ran for too
    long."""
    if status_texts.tells_silence(applied.task.status):
        count(applied.path, "silent")
    elif status_texts.tells_overrun(applied.task.status):
        count(applied.path, "overrun")
