from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.task_store import Depth


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

    @classmethod
    def of(cls, path: str, depth: Depth) -> QueueDepth:
        return cls(
            endpoint_path=path,
            waiting=depth.created,
            dispatched=depth.dispatched,
            running=depth.running,
            completed=depth.completed,
            failed=depth.failed,
            cancelled=depth.cancelled,
            oldest_waiting_seconds=depth.oldest_waiting_ms / 1000,
        )


class QueueDepthList(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    queues: list[QueueDepth]
