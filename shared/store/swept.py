"""What a sweep of overdue tasks hands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from shared.store.batch_steps import ChildEnd
from shared.store.due_schedules import Due
from shared.store.upkeep_steps import Overdue
from shared.tasks.outcomes import Applied, Granted
from shared.tasks.schedules import Name
from shared.tasks.task import Task
from shared.tasks.uploads import Upload


@dataclass(frozen=True, slots=True)
class Swept:
    """A part of what a sweep did, and of what it leaves to the caller.

    Attributes:
        count: how many overdue tasks are dealt with, with this part.
        applied: transitions that were made.
        granted: slots that were granted to tasks that wait again.
        unpublished: finished tasks whose completions are to be published again.
        with_blobs: tasks past retention. Their blobs are to be deleted, then the tasks purged.
        uploads: uploads that nobody can use any more. Their blobs are to be deleted, unless a task has them; then
            they are to be forgotten.
        batches: those that need something.
        children: finished children of batches that were kept for a retention; to be removed if their batch is gone.
        ends: what became of children, to be reported to their batches.
        schedules: those that are due.
        schedule_blobs: blobs that no schedule has. They are to be deleted; then they are to be forgotten.
    """

    count: int = 0
    applied: Sequence[Applied] = field(default_factory=list["Applied"])
    granted: Sequence[Granted] = field(default_factory=list["Granted"])
    unpublished: Sequence[Task] = field(default_factory=list["Task"])
    with_blobs: Sequence[Task] = field(default_factory=list["Task"])
    uploads: Sequence[Upload] = field(default_factory=list["Upload"])
    batches: Sequence[Task] = field(default_factory=list["Task"])
    children: Sequence[Task] = field(default_factory=list["Task"])
    ends: Sequence[ChildEnd] = field(default_factory=list["ChildEnd"])
    schedules: Sequence[Name] = field(default_factory=list["Name"])
    schedule_blobs: Sequence[str] = field(default_factory=list["str"])

    @classmethod
    def left_of(cls, overdue: Sequence[Overdue]) -> Self:
        """All that is left to the caller of what a sweep found."""

        def tasks(what: str) -> list[Task]:
            return [item.task for item in overdue if item.task and item.what == what]

        due = Due.of(item.id for item in overdue if item.what == "schedule")
        return cls(
            count=len(overdue),
            unpublished=tasks("completion"),
            with_blobs=tasks("blobs"),
            uploads=[item.upload for item in overdue if item.upload],
            batches=tasks("batch"),
            children=tasks("child"),
            ends=[ChildEnd.parse(item.id) for item in overdue if item.what == "end"],
            schedules=due.names,
            schedule_blobs=due.blobs,
        )
