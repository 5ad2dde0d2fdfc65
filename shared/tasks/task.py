"""The task: its states, its record, and what it is created from.

``docs/lifecycle.md`` draws the state machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypedDict

from shared.tasks.callback import Callback, WantedCallback
from shared.tasks.end_reason import EndReason
from shared.tasks.timing import Timing
from shared.tasks.value import value

DEFAULT_PRIORITY: Final = 5
MAX_STATUS_CHARS: Final = 65_536
"""How long a status text in a record may be."""
LONG_STATUS_CHARS: Final = 1_024
"""How much of a longer one the record has. The whole lies in Blob Storage."""
MAX_ATTEMPT: Final = 999_999_999
"""No task gets that far; a larger number is not an attempt."""
SNAPSHOT_MARK: Final = "?snapshot="
"""Stands between the name of a blob and that of its snapshot; no blob's name has it."""
BackendStatus = Literal["created", "running", "completed", "failed", "cancelled"]


class State(StrEnum):
    """The state of a task. The values name the index keys in Redis."""

    CREATED = "created"
    """Waiting: to be published, to be delivered, or for a slot of its backend."""
    DISPATCHED = "dispatched"
    """Claimed by a dispatcher. The backend was called, or has accepted and not yet reported."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def backend_status(self) -> BackendStatus:
        """The name that legacy clients know. They have no word for a task that was dispatched and not reported on."""
        return State.CREATED.value if self is State.DISPATCHED else self.value


_TERMINAL: Final = (State.COMPLETED, State.FAILED, State.CANCELLED)
"""Not made at each use: to look up a member of an enumeration takes 0.2 µs."""


class Actor(StrEnum):
    """What caused a transition, for the task's history."""

    CLIENT = "client"
    DISPATCHER = "dispatcher"
    RECONCILER = "reconciler"


OPERATOR: Final = "operator"
"""Whom the history names in place of the client if an operator caused a transition. It is no :class:`Actor` of a
record: a former version knows none but the three."""


# Tuples, since some are made from every reply of Redis: a frozen dataclass takes four times as long.
class Content(NamedTuple):
    """A stored body or result. It lies inline in Redis, or in Blob Storage if it has a blob's name."""

    content_type: str
    size_bytes: int
    blob: str | None = None
    encoding: str = ""
    """Its ``Content-Encoding``; empty if it came without one."""
    sha256: str = ""
    """In hexadecimal digits, as the client of an upload has declared it; nobody here has checked it. Empty if it was
    not declared."""

    @property
    def is_upload(self) -> bool:
        """Whether it is the snapshot of an uploaded blob."""
        return self.blob is not None and SNAPSHOT_MARK in self.blob


class LongStatus(NamedTuple):
    """Where a status text lies that is too long for the record, which has its beginning. Always a blob: it has more
    bytes than what is kept inline."""

    size_bytes: int
    blob: str
    digest: str
    """By which the same text is known if it comes again."""


class Reason(StrEnum):
    """Why a transition was made, for the task's history."""

    SUBMIT = "submit"
    CLAIM = "claim"
    REPORT = "report"
    ANSWER = "answer"
    """The backend answered the dispatch with the result."""
    NEXT_STEP = "next-step"
    """A step of a pipeline has ended, and the next one begins."""
    REQUEUE = "requeue"
    """The dispatch came to nothing; the status says why."""
    RELEASE = "release"
    SILENCE = "silence"
    """The lease is over."""
    OVERRUN = "overrun"
    """The attempt ran for longer than it may."""
    REPLAY = "replay"
    CANCEL = "cancel"
    CHILDREN = "children"
    """The children of a batch have ended, or the first of them, or its Then task."""
    GIVE_UP = "give-up"
    """The backbone gave it up; the status says why."""


class Event(NamedTuple):
    """One transition in a task's history."""

    at_ms: int
    state: State
    attempt: int
    actor: str
    status: str
    path: str
    """The endpoint path that the task then had."""
    reason: Reason
    end: EndReason | None = None
    """Why the task ended with it; None if it did not, or if an earlier version of the app gave it up."""
    operator: str | None = None
    """The operator who caused it, empty if nobody knows the name; None: none did."""


class PipelineStep(NamedTuple):
    """One of the endpoints that a task goes through."""

    path: str
    query: str
    lease_s: float
    max_run_s: float | None = None
    """For how long its backend lets an attempt run; None: for ever."""
    expires_s: float | None = None
    """For how long a task waits for its backend at most; None: for ever."""


class Bounds(TypedDict):
    """How long a backend lets a task run and wait, under the names that a step and a new task have for it."""

    lease_s: float
    max_run_s: float | None
    expires_s: float | None


class Place(NamedTuple):
    """Where a task is in its pipeline."""

    step: int
    """1 for the first."""
    steps: int


class Start(NamedTuple):
    """When a task starts that was submitted to start later."""

    at_ms: int
    is_ahead: bool
    """Whether it has yet to start. A start that is due may be some milliseconds late."""


class ThenTask(NamedTuple):
    """The task that a batch begins when its children have ended."""

    asked: str
    """Its path and query as they were given, written in one way."""
    pipeline: str
    """The name of the pipeline that it goes through; empty if that has none."""
    steps: tuple[PipelineStep, ...]
    """The endpoints that it goes through."""


class BatchState(NamedTuple):
    """What a batch knows of its children."""

    name: str
    then: ThenTask | None
    sealed: bool
    last_place: int
    """The place of the child that was registered last."""
    total: int
    completed: int
    failed: int
    cancelled: int
    replayable: int
    """How many failed ones are to be replayed, and are neither failed nor begun now."""
    seen: int
    """Up to which place it was seen that the children exist."""
    checked_next: int
    """Up to which place that is checked next."""
    job: Literal["cancel", "replay"] | None
    """What is being done with all of them."""
    then_tasks: int
    """How many Then tasks it has had."""
    then_id: str
    """That of the Then task which it has, or is to get now; empty before."""
    then_exists: bool
    then_state: State | None
    """How the Then task has ended."""

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def unfinished(self) -> int:
        return self.total - self.ended

    @property
    def shown(self) -> tuple[int, bool, bool]:
        """What a waiting caller is told of, beside transitions."""
        percent = 100 * self.ended // self.total if self.total else 0
        return percent, self.sealed, self.then_exists


@value
class Task:
    """One task, as its record in Redis holds it. Times are Unix milliseconds by the Redis server's clock."""

    id: str
    state: State
    path: str
    """The endpoint path, which is also the queue's name."""
    query: str
    """The query string for the backend, without ``?``."""
    status: str
    """Free text for the caller."""
    attempt: int
    """The number of the current dispatch, and the fence. Each return to a queue draws a new one."""
    failures: int
    """Attempts that failed at this endpoint. A busy answer is not a failure, nor is a backend that is away."""
    publishes: int
    """Events published for the current attempt."""
    priority: int
    """0 to 9. Orders an owner's tasks within the queue."""
    dispatch_requested: bool
    """Whether the backbone dispatches the task (``PublishToGrid``); False if it only keeps track of it."""
    version: int
    created_ms: int
    updated_ms: int
    queued_ms: int
    """When it entered its endpoint's queue, or is to enter it. A retry keeps its place."""
    body: Content | None
    result: Content | None
    traceparent: str
    fingerprint: str
    """What an idempotent submit was made of; empty for others."""
    owner: str
    away_ms: int | None
    """When its backend was away for it last, by its queue's clock; None once the backend took it or was busy."""
    completion_unpublished: bool
    """Whether the task has ended and its completion event is still to be published."""
    history: Sequence[Event]
    long_status: LongStatus | None = None
    """Where the whole status text lies, if ``status`` is only its beginning."""
    lease_ms: int = 0
    """How long this attempt may go without an update once it is dispatched."""
    progress: float | None = None
    """How far this attempt is, 0 to 1, if its model service tells."""
    checkpoint: Content | None = None
    """What a model service keeps for the next attempt."""
    place: Place | None = None
    """Where it is in its pipeline, if it was submitted with one."""
    pipeline: str = ""
    """The name of that pipeline; empty if it has none."""
    sent_on: Sequence[tuple[int, str]] = ()
    """The attempts that sent it on to another step, and by what: a token that a repetition has too."""
    batch: str = ""
    """The batch that it is a child of; empty if of none."""
    children: BatchState | None = None
    """What it knows of its children, if it is a batch itself."""
    is_removed: bool = False
    """Whether nothing is left of it but blobs or children that are being removed."""
    was_returned: bool = False
    """Whether its backend had an attempt at it that came to nothing and counts as no failure: it gave it back, or
    lost it in an outage."""
    callback: Callback | None = None
    """Whom it tells how it ends, if anybody."""
    expires_ms: int | None = None
    """When it ends unless a backend has had it by then; None: never, or one has."""
    max_run_ms: int | None = None
    """For how long an attempt may run; None: for ever."""
    whole_status: bytes | None = None
    """The whole status text in UTF-8, if ``status`` is only its beginning and the rest has been read."""
    start: Start | None = None
    """When it starts, if it was submitted to start later."""

    def names(self, blob: str) -> bool:
        """Whether its body, its result, its checkpoint or its status lies in this blob."""
        contents = (self.body, self.result, self.checkpoint, self.long_status)
        return any(each is not None and each.blob == blob for each in contents)

    def holds(self, attempt: int) -> bool:
        """Whether a backend has this attempt, and it is the current one."""
        return self.attempt == attempt and self.state in (State.DISPATCHED, State.RUNNING)

    @property
    def is_delayed(self) -> bool:
        """Whether it has yet to start: it is ``created``, and stands in no queue."""
        return self.start is not None and self.start.is_ahead

    @property
    def is_queued(self) -> bool:
        """Whether it waits in its endpoint's queue, as far as its record tells."""
        return self.state is State.CREATED and self.dispatch_requested and not self.is_delayed

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000

    @property
    def etag(self) -> str:
        # With the time of creation: a client may choose an id again after the first task was purged.
        return f'"{self.created_ms:x}-{self.version}"'


@value
class NewTask:
    """What a task is created from."""

    id: str
    path: str
    lease_s: float
    """How long it may go without an update once it is dispatched."""
    status: str = State.CREATED.value
    long_status: LongStatus | None = None
    state: State = State.CREATED
    query: str = ""
    dispatch_requested: bool = True
    body: Content | None = None
    inline_body: bytes = b""
    """The body's bytes. Ignored if the body is a blob."""
    traceparent: str = ""
    owner: str = ""
    fingerprint: str = ""
    priority: int = DEFAULT_PRIORITY
    steps: Sequence[PipelineStep] = ()
    """The steps of its pipeline. The first is where it goes to now."""
    pipeline: str = ""
    """The name of the pipeline, under which the task is counted and listed too."""
    batch: str = ""
    """The batch that it is to be a child of."""
    timing: Timing = Timing()
    create_until_ms: int | None = None
    """When it is too late to create it: a child's registration at its batch counts so long."""
    by: str | None = None
    """The operator who creates it, empty if nobody knows the name; None: no operator does."""
    callback: WantedCallback | None = None
    """Whom it is to tell how it ends, if anybody."""
    expires_s: float | None = None
    """For how long it may wait for a backend if the submit does not say: what that says. None: for ever."""
    max_run_s: float | None = None
    """For how long its backend lets an attempt run; what the submit says holds if it is less. None: for ever."""

    @property
    def most_run_ms(self) -> int | None:
        """For how long an attempt may run; None: for ever."""
        asked_ms = self.timing.max_run_ms
        if self.max_run_s is None:
            return asked_ms
        of_backend = round(self.max_run_s * 1000)
        return of_backend if asked_ms is None else min(asked_ms, of_backend)

    @property
    def is_delayed(self) -> bool:
        return self.timing.start is not None

    def start(self, now_ms: int) -> Start | None:
        """When it starts, if it is created now and to start later."""
        moment = self.timing.start
        return None if moment is None else Start(now_ms + max(0, moment.ahead_ms(now_ms)), is_ahead=True)


@value
class NewBatch:
    """What a batch is created from."""

    id: str
    name: str = ""
    then: ThenTask | None = None
    priority: int = DEFAULT_PRIORITY
    """That of its Then task."""
    traceparent: str = ""
    owner: str = ""
    fingerprint: str = ""
    callback: WantedCallback | None = None
