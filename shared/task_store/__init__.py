"""The truth about every task, in Redis. The only room that knows a Redis key."""

from shared.task_store.connection import connect
from shared.task_store.link import StoreUnavailable
from shared.task_store.store import (
    BACKOFF_CAP_S,
    PARTITIONS,
    SWEEP_LIMIT,
    Claimed,
    Created,
    Depth,
    Existing,
    Listing,
    Moved,
    NewTask,
    Outcome,
    Overdue,
    Page,
    Place,
    Refusal,
    Refused,
    StorePolicy,
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
    "Listing",
    "Moved",
    "NewTask",
    "Outcome",
    "Overdue",
    "Page",
    "Place",
    "Refusal",
    "Refused",
    "StorePolicy",
    "StoreUnavailable",
    "TaskStore",
    "connect",
]
