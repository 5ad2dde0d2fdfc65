"""A task's record as Redis keeps it: one packed map. ``lua/includes/task/record.lua`` names its fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast, overload

from shared.store.callback_codec import pack_callback, unpack_callback
from shared.store.redis.partitions import NOT_PACKED, to_ms, unpack, unpack_each
from shared.tasks.callback import Callback
from shared.tasks.end_reason import EndReason
from shared.tasks.task import (
    DEFAULT_PRIORITY,
    OPERATOR,
    Actor,
    BatchState,
    Content,
    Event,
    LongStatus,
    NewBatch,
    NewTask,
    PipelineStep,
    Place,
    Reason,
    Start,
    State,
    Task,
    ThenTask,
)

BATCHES: Final = "batches"
"""Where batches are listed. No endpoint's path, which would begin with a slash."""
BRIEF_CHARS: Final = 200
"""How much of a status text the history keeps."""
HISTORY_NUMBERS: Final = {
    "created": 1,
    "dispatched": 2,
    "running": 3,
    "completed": 4,
    "failed": 5,
    "cancelled": 6,
    "client": 1,
    "dispatcher": 2,
    "reconciler": 3,
    "next-step": 1,
    "release": 2,
    "replay": 3,
    "children": 4,
    "rejected": 5,
    "unreachable": 6,
    "timeout": 7,
    "lease": 8,
    "publishes": 9,
    "expired": 10,
    "overrun": 11,
}
"""The numbers that the history has for states, for actors, and for the reasons that it stores."""
_STATES: Final = {state.value: state for state in State}
_ENDS: Final = tuple(state for state in State if state.is_terminal)
_CLIENT: Final = Actor.CLIENT.value
"""Not made at each use: to look up the value of a member takes 0.2 µs."""
_STATE_OF_NUMBER: Final = {HISTORY_NUMBERS[state]: state for state in State}
_ACTOR_OF_NUMBER: Final = {HISTORY_NUMBERS[actor]: actor for actor in Actor}
_STORED_REASONS: Final[dict[int, Reason]] = {
    HISTORY_NUMBERS[reason]: reason
    for reason in (Reason.NEXT_STEP, Reason.RELEASE, Reason.REPLAY, Reason.CHILDREN, Reason.OVERRUN)
}
_TOLD_REASONS: Final = {
    (Actor.DISPATCHER, State.CREATED): Reason.REQUEUE,
    (Actor.DISPATCHER, State.DISPATCHED): Reason.CLAIM,
    (Actor.DISPATCHER, State.COMPLETED): Reason.ANSWER,
    (Actor.DISPATCHER, State.FAILED): Reason.GIVE_UP,
    (Actor.RECONCILER, State.CREATED): Reason.SILENCE,
    (Actor.RECONCILER, State.FAILED): Reason.GIVE_UP,
    (Actor.CLIENT, State.CANCELLED): Reason.CANCEL,
}
"""Those that actor and state tell. All others are reports."""
_STORED_ENDS: Final[dict[int, EndReason]] = {
    HISTORY_NUMBERS[end]: end
    for end in (
        EndReason.REJECTED,
        EndReason.UNREACHABLE,
        EndReason.TIMEOUT,
        EndReason.LEASE,
        EndReason.PUBLISHES,
        EndReason.EXPIRED,
    )
}
"""Why the backbone gave a task up: stored in the place of the reason, which actor and state tell then."""


def pack_content(content: Content) -> list[Any]:
    kind = [content.content_type, content.encoding] if content.encoding else content.content_type
    packed: list[Any] = [kind, content.size_bytes]
    if content.sha256:
        return [*packed, content.blob, content.sha256]
    return [*packed, content.blob] if content.blob else packed


def new_record(new: NewTask) -> dict[str, Any]:
    """A new task's record without its times, version and history, which the script adds."""
    record: dict[str, Any] = {
        "s": new.state,
        "p": new.path,
        "x": new.status,
        "a": 1,
        "f": 0,
        "n": 1 if new.dispatch_requested else 0,
        "w": new.dispatch_requested,
        "l": to_ms(new.lease_s),
    }
    if new.body:
        record["b"] = pack_content(new.body)
        if new.body.blob is not None:
            record["g"] = True
    if new.long_status:
        record["X"], record["g"] = list(new.long_status), True
    if new.query:
        record["u"] = new.query
    if new.traceparent:
        record["t"] = new.traceparent
    if new.owner:
        record["o"] = new.owner
    if new.fingerprint:
        record["i"] = new.fingerprint
    if new.priority != DEFAULT_PRIORITY:
        record["j"] = new.priority
    if new.steps:
        record["N"] = [1, len(new.steps)]
    if new.pipeline:
        record["Y"] = new.pipeline
    if new.batch:
        record["B"] = new.batch
    if new.callback:
        record["J"] = pack_callback(new.callback)
    if (most_ms := new.most_run_ms) is not None:
        record["I"] = [most_ms] if (asked_ms := new.timing.max_run_ms) is None else [most_ms, asked_ms]
    return record


def packed_step(step: PipelineStep) -> list[Any]:
    """A step as the list of its pipeline's has it, which an earlier version reads too."""
    packed: list[Any] = [step.path, step.query, to_ms(step.lease_s)]
    bounds = [to_ms(each) if each else False for each in (step.max_run_s, step.expires_s)]
    return [*packed, *bounds] if any(bounds) else packed


def expiry(new: NewTask) -> tuple[str, int] | None:
    """When a new task expires, as ``task/create`` takes it; None: never, or nobody dispatches it."""
    if not new.dispatch_requested:
        return None
    if new.timing.expiry is not None:
        return new.timing.expiry
    return None if new.expires_s is None else ("start", to_ms(new.expires_s))


def expires_ms(new: NewTask, now_ms: int) -> int | None:
    """When a task expires that is created now; None: never."""
    expires = expiry(new)
    if expires is None:
        return None
    since, ms = expires
    if since == "start" and (start := new.start(now_ms)) is not None:
        return start.at_ms + ms
    return ms if since == "epoch" else now_ms + ms


def new_batch_record(new: NewBatch) -> dict[str, Any]:
    """A new batch's record without its times, version and history, which the script adds."""
    batch: dict[str, Any] = dict.fromkeys("ntcfxrKMQ", 0)
    if new.name:
        batch["N"] = new.name
    if new.then:
        steps = [[step.path, step.query, to_ms(step.lease_s)] for step in new.then.steps]
        batch["T"] = [new.then.asked, new.then.pipeline, *steps]
    record: dict[str, Any] = {
        "s": "created",
        "p": BATCHES,
        "x": "created",
        "a": 1,
        "f": 0,
        "n": 0,
        "w": False,
        "l": 0,
    }
    fields = {"o": new.owner, "t": new.traceparent, "i": new.fingerprint}
    priority = {} if new.priority == DEFAULT_PRIORITY else {"j": new.priority}
    callback = {"J": pack_callback(new.callback)} if new.callback else {}
    return {**record, **{key: text for key, text in fields.items() if text}, **priority, **callback, "G": batch}


def new_task(new: NewTask, now_ms: int) -> Task:
    """The task whose record was just made of *new*: nothing has to be read back."""
    start = new.start(now_ms)
    # What each task has by position: by name it would take half as long again.
    return Task(
        new.id,
        new.state,
        new.path,
        new.query,
        new.status,
        1,
        0,
        1 if new.dispatch_requested else 0,
        new.priority,
        new.dispatch_requested,
        1,
        now_ms,
        now_ms,
        now_ms if start is None else start.at_ms,
        new.body,
        None,
        new.traceparent,
        new.fingerprint,
        new.owner,
        None,
        False,
        (_submitted(new, now_ms),),
        new.long_status,
        to_ms(new.lease_s),
        place=Place(1, len(new.steps)) if new.steps else None,
        pipeline=new.pipeline,
        batch=new.batch,
        callback=None if new.callback is None else Callback(new.callback.destination),
        expires_ms=expires_ms(new, now_ms),
        max_run_ms=new.most_run_ms,
        start=start,
    )


def _submitted(new: NewTask, now_ms: int) -> Event:
    who, end = _CLIENT if new.by is None else OPERATOR, _end_of(new.state, Reason.SUBMIT, 0)
    return Event(now_ms, new.state, 1, who, new.status[:BRIEF_CHARS], new.path, Reason.SUBMIT, end, new.by)


def readable_task(task_id: str, raw: bytes) -> Task | None:
    """The task of a record; None if it is none, for somebody else has written it."""
    try:
        return unpack_task(task_id, raw)
    except (AttributeError, IndexError, KeyError, TypeError, *NOT_PACKED):
        return None


def unpack_task(task_id: str, raw: bytes) -> Task:
    record: dict[str, Any] = unpack(raw)
    created_ms: int = record["c"]
    # By position: by name it would take a fifth longer.
    return Task(
        task_id,
        _STATES[record["s"]],
        record["p"],
        record.get("u", ""),
        record["x"],
        record["a"],
        record["f"],
        record["n"],
        record.get("j", DEFAULT_PRIORITY),
        record["w"],
        record["v"],
        created_ms,
        created_ms + record.get("m", 0),
        created_ms + record.get("q", 0),
        unpack_content(record.get("b")),
        unpack_content(record.get("r")),
        record.get("t", ""),
        record.get("i", ""),
        record.get("o", ""),
        record.get("F"),
        record.get("y", False),
        _History(created_ms, record["h"], record["p"]),
        LongStatus(*record["X"]) if "X" in record else None,
        record["l"] << record["L"] if "L" in record else record["l"],
        record.get("P"),
        unpack_content(record.get("C")),
        Place(*record["N"][:2]) if "N" in record else None,
        record.get("Y", ""),
        [(attempt, str(token)) for attempt, token in record["M"]] if "M" in record else (),
        record.get("B", ""),
        _unpack_batch(record["G"]) if "G" in record else None,
        "Z" in record,
        "R" in record or "U" in record,
        unpack_callback(record["J"]) if "J" in record else None,
        created_ms + record["V"] if "V" in record else None,
        record["I"][0] if "I" in record else None,
        None,
        _unpack_start(record) if "T" in record else None,
    )


def _unpack_start(record: dict[str, Any]) -> Start:
    # As lua/includes/task/is_delayed.lua has it.
    is_ahead = record["s"] == State.CREATED and record["a"] == 1 and record.get("z") == 0
    return Start(record["c"] + record["T"], is_ahead)


def _unpack_batch(packed: dict[str, Any]) -> BatchState:
    then = packed.get("T")
    how_it_ended = packed.get("h")
    return BatchState(
        packed.get("N", ""),
        ThenTask(then[0], then[1], tuple(PipelineStep(path, query, ms / 1000) for path, query, ms in then[2:]))
        if then
        else None,
        packed.get("S", False),
        packed["n"],
        packed["t"],
        packed["c"],
        packed["f"],
        packed["x"],
        packed["r"],
        packed["K"],
        packed["M"],
        packed.get("J"),
        packed.get("g", 0),
        packed.get("d", ""),
        packed.get("e", False),
        _STATES[how_it_ended] if how_it_ended else None,
    )


def unpack_content(packed: list[Any] | None) -> Content | None:
    if not packed:
        return None
    # The usual one is not taken apart first: this runs three times in each step.
    if len(packed) <= _WHERE_PARTS and not isinstance(packed[0], list):
        return Content(*packed)
    kind, *where = packed
    content_type, encoding = cast("list[str]", kind) if isinstance(kind, list) else (kind, "")
    size_bytes, *named = where
    return Content(content_type, size_bytes, named[0] if named else None, encoding, named[1] if named[1:] else "")


_WHERE_PARTS: Final = 3
"""What a packed content may have beside its kind: its size, its blob, its digest."""
_PATH: Final = 6
"""Where a packed event has the path to which it brought the task."""
_OPERATOR: Final = 7
"""Where it has the operator who caused it: the name, or true if nobody knows it."""


class _History(Sequence[Event]):
    """A record's history. Few callers ask for it, so it is unpacked when it is read."""

    __slots__ = ("_created_ms", "_events", "_packed", "_path")

    def __init__(self, created_ms: int, packed: str, path: str) -> None:
        self._created_ms = created_ms
        self._packed = packed
        self._path = path
        self._events: list[Event] | None = None

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._read()[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> list[Event]:
        if self._events is None:
            # The first has a path if any has: if the task never came to another one, it has always been at this.
            path, self._events = self._path, []
            for row in cast("list[list[Any]]", unpack_each(self._packed)):
                path = row[_PATH] if len(row) > _PATH else path
                self._events.append(self._event(row, path, is_first=not self._events))
        return self._events

    def _event(self, row: Sequence[Any], path: str, *, is_first: bool) -> Event:
        at_ms, state_number, attempt, actor_number, status, *more = row
        state, actor = _STATE_OF_NUMBER[state_number], _ACTOR_OF_NUMBER[actor_number]
        told = Reason.SUBMIT if is_first else _TOLD_REASONS.get((actor, state), Reason.REPORT)
        number = more[0] if more else 0
        reason = _STORED_REASONS.get(number, told)
        text = state.value if status is True else status
        end = _end_of(state, reason, number)
        if len(row) <= _OPERATOR:
            return Event(self._created_ms + at_ms, state, attempt, actor.value, text, path, reason, end)
        by = "" if row[_OPERATOR] is True else row[_OPERATOR]
        return Event(self._created_ms + at_ms, state, attempt, OPERATOR, text, path, reason, end, by)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*cast("Sequence[object]", other)]

    def __hash__(self) -> int:
        return hash((*self,))


def _end_of(state: State, reason: Reason, number: int) -> EndReason | None:
    """Why a task ended with an event; *number* is what the history has stored beside."""
    if state not in _ENDS:  # nearly always
        return None
    if state is State.FAILED:
        return _STORED_ENDS.get(number, None if reason is Reason.GIVE_UP else EndReason.REPORTED)
    return EndReason.COMPLETED if state is State.COMPLETED else EndReason.CANCELLED
