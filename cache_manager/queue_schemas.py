"""The JSON of queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_pascal

from cache_manager.schemas import RequestModel
from shared.http.times import IsoTime, iso
from shared.rate import Rate
from shared.store import Depth, OwnerShare, QueueStatus
from shared.tasks.owner_bounds import UNBOUNDED, OwnerBounds

BackendState = Literal["up", "down", "full", "unregistered", "unknown"]


class QueueOutage(BaseModel):
    """The backend is away: tasks wait, one at a time tries, and none loses an attempt by it."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    since: IsoTime
    cause: str


class QueueBackend(BaseModel):
    """What the queue knows of its backend."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    state: BackendState
    """``down``: it is away, or has failed again and again. ``full``: tasks wait, and it takes no more at present.
    ``unregistered``: no entry of ``BACKENDS`` has the path. ``up``: it has accepted a task within a day, at any path,
    or works on one. ``unknown``: nothing was heard of it for a day."""
    until: IsoTime | None
    """Of one that is down: when the next task tries it. Null if one tries now, or none waits."""
    mean_seconds: float | None
    """How long a task takes of late, over about the last hundred. Null until one has ended."""


class SettingsChange(BaseModel):
    """When an operator changed the settings last, and who that was."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    at: IsoTime
    operator: str | None
    """Null: the app does not know it, or who asks is no operator."""


class QueuePerOwner(BaseModel):
    """How much of the queue one owner may have. All tasks without an owner are one owner's."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    waiting: int | None
    """How many of its tasks may wait, before new ones are refused. Null: any number."""
    in_flight: int | None
    """How many slots its tasks hold while others wait that hold less. Null: any number."""
    hard: bool
    """Whether they never hold more than that."""

    @classmethod
    def of(cls, bounds: OwnerBounds) -> QueuePerOwner | None:
        if bounds == UNBOUNDED:
            return None
        return cls(waiting=bounds.waiting, in_flight=bounds.in_flight, hard=bounds.is_hard)


class QueueOwner(BaseModel):
    """What an owner has of the queue."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    owner: str | None
    """Null: of all tasks without one."""
    waiting: int
    """How many of its tasks wait for a slot."""
    in_flight: int
    """How many of its tasks hold one. Of the first 500 that do."""

    @classmethod
    def of(cls, share: OwnerShare) -> QueueOwner:
        return cls(owner=share.owner or None, waiting=share.waiting, in_flight=share.holding)


class QueueDepth(BaseModel):
    """How many tasks of one endpoint path are in which state."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    endpoint_path: str
    waiting: int
    """How many tasks are not yet dispatched."""
    delayed: int
    """How many tasks start later. They are not among those that wait, and no autoscaler should wake for them."""
    demand: int
    """How many tasks wait, are on their way or are at work. An autoscaler should follow this number."""
    dispatched: int
    """How many tasks are dispatched and have no report yet."""
    running: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_seconds: float
    oldest_waiting_since: IsoTime | None
    """Null if no task waits."""
    in_flight: int
    """How many tasks hold a slot of the backend: on the way to it, or at work there."""
    slots: int
    """The capacity estimate: how many tasks the backend was found to hold at a time."""
    limit: int | None
    """How many tasks the backend gets at a time, at most. Null: as many as it accepts."""
    rate: str | None
    """How many tasks the backend gets within how many seconds, at most, such as ``100/60s``. Null: any number."""
    burst: bool
    """Whether it may get these at once; else evenly."""
    per_owner: QueuePerOwner | None
    """Null: one owner may have all of it."""
    owners: list[QueueOwner] | None = None
    """Up to 20 owners that have most of it, the largest first. Only an operator who asks for one queue is told; else
    null."""
    paused: bool
    draining: bool
    settings_changed: SettingsChange | None
    """Null if there are none, or it is not known."""
    outage: QueueOutage | None
    """Null while the backend is not known to be away."""
    backend: QueueBackend

    @classmethod
    def of(
        cls,
        path: str,
        depth: Depth,
        status: QueueStatus,
        backend: BackendState,
        bounds: OwnerBounds,
        *,
        names_operator: bool,
    ) -> QueueDepth:
        """
        Args:
            backend: its state.
            bounds: how much of it one owner may have.
            names_operator: whether who asks may see who changed the settings.
        """
        by = status.settings_by if names_operator else None
        return cls(
            endpoint_path=path,
            waiting=depth.created,
            delayed=depth.delayed,
            # Not the slots that are held: a task whose dispatch was not yet claimed waits and holds one.
            demand=depth.created + depth.dispatched + depth.running,
            dispatched=depth.dispatched,
            running=depth.running,
            completed=depth.completed,
            failed=depth.failed,
            cancelled=depth.cancelled,
            oldest_waiting_seconds=depth.oldest_waiting_ms / 1000,
            oldest_waiting_since=_iso(depth.oldest_since_ms),
            in_flight=status.holding,
            slots=status.slots,
            limit=status.limit,
            rate=str(status.rate) if status.rate else None,
            burst=status.rate is not None and status.rate.is_burst,
            per_owner=QueuePerOwner.of(bounds),
            paused=status.paused,
            draining=status.draining,
            settings_changed=(
                SettingsChange(at=iso(status.settings_at_ms), operator=by) if status.settings_at_ms else None
            ),
            outage=(
                QueueOutage(since=iso(status.outage.since_ms), cause=status.outage.cause) if status.outage else None
            ),
            backend=QueueBackend(
                state=backend,
                until=_iso(status.paused_until_ms) if backend == "down" else None,
                mean_seconds=None if status.mean_ms is None else status.mean_ms / 1000,
            ),
        )

    def document(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class QueueDepthList(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    queues: list[QueueDepth]
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""

    def document(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class QueueSettings(RequestModel):
    """The body of ``PATCH``. An absent setting stays as it is. Names match in any case."""

    paused: bool | None = None
    """True: the queue accepts tasks and dispatches none. Null: as false."""
    draining: bool | None = None
    """True: the queue accepts no new tasks and still dispatches waiting ones. Null: as false."""
    limit: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many tasks the model service gets at a time, at most. Null: as many as ``BACKENDS`` says, or as it
    accepts."""

    rate: str | None = None
    """How many tasks the model service gets within how many seconds, at most, such as ``100/60s``. Null: as many as
    ``BACKENDS`` says, or any number."""
    burst: bool | None = None
    """True: it may get these at once. False: evenly. Null: as ``BACKENDS`` says, or evenly."""

    @field_validator("rate")
    @classmethod
    def _is_rate(cls, text: str | None) -> str | None:
        return text if text is None else str(Rate.parse(text))

    @property
    def changes(self) -> dict[str, Any]:
        changes = self.model_dump(exclude_unset=True)
        return changes | {"rate": Rate.parse(self.rate)} if self.rate else changes


def without_ages(queues: Sequence[QueueDepth]) -> list[dict[str, Any]]:
    """The queues but for what grows by the clock alone: while nothing happens, they stay the same."""
    return [
        queue.model_dump(exclude={"oldest_waiting_seconds": True, "backend": {"mean_seconds"}}) for queue in queues
    ]


def _iso(moment_ms: int | None) -> str | None:
    return iso(moment_ms) if moment_ms else None
