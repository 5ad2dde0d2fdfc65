"""The truth about every task, in Redis. The only room that knows a Redis key.

:class:`TaskStore` is its face. Nothing outside knows whether one server or a cluster answers, or in how many steps.
"""

from shared.store.audit import Action, AuditEntry, AuditPage, KnownBy
from shared.store.batch_steps import (
    CHILDREN_AT_ONCE,
    MOST_CHILDREN,
    BatchSteps,
    Child,
    ChildEnd,
    ChildReport,
    then_task_id,
)
from shared.store.callbacks import Callbacks, ClaimedCallback, DestinationState, Settled
from shared.store.changes import Seen
from shared.store.endpoint_names import EndpointNames
from shared.store.eviction import EvictionState
from shared.store.joint_creation import CreateOutcome, JointCreation
from shared.store.outages import Outage
from shared.store.policy import StorePolicy
from shared.store.queries import Depth, ListCursor, Listing, Page
from shared.store.queue_status import OwnerShare, QueueStatus
from shared.store.queues import QueueChange, TaskQueues
from shared.store.record_codec import BATCHES
from shared.store.redis.client import RedisAddress, RedisClient, connect
from shared.store.redis.link import NOT_PERMITTED, RedisLink, StoreNotPermitted, StoreUnavailable
from shared.store.reports import SentOn
from shared.store.request_counts import RequestCount, RequestCounts, RequestReport, TooManyReporters
from shared.store.requeue import (
    BackendAway,
    BackendBusy,
    BackendFailed,
    BodyUnavailable,
    DispatcherFull,
    RequeueReason,
    ResultUnstored,
)
from shared.store.schedules import MOST_SCHEDULES, Looked, SchedulePage
from shared.store.series import (
    COUNTS,
    FIRST_BIN_S,
    LAST_BIN,
    OTHER,
    SPANS_MIN,
    Bucket,
    EndpointSeries,
    Totals,
    percentile_s,
    span_of,
)
from shared.store.store import TaskStore
from shared.store.swept import Swept

__all__ = [
    "BATCHES",
    "CHILDREN_AT_ONCE",
    "COUNTS",
    "FIRST_BIN_S",
    "LAST_BIN",
    "MOST_CHILDREN",
    "MOST_SCHEDULES",
    "NOT_PERMITTED",
    "OTHER",
    "SPANS_MIN",
    "Action",
    "AuditEntry",
    "AuditPage",
    "BackendAway",
    "BackendBusy",
    "BackendFailed",
    "BatchSteps",
    "BodyUnavailable",
    "Bucket",
    "Callbacks",
    "Child",
    "ChildEnd",
    "ChildReport",
    "ClaimedCallback",
    "CreateOutcome",
    "Depth",
    "DestinationState",
    "DispatcherFull",
    "EndpointNames",
    "EndpointSeries",
    "EvictionState",
    "JointCreation",
    "KnownBy",
    "ListCursor",
    "Listing",
    "Looked",
    "Outage",
    "OwnerShare",
    "Page",
    "QueueChange",
    "QueueStatus",
    "RedisAddress",
    "RedisClient",
    "RedisLink",
    "RequestCount",
    "RequestCounts",
    "RequestReport",
    "RequeueReason",
    "ResultUnstored",
    "SchedulePage",
    "Seen",
    "SentOn",
    "Settled",
    "StoreNotPermitted",
    "StorePolicy",
    "StoreUnavailable",
    "Swept",
    "TaskQueues",
    "TaskStore",
    "TooManyReporters",
    "Totals",
    "connect",
    "percentile_s",
    "span_of",
    "then_task_id",
]
