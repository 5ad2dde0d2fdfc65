"""What each Lua script takes: the types of their packed maps. A misspelt key, which Lua would read as nil, is a type
error.

The scripts' heads say what the keys mean. Times are milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NotRequired, TypedDict

from shared.tasks.end_reason import EndReason
from shared.tasks.task import Actor, Reason, State

Clock = Callable[[], int]
"""Unix time in ms; for tests. Without one, the Redis server's own clock counts, which all processes share."""
_OPERATION_BITS: Final = 52
"""Lua's numbers hold no more."""


class Stamp(TypedDict):
    now: int
    """0: the Redis server's clock."""
    op: int
    """Drawn once per step. If the client repeats a call whose reply was lost, the script finds the number in the
    record and knows that the step was taken."""


def stamp(now_ms: Clock | None) -> Stamp:
    return {"now": now_of(now_ms), "op": random.getrandbits(_OPERATION_BITS)}


def now_of(now_ms: Clock | None) -> int:
    return now_ms() if now_ms else 0


def seed() -> int:
    """For a script that draws jitter."""
    return random.getrandbits(31)


class Backoff(TypedDict):
    base: int
    cap: int
    seed: int


class ApplyStep(TypedDict, total=False):
    """The argument of ``task/apply``, but for what every step carries. Times are ms."""

    allowed_from: tuple[State, ...]
    owner: str
    revive: bool
    attempt: int
    unfenced: bool
    told: State
    to: State
    path: str
    query: str
    status: str
    brief: str
    long: list[Any]
    actor: Actor
    new_attempt: bool
    apart: bool
    failed: bool
    away: int
    accepted: bool
    next_step: bool
    needs_body: bool
    takes_result: bool
    token: str
    reason: Reason | EndReason
    by: str
    once: str
    deferred: bool
    body: list[Any]
    result: list[Any]
    checkpoint: list[Any]
    progress: float
    publishes: int
    due_in: int
    backoff: Backoff
    lease: int
    run: int
    expires: int


class ApplyArgument(ApplyStep, Stamp):
    id: str
    retention: int
    completion: int


class TaskReleaseArgument(ApplyArgument):
    """The argument of ``task/release``."""

    after: int
    most: int
    exhausted: str


class CreateArgument(Stamp):
    id: str
    rec: dict[str, Any]
    due_in: int
    actor: Actor
    brief: str
    steps: NotRequired[list[Any]]
    until: NotRequired[int]
    expires: NotRequired[tuple[str, int]]
    by: NotRequired[str]
    start_in: NotRequired[int]
    start_at: NotRequired[int]


class ClaimArgument(Stamp):
    id: str
    attempt: NotRequired[int]
    claim: bool
    window: int
    slotless: NotRequired[bool]


class LostArgument(TypedDict):
    seed: int
    names: Sequence[str]
    paths: int
    entries: int
    most: int
    few: NotRequired[int]


class MendArgument(TypedDict):
    now: int
    retention: int
    foreign: bool


class IdleEntriesArgument(TypedDict):
    path: str
    entries: Sequence[tuple[str, int]]


class QueueEntriesArgument(TypedDict):
    path: str
    state: str
    skip: int
    limit: int


class GrantingArgument(TypedDict):
    """By what a queue grants slots. Times are ms."""

    cap: int | Literal[False]
    claim: int
    rate: NotRequired[tuple[int, int, int]]
    bound: NotRequired[int]


class QueueArgument(GrantingArgument):
    """What every script of a queue takes."""

    now: int
    path: NotRequired[str]


class RefusingArgument(TypedDict):
    backlog: NotRequired[int]
    own: NotRequired[int]


class EnqueueArgument(QueueArgument, RefusingArgument):
    entries: NotRequired[list[list[Any]]]
    new: NotRequired[bool]
    arrives: NotRequired[bool]
    published: NotRequired[bool]
    starts: NotRequired[bool]
    later: NotRequired[int]
    later_in: NotRequired[int]


class OldestArgument(TypedDict):
    """How long the oldest entries of some queues have waited, in ms."""

    now: int
    oldest: Sequence[tuple[str, int]]


class EntryArgument(QueueArgument):
    entry: str
    owner: str


class AcceptedArgument(EntryArgument):
    waited: NotRequired[int]


class ReleaseArgument(AcceptedArgument):
    served: NotRequired[int]
    ended: NotRequired[str]
    later: NotRequired[bool]


class ReturnArgument(EntryArgument):
    next: str
    queued_at: int
    priority: int


class Telling(TypedDict):
    """How a queue takes what instances tell. Times are ms."""

    kept: int
    pause: int


class ToldArgument(QueueArgument, Telling):
    told: tuple[str, int]


class ReleasedArgument(ReturnArgument, Telling):
    told: NotRequired[tuple[str, int]]


class RefusedArgument(ReturnArgument):
    after: int
    most: int


class FailedArgument(EntryArgument):
    grace: int
    base: int
    most: int


class AwayArgument(ReturnArgument):
    cause: str
    since: NotRequired[int]
    sent: bool
    elsewhere: bool
    grace: int
    base: int
    most: int


class OutagesArgument(TypedDict):
    now: int
    kept: int


class AdmitArgument(TypedDict):
    now: int
    prefix: str
    path: str
    most: int
    ahead: int


class EndpointsArgument(TypedDict):
    now: int
    prefix: str
    ms: int
    unused: NotRequired[Sequence[str]]


class MaintainArgument(QueueArgument, Telling):
    again: int
    most: int
    early: int


class WaitingArgument(QueueArgument):
    seed: int
    most: int


# `from` is no name in Python.
OwnersArgument = TypedDict("OwnersArgument", {"from": int, "most": int})


class ConfigureArgument(QueueArgument):
    set: dict[str, int | bool | tuple[int, int]]
    by: NotRequired[str]


class RowsArgument(QueueArgument):
    entries: list[list[Any]]


class MarkRebuiltArgument(QueueArgument):
    loss: int


class StatusArgument(QueueArgument):
    entry: NotRequired[str]
    owner: NotRequired[str]
    queued_at: NotRequired[int]
    priority: NotRequired[int]


class CombinedReleaseArgument(TypedDict):
    claim: int
    window: int


class CombinedAcceptArgument(AcceptedArgument):
    window: int


class BeginRoundArgument(TypedDict):
    now: int
    process: str
    ms: int


class CreateUploadArgument(TypedDict):
    now: int
    id: str
    rec: dict[str, Any]
    valid: int
    grace: int


class TakeUploadArgument(Stamp):
    id: str
    taker: str
    snapshot: str


class GiveBackUploadArgument(TypedDict):
    id: str
    op: int


class ListArgument(TypedDict):
    limit: int
    look: int
    path: NotRequired[str]
    states: NotRequired[Sequence[State | Literal["delayed"]]]
    owner: NotRequired[str]
    before: NotRequired[tuple[int, str]]
    since: NotRequired[int]
    text: NotRequired[bytes]
    attempts: NotRequired[int]
    hides: NotRequired[bool]


class AuditArgument(Stamp):
    entry: dict[str, str]
    most: int


class ReportArgument(Stamp):
    reports: Sequence[tuple[str, int] | tuple[str, int, str, int]]
    stage: NotRequired[Literal["reserve", "count"]]


class CreateBatchArgument(Stamp):
    id: str
    rec: dict[str, Any]
    actor: Actor
    brief: str
    idle: int
    look: int


class BatchUpkeep(TypedDict):
    """What follows from a step of a batch. Times are ms."""

    again: int
    grace: int
    look: int
    idle: int
    retention: int
    completion: int
    texts: dict[str, str]


class BatchArgument(TypedDict):
    """The argument of most scripts in ``batch/``."""

    now: int
    id: str
    after: bytes
    """A :class:`BatchUpkeep`, packed."""
    op: NotRequired[int]
    owner: NotRequired[str]
    status: NotRequired[str]
    reports: NotRequired[Sequence[tuple[str, int, str]]]
    is_refused: NotRequired[bool]
    limit: NotRequired[int]
    checked: NotRequired[int]
    look_again: NotRequired[bool]
    is_cancelled: NotRequired[bool]
    by: NotRequired[str]


class RegisterArgument(BatchArgument):
    children: Sequence[tuple[str, str]]
    most: int


class RegistrationArgument(BatchArgument):
    child: str
    most: int


class ChildrenArgument(TypedDict):
    id: str
    limit: int
    newest_first: bool
    is_removed: bool
    owner: NotRequired[str]
    behind: NotRequired[int]
    last: NotRequired[int]


class EraseArgument(Stamp):
    ids: list[str]
    blob_grace: int
    owner: NotRequired[str]
    batch: NotRequired[str]
