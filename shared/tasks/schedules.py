"""Schedules: what is submitted again and again, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from shared.tasks.task import DEFAULT_PRIORITY, Content
from shared.tasks.value import value

NAME_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
_NAME: Final = re.compile(NAME_PATTERN)


def is_schedule_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


class Overlap(StrEnum):
    """What becomes of a run that is due while the task of the last one has not ended."""

    SKIP = "skip"
    QUEUE = "queue"
    """It is started beside the other."""
    CANCEL_RUNNING = "cancel-running"
    """The other is cancelled."""


class CatchUp(StrEnum):
    """What becomes of due times at which nothing could be started."""

    NONE = "none"
    LAST = "last"
    ALL = "all"
    """Up to a hundred of them, the last ones."""


class RunOutcome(StrEnum):
    STARTING = "starting"
    """Its task is being created, or cannot be yet."""
    STARTED = "started"
    SKIPPED = "skipped"


class Name(NamedTuple):
    """Whose schedule it is, and which."""

    owner: str
    name: str


class Run(NamedTuple):
    """What has become of a due time."""

    due_ms: int
    outcome: RunOutcome
    task_id: str = ""
    """Empty if it has none."""
    why: str = ""
    """Why it was skipped, or is not started yet."""
    is_asked: bool = False
    """Whether somebody has asked for it, and no time has made it due."""


class Pending(NamedTuple):
    """A run that is to be started."""

    due_ms: int
    task_id: str
    tries: int
    """How often that was not possible."""
    since_ms: int
    """When it was to be started first: later than it was due, if it is caught up with."""


class LastTask(NamedTuple):
    """The task that was started last."""

    due_ms: int
    task_id: str


@value
class Definition:
    """What a caller says of a schedule."""

    path: str
    """As the caller writes it: an endpoint, or the name of a pipeline."""
    query: str
    body: Content
    cron: str
    zone: str
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LAST
    until_ms: int | None = None
    """After which it is due no more."""
    priority: int = DEFAULT_PRIORITY
    start_before_ms: int | None = None
    """For how long a task may wait for a backend. None: for as long as that says."""
    max_run_ms: int | None = None
    """For how long an attempt may run, if its backend does not say less."""
    callback: str = ""
    """Whom each task tells how it ends. Empty: nobody, unless its backend says whom."""

    def last_until(self, moment_ms: int) -> int:
        """Until when it can have been due, at a moment."""
        return moment_ms if self.until_ms is None else min(self.until_ms, moment_ms)


@value
class Schedule:
    """A schedule as the store has it."""

    name: Name
    definition: Definition
    generation: str
    """Another one with each definition."""
    created_ms: int
    updated_ms: int
    is_paused: bool
    next_ms: int | None
    """When it is due next. None: never, or it is paused."""
    runs: Sequence[Run]
    """The last ones, the newest first."""
    pending: Pending | None
    last: LastTask | None

    def goes_on_after(self, moment_ms: int) -> int:
        """After which time it is due next, at a moment: a clock that was set back makes no time due anew."""
        return max([moment_ms, *(run.due_ms for run in self.runs if not run.is_asked)])

    @property
    def is_held_up(self) -> bool:
        """Whether what is due waits behind a run that could not be started, so that none of it is lost."""
        is_refused = self.pending is not None and self.pending.tries > 0
        return is_refused and self.definition.catch_up is CatchUp.ALL
