"""The times and limits that the store goes by. The settings hold their defaults, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from shared.settings import Settings

RECORDING_MARGIN_S: Final = 5.0
"""How much longer than its timeout a dispatch may take to record its outcome, before its claim counts as lost."""


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """Times are seconds."""

    republish_s: float
    """When an event that led to no claim is published again, at first."""
    retention_s: float
    max_attempts: int
    dispatch_window_s: float
    """Within which the claimant of an attempt records what the backend answered; then the task is tried again."""
    publish_completions: bool
    """Whether the end of each task is published, and again after ``republish_s`` if that failed."""
    slot_claim_s: float
    """Within which an attempt that was granted a slot is claimed."""
    slot_check_s: float
    """How often a slot that is held is checked."""
    busy_retry_s: float
    """The longest time without a probe after a refusal, unless the backend says when to try again."""
    backoff_base_s: float
    """The first delay after a failed attempt, and the first pause of a backend that is down."""
    max_outage_s: float
    """How long a task waits at most for a backend that is away that long."""
    max_unregistered_s: float
    """The same for a backend that is not registered."""
    reconciler_interval_s: float
    """How often the reconciler looks for what is overdue."""
    max_backlog: int | None
    """How many tasks may wait at one endpoint."""
    batch_idle_s: float = 86_400
    """After how long a batch is sealed in which nothing happens."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            republish_s=settings.republish_s,
            retention_s=settings.retention_s,
            max_attempts=settings.max_attempts,
            dispatch_window_s=settings.dispatch_timeout_s + RECORDING_MARGIN_S,
            publish_completions=settings.publish_completions,
            slot_claim_s=settings.republish_s,
            slot_check_s=settings.republish_s,
            busy_retry_s=settings.busy_retry_s,
            backoff_base_s=settings.backoff_base_s,
            max_outage_s=settings.max_outage_s,
            max_unregistered_s=settings.max_unregistered_s or settings.retention_s,
            reconciler_interval_s=settings.reconciler_interval_s,
            max_backlog=settings.max_backlog,
            batch_idle_s=settings.batch_idle_s,
        )

    @property
    def completion_s(self) -> float:
        """When a completion that was not acknowledged is published again; 0 if none is published."""
        return self.republish_s if self.publish_completions else 0
