"""The truth about every task, in Redis. The only room that knows a Redis key."""

from shared.task_store.connection import connect
from shared.task_store.store import (
    BACKOFF_CAP_S,
    PARTITIONS,
    SWEEP_LIMIT,
    Claimed,
    Created,
    Depth,
    Existing,
    Moved,
    NewTask,
    Outcome,
    Overdue,
    Refusal,
    Refused,
    StorePolicy,
    StoreUnavailable,
    TaskStore,
)

__all__ = [
    "BACKOFF_CAP_S",
    "PARTITIONS",
    "SWEEP_LIMIT",
    "Claimed",
    "Created",
    "Depth",
    "Existing",
    "Moved",
    "NewTask",
    "Outcome",
    "Overdue",
    "Refusal",
    "Refused",
    "StorePolicy",
    "StoreUnavailable",
    "TaskStore",
    "connect",
]
