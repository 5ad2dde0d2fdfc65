from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from shared.legacy_json import field_errors
from shared.problems import invalid_fields
from shared.task_store import Depth, QueueStatus


class QueueDepth(BaseModel):
    """How many tasks of one endpoint path stand where."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    endpoint_path: str
    waiting: int
    """Not yet handed to a model service. What an autoscaler should follow."""
    dispatched: int
    """Handed over, not yet reported on."""
    running: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_seconds: float
    in_flight: int
    """How many hold a slot of the backend: on the way to it, or in its hands."""
    slots: int
    """How many the backend was found to hold at a time."""
    limit: int | None
    """How many it is given at most; null: as many as it takes."""
    paused: bool
    draining: bool

    @classmethod
    def of(cls, path: str, depth: Depth, status: QueueStatus) -> QueueDepth:
        return cls(
            endpoint_path=path,
            waiting=depth.created,
            dispatched=depth.dispatched,
            running=depth.running,
            completed=depth.completed,
            failed=depth.failed,
            cancelled=depth.cancelled,
            oldest_waiting_seconds=depth.oldest_waiting_ms / 1000,
            in_flight=status.holding,
            slots=status.slots,
            limit=status.limit,
            paused=status.paused,
            draining=status.draining,
        )


class QueueDepthList(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    queues: list[QueueDepth]


class QueueSettings(BaseModel):
    """The body of ``PATCH``: what is absent stays as it is."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="forbid", strict=True, use_attribute_docstrings=True)

    paused: bool | None = None
    """True: tasks are taken in, and none is handed to the model service."""
    draining: bool | None = None
    """True: no new tasks are taken in, and those that wait are still done."""
    limit: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many the model service is given at a time, at most; null: as many as ``BACKENDS`` says, or as it takes."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """
        Raises:
            Problem: 400 that names what is wrong.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise invalid_fields(field_errors(error)) from None

    @property
    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)
