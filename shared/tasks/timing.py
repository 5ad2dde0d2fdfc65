"""When a new task runs, and for how long, as its submit says."""

from __future__ import annotations

from typing import Literal, NamedTuple

from shared.tasks.value import value


class Moment(NamedTuple):
    """So many ms after a task is created, by the clock of Redis, or a time."""

    since: Literal["create", "epoch"]
    ms: int

    def ahead_ms(self, now_ms: int) -> int:
        """How far ahead it is for a task that is created now; less than 0 if it is over."""
        return self.ms if self.since == "create" else self.ms - now_ms

    def is_before(self, other: Moment) -> bool:
        """Whether it is known to lie before the other one, or to be the same, without a clock."""
        return self.since == other.since and self.ms <= other.ms


@value
class Timing:
    start: Moment | None = None
    """When it starts; None, or one that is over: at once."""
    expiry: Moment | None = None
    """Until when it may wait for a backend."""
    max_run_ms: int | None = None
    """For how long an attempt may run."""
