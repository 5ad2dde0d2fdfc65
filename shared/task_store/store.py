"""The steps of a task's life, each one script and one round trip."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal, cast, overload
from urllib.parse import quote

from shared.record import record
from shared.task import DEFAULT_PRIORITY, Content, Event, State, Task, Who
from shared.task_store.link import RedisLink
from shared.task_store.outcomes import (
    Claimed,
    Created,
    Draining,
    Existing,
    Full,
    Grant,
    Granted,
    Left,
    Moved,
    Outcome,
    Refusal,
    Refused,
    Taken,
)
from shared.task_store.packing import TAGS, pack, tag_of, to_ms, unpack, unpack_each
from shared.task_store.queues import TaskQueues, Turn, granted_of, taken_of

BRIEF_CHARS: Final = 200
SWEEP_LIMIT: Final = 64
TURNS_LIMIT: Final = 500
LIST_LOOK: Final = 250
BLOB_GRACE_S: Final = 120.0
BACKOFF_CAP_S: Final = 600.0
WAIT_CAP_S: Final = 3600.0
"""How seldom it is looked whether a task that waits stands in its queue."""


@record
class NewTask:
    """What a task is created from."""

    id: str
    path: str
    lease_s: float
    """How long it may go without an update once it is dispatched."""
    status: str = State.CREATED.value
    state: State = State.CREATED
    query: str = ""
    wanted: bool = True
    body: Content | None = None
    inline_body: bytes = b""
    """The body's bytes; not looked at when it is a blob."""
    traceparent: str = ""
    owner: str = ""
    fingerprint: str = ""
    priority: int = DEFAULT_PRIORITY


@dataclass(frozen=True, slots=True)
class Overdue:
    """What the sweep did, and what is left to the caller: to offer the task to its queue, to announce its end, or to
    delete its blobs."""

    what: Literal["waits", "retry", "failed", "announce", "purged", "blobs"]
    id: str
    task: Task | None

    @property
    def moved(self) -> Moved | None:
        """The transition that the sweep made."""
        if self.task is None or self.what not in ("retry", "failed"):
            return None
        return Moved(self.task, Left(self.task.path, self.task.attempt - (self.what == "retry")))


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a task that had held a slot for a while."""

    what: Literal["gone", "publish", "failed"]
    id: str
    attempt: int
    task: Task | None
    again_s: float | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tasks of one endpoint path stand in each state, and how long the oldest has waited."""

    created: int = 0
    dispatched: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    oldest_waiting_ms: int = 0

    def plus(self, other: Depth) -> Depth:
        return Depth(
            self.created + other.created,
            self.dispatched + other.dispatched,
            self.running + other.running,
            self.completed + other.completed,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            max(self.oldest_waiting_ms, other.oldest_waiting_ms),
        )


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a task stands in lists, which go by creation: its birth time, and among twins its id."""

    created_ms: int
    id: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Which tasks to list, and how many; ``before`` is where the former page ended."""

    limit: int
    path: str | None = None
    state: State | None = None
    owner: str | None = None
    before: Place | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first; ``next`` is None on the last page. A page may have fewer tasks than its limit, even
    none, and yet not be the last: what a filter passes over is bounded."""

    tasks: list[Task]
    next: Place | None


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """The deadlines the store sets, in seconds."""

    republish_s: float = 30
    retention_s: float = 7 * 86_400
    max_attempts: int = 10
    window_s: float = 40
    """Within which who claims an attempt records what the backend said; then the task is tried again."""
    announce: bool = False
    """Whether the end of each task is to be announced, after ``republish_s`` again if it was not acknowledged."""

    @property
    def announce_s(self) -> float:
        return self.republish_s if self.announce else 0


_OPERATION_BITS: Final = 52
"""Lua's numbers hold no more."""
# As lib.lua numbers them.
_EVENT_STATES: Final = (
    State.CREATED,  # there is no 0
    State.CREATED,
    State.DISPATCHED,
    State.RUNNING,
    State.COMPLETED,
    State.FAILED,
    State.CANCELLED,
)
_EVENT_WHO: Final = ("", Who.CLIENT.value, Who.DISPATCHER.value, Who.RECONCILER.value)
_STATES: Final = {state.value: state for state in State}
_TERMINAL: Final = frozenset(state for state in State if state.is_terminal)


class TaskStore:
    """All tasks of one Redis.

    Args:
        link: the way to Redis, which may be shared.
        now_ms: the clock; None for the Redis server's own, which all processes share.
        queues: those that are told in the same step what it means to them, where one server has all. Outcomes say so.
    """

    def __init__(
        self,
        link: RedisLink,
        policy: StorePolicy,
        now_ms: Callable[[], int] | None = None,
        queues: TaskQueues | None = None,
    ) -> None:
        self._link = link
        self._policy = policy
        self._now_ms = now_ms
        self._queues = queues

    async def create(self, new: NewTask) -> Created | Existing:
        """Store a task with its body and deadline. From here it is safe."""
        kind, stored = await self._link.script("create", tag_of(new.id), *self._new(new))
        task = _created_task(new, stored)
        return Existing(task) if kind == b"exists" else Created(task)

    async def create_waiting(self, new: NewTask) -> Created | Existing | Full | Draining | None:
        """Store a task and let it wait in its endpoint's queue, unless that takes none.

        None where these lie on several servers: nothing was done.
        """
        if self._queues is None:
            return None
        task_tag, queue_tag = tag_of(new.id).encode(), tag_of(new.path).encode()
        offered = self._queues.packed_new(new.path)
        reply = await self._link.joint("create", task_tag, *self._new(new), queue_tag, offered)
        if reply is None:
            return None
        (kind, stored), taken_in = reply
        task = _created_task(new, stored)
        if kind == b"exists":
            return Existing(task)
        taken = taken_of(taken_in)
        return Created(task, taken.place, taken.granted) if isinstance(taken, Taken) else taken

    def _new(self, new: NewTask) -> tuple[bytes, bytes]:
        record: dict[str, Any] = {
            "s": new.state,
            "p": new.path,
            "x": new.status,
            "a": 1,
            "f": 0,
            "n": 1 if new.wanted else 0,
            "w": new.wanted,
            "l": to_ms(new.lease_s),
        }
        if new.body:
            record["b"] = _pack_content(new.body)
            if new.body.blob is not None:
                record["g"] = True
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
        # Nobody can try again what the backbone was not to dispatch: silence ends it only at last.
        due_s = self._policy.republish_s if new.wanted else self._policy.retention_s
        arg = {
            "id": new.id,
            "rec": record,
            "due_in": to_ms(due_s),
            "who": Who.CLIENT,
            "brief": new.status[:BRIEF_CHARS],
        }
        return pack(self._stamped(arg)), new.inline_body if new.body and not new.body.blob else b""

    async def claim(self, task_id: str, attempt: int | None) -> Claimed | Refused:
        """Take a waiting task's attempt for dispatch; None takes whichever is current."""
        arg = self._change(
            task_id,
            # As joint_scripts/step.lua has it for those that were handed a slot.
            who=Who.DISPATCHER,
            attempt=attempt,
            from_=(State.CREATED,),
            has_body=True,
            to=State.DISPATCHED,
            status=None,
            due_in=to_ms(self._policy.window_s),
            fetch=True,
        )
        return _claimed(task_id, await self._link.script("move", tag_of(task_id), pack(arg), b""))

    async def accepted(self, task: Task) -> Outcome:
        """The backend took the task: from now on it has a lease."""
        return await self._step(
            task.id,
            taken=task,
            who=Who.DISPATCHER,
            attempt=task.attempt,
            from_=(State.DISPATCHED,),
        )

    async def requeue(
        self, task: Task, *, status: str, apart_s: float | None = None, failed: bool = False
    ) -> Outcome:
        """Have a claimed task wait again at its old place, or apart from the queue for *apart_s* at first."""
        return await self._step(
            task.id,
            who=Who.DISPATCHER,
            attempt=task.attempt,
            from_=(State.DISPATCHED,),
            to=State.CREATED,
            requeue=True,
            failed=failed,
            apart=apart_s is not None,
            status=status,
            due_in=to_ms(self._policy.republish_s if apart_s is None else apart_s),
        )

    async def fail_dispatch(self, task: Task, *, status: str) -> Outcome:
        """End a claimed task that cannot be dispatched."""
        return await self._step(
            task.id,
            who=Who.DISPATCHER,
            attempt=task.attempt,
            from_=(State.DISPATCHED,),
            to=State.FAILED,
            failed=True,
            status=status,
        )

    async def update(
        self,
        task_id: str,
        *,
        state: State | None,
        status: str | None,
        attempt: int | None = None,
        path: str | None = None,
        query: str | None = None,
        body: Content | None = None,
        inline_body: bytes = b"",
        owner: str | None = None,
    ) -> Outcome:
        """What a model service reports. Any report renews the lease; only :meth:`hop` puts a task back in a queue."""
        return await self._step(
            task_id,
            body,
            inline_body,
            who=Who.CLIENT,
            owner=owner,
            attempt=attempt,
            to=None if state is State.CREATED else state,
            status=status,
            path=path,
            query=query,
            body=body,
        )

    async def beat(self, task_id: str, *, attempt: int | None = None, owner: str | None = None) -> Outcome:
        """Renew the lease of a task that is being worked on, and nothing else."""
        return await self._step(
            task_id, who=Who.CLIENT, owner=owner, attempt=attempt, from_=(State.DISPATCHED, State.RUNNING)
        )

    async def cancel(self, task_id: str, *, owner: str | None = None) -> Outcome:
        """End a task at its caller's wish: it is not dispatched any more, and who works on it is refused."""
        return await self._step(task_id, who=Who.CLIENT, owner=owner, to=State.CANCELLED, status="Cancelled")

    async def replay(self, task_id: str, *, owner: str | None = None) -> Outcome:
        """Have a failed task begin again at its endpoint, with the body it has."""
        return await self._step(
            task_id,
            who=Who.CLIENT,
            owner=owner,
            from_=(State.FAILED,),
            to=State.CREATED,
            revive=True,
            hop=True,
            has_body=True,
            status=State.CREATED.value,
            publishes=1,
            due_in=to_ms(self._policy.republish_s),
        )

    async def announced(self, task_ids: Iterable[str]) -> None:
        """The ends of these tasks were announced."""
        await asyncio.gather(
            *(
                self._link.script("announced", tag, str(to_ms(self._policy.retention_s)), *ids)
                for tag, ids in _by_tag(task_ids).items()
            )
        )

    async def hop(
        self,
        task_id: str,
        *,
        status: str | None,
        lease_s: float | None = None,
        attempt: int | None = None,
        path: str | None = None,
        query: str | None = None,
        body: Content | None = None,
        inline_body: bytes = b"",
        owner: str | None = None,
    ) -> Outcome:
        """Send a task to the end of an endpoint's queue, with a new body or its own: the next pipeline step."""
        return await self._step(
            task_id,
            body,
            inline_body,
            who=Who.CLIENT,
            owner=owner,
            attempt=attempt,
            to=State.CREATED,
            hop=True,
            has_body=body is None,
            status=status,
            path=path,
            query=query,
            body=body,
            publishes=1,
            lease=to_ms(lease_s) if lease_s else None,
            due_in=to_ms(self._policy.republish_s),
        )

    async def put_result(
        self, task_id: str, result: Content, data: bytes, *, attempt: int | None = None, owner: str | None = None
    ) -> Outcome:
        """Keep what the current attempt made. Counts as an update."""
        return await self._step(
            task_id,
            result,
            data,
            who=Who.CLIENT,
            owner=owner,
            attempt=attempt,
            result=result,
        )

    async def get(self, task_id: str) -> Task | None:
        raw = await self._get(task_id, "t")
        return _unpack_task(task_id, raw) if raw else None

    async def inline_result(self, task_id: str) -> bytes | None:
        return await self._get(task_id, "r")

    async def sweep(self, index: int) -> list[Overdue]:
        """Take the next step for the overdue tasks of one partition, at most ``SWEEP_LIMIT`` of them."""
        policy = self._policy
        arg = {
            "limit": SWEEP_LIMIT,
            "max_attempts": policy.max_attempts,
            "publish_base": to_ms(policy.republish_s),
            "cap": to_ms(BACKOFF_CAP_S),
            "wait_cap": to_ms(WAIT_CAP_S),
            "retention": to_ms(policy.retention_s),
            "announce": to_ms(policy.announce_s),
            "blob_grace": to_ms(BLOB_GRACE_S),
            "seed": random.getrandbits(31),
        }
        rows: list[list[bytes]] = await self._link.script("sweep", "{" + TAGS[index] + "}", pack(self._stamped(arg)))
        return [
            Overdue(
                cast("Any", row[0].decode()),
                row[1].decode(),
                _unpack_task(row[1].decode(), row[2]) if len(row) > 2 else None,
            )
            for row in rows
        ]

    async def check(self, path: str, turns: Iterable[tuple[str, int]]) -> list[Checked]:
        """Look at tasks that have held a slot at *path* for long, given by id and attempt. Told are those that hold
        it for nothing, and those whose event is to be published again."""
        policy = self._policy
        by_tag: dict[str, list[tuple[str, int]]] = {}
        for turn in turns:
            by_tag.setdefault(tag_of(turn[0]), []).append(turn)
        arg = {
            "path": path,
            "max_attempts": policy.max_attempts,
            "publish_base": to_ms(policy.republish_s),
            "cap": to_ms(BACKOFF_CAP_S),
            "retention": to_ms(policy.retention_s),
            "announce": to_ms(policy.announce_s),
        }
        parts = await asyncio.gather(
            *(
                self._link.script(
                    "check", tag, pack(self._stamped(arg | {"turns": some, "seed": random.getrandbits(31)}))
                )
                for tag, some in by_tag.items()
            )
        )
        return [
            Checked(
                row[0].decode(),
                row[1].decode(),
                row[2],
                _unpack_task(row[1].decode(), row[3]) if len(row) > 3 else None,
                row[4] / 1000 if len(row) > 4 else None,
            )
            for part in parts
            for row in part
        ]

    async def turns(self, path: str, state: State) -> AsyncIterator[list[Turn]]:
        """All that wait at an endpoint, or that its backend has, page by page. What comes or goes meanwhile may be
        missing or there twice, others not."""
        indexes = (state.value, "again") if state is State.CREATED else (state.value,)
        for tag, index in product(TAGS, indexes):
            skip, looked = 0, TURNS_LIMIT
            while looked == TURNS_LIMIT:
                arg = {"path": path, "state": index, "skip": skip, "limit": TURNS_LIMIT}
                looked, rows = await self._link.script("turns", "{" + tag + "}", pack(arg))
                skip += looked
                if rows:
                    yield [
                        Turn(path, Grant(task_id.decode(), attempt), owner.decode(), queued_ms, priority)
                        for task_id, attempt, owner, queued_ms, priority in rows
                    ]

    async def withdraw(self, task_id: str) -> bool:
        """Remove a task that was created a moment ago and that its queue does not take. Not one that a repetition of
        the create was told of meanwhile. Returns whether it is gone."""
        return bool(await self._link.script("withdraw", tag_of(task_id), task_id))

    async def forget(self, task_ids: Iterable[str]) -> int:
        """Remove finished tasks whose blobs have been deleted."""
        counts = await asyncio.gather(
            *(self._link.script("forget", tag, *ids) for tag, ids in _by_tag(task_ids).items())
        )
        return sum(cast("list[int]", counts))

    async def depths(self, path: str | None = None) -> dict[str, Depth]:
        """Queue depths by endpoint path, or of one path. Costs by the number of paths, not of tasks."""
        now = str(self._now_ms() if self._now_ms else 0)
        parts = await asyncio.gather(*(self._link.script("counts", "{" + tag + "}", now, path or "") for tag in TAGS))
        depths: dict[str, Depth] = {path: Depth()} if path else {}
        for row in (row for part in parts for row in part):
            name = row[0].decode()
            depths[name] = depths.get(name, Depth()).plus(Depth(*row[1:]))
        return depths

    async def page(self, listing: Listing) -> Page:
        """A page of tasks, newest first. Stable: paging meets every task that is there all the while exactly once,
        whatever else comes, goes or changes meanwhile."""
        arg: dict[str, Any] = {"limit": listing.limit, "look": max(LIST_LOOK, listing.limit)}
        for key, value in (("path", listing.path), ("state", listing.state), ("owner", listing.owner)):
            if value:
                arg[key] = value
        if listing.before:
            arg["before"] = [listing.before.created_ms, listing.before.id]
        packed = pack(arg)
        parts = await asyncio.gather(*(self._link.script("list", "{" + tag + "}", packed) for tag in TAGS))
        found = sorted(((Place(row[0], row[1].decode()), row[2]) for rows, _ in parts for row in rows), reverse=True)
        # Beyond the newest place where a partition stopped looking, nothing is known of that partition.
        known_to = max((Place(stop[0], stop[1].decode()) for _, stop in parts if stop), default=None)
        tasks = [
            (place, _unpack_task(place.id, raw)) for place, raw in found if known_to is None or place >= known_to
        ]
        if len(tasks) > listing.limit:
            tasks = tasks[: listing.limit]
            known_to = tasks[-1][0]
        return Page([task for _, task in tasks], known_to)

    async def report_requests(
        self, cluster: str, path: str, delta: int, *, instance: str | None = None, keep_s: float = 0
    ) -> int:
        """Add to the requests in flight at an endpoint; returns the new count, never below 0.

        The share of a reporter that names its *instance* is dropped *keep_s* after its last report.
        """
        field = _requests_field(cluster, path)
        arg: dict[str, Any] = {"field": field, "delta": delta}
        if instance is not None:
            arg |= {"instance": instance, "keep": to_ms(keep_s)}
        return max(0, int(await self._link.script("report", tag_of(field), pack(self._stamped(arg)))))

    async def requests(self, cluster: str, path: str) -> int | None:
        """Requests in flight at an endpoint; None when none were ever reported."""
        field = _requests_field(cluster, path)
        now = str(self._now_ms() if self._now_ms else 0)
        count: int | None = await self._link.script("requests", tag_of(field), now, field)
        return None if count is None else max(0, count)

    async def ping(self) -> None:
        await self._link.ping()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _step(
        self,
        task_id: str,
        content: Content | None = None,
        data: bytes = b"",
        *,
        taken: Task | None = None,
        **change: Any,
    ) -> Outcome:
        arg = pack(self._change(task_id, **change))
        inline = data if content and not content.blob else b""
        if self._queues is not None and (taken is not None or change.get("to") in _TERMINAL):
            then = self._queues.packed_step(taken, window_ms=to_ms(self._policy.window_s))
            reply = await self._link.joint("step", tag_of(task_id).encode(), arg, inline, then)
            if reply is not None:
                moved, queued, claimed = reply
                return _outcome(task_id, moved, _granted(queued, claimed) if queued else None)
        return _outcome(task_id, await self._link.script("move", tag_of(task_id), arg, inline))

    def _change(self, task_id: str, **change: Any) -> dict[str, Any]:
        retention = to_ms(self._policy.retention_s)
        arg: dict[str, Any] = {
            "id": task_id,
            "silence": retention,
            "retention": retention,
            "announce": to_ms(self._policy.announce_s),
        }
        for key, value in change.items():
            if value is None or value is False:
                continue
            arg[key.rstrip("_")] = _pack_content(value) if isinstance(value, Content) else value
        if "status" in arg:
            arg["brief"] = arg["status"][:BRIEF_CHARS]
        return self._stamped(arg)

    def _stamped(self, arg: dict[str, Any]) -> dict[str, Any]:
        # The operation id is drawn once per step: when the client repeats a call whose reply was lost, the script
        # finds the id in the record and knows that the step was taken.
        arg["now"] = self._now_ms() if self._now_ms else 0
        arg["op"] = random.getrandbits(_OPERATION_BITS)
        return arg

    async def _get(self, task_id: str, kind: str) -> bytes | None:
        tag = tag_of(task_id)
        return await self._link.get(tag, f"{tag}{kind}:{task_id}")


def _requests_field(cluster: str, path: str) -> str:
    # A quoted name has no blank, so no other cluster and path make the same field.
    return f"{quote(cluster, safe='')} {path}"


def _by_tag(task_ids: Iterable[str]) -> dict[str, list[str]]:
    by_tag: dict[str, list[str]] = {}
    for task_id in task_ids:
        by_tag.setdefault(tag_of(task_id), []).append(task_id)
    return by_tag


def _pack_content(content: Content) -> list[Any]:
    packed: list[Any] = [content.content_type, content.size_bytes]
    return [*packed, content.blob] if content.blob else packed


def _unpack_content(packed: list[Any] | None) -> Content | None:
    return Content(*packed) if packed else None


def _unpack_task(task_id: str, raw: bytes) -> Task:
    rec: dict[str, Any] = unpack(raw)
    born: int = rec["c"]
    return Task(
        id=task_id,
        state=_STATES[rec["s"]],
        path=rec["p"],
        query=rec.get("u", ""),
        status=rec["x"],
        attempt=rec["a"],
        failures=rec["f"],
        publishes=rec["n"],
        priority=rec.get("j", DEFAULT_PRIORITY),
        wanted=rec["w"],
        version=rec["v"],
        created_ms=born,
        updated_ms=born + rec.get("m", 0),
        queued_ms=born + rec.get("q", 0),
        body=_unpack_content(rec.get("b")),
        result=_unpack_content(rec.get("r")),
        traceparent=rec.get("t", ""),
        fingerprint=rec.get("i", ""),
        owner=rec.get("o", ""),
        unannounced=rec.get("y", False),
        history=_History(born, rec["h"]),
    )


class _History(Sequence[Event]):
    """A record's history, which few ask for: made when it is read."""

    __slots__ = ("_born_ms", "_packed", "_rows")

    def __init__(self, born_ms: int, packed: str) -> None:
        self._born_ms = born_ms
        self._packed = packed
        self._rows: list[list[Any]] | None = None

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at_ms, number, attempt, who, status = self._events[index]
        state = _EVENT_STATES[cast("int", number)]
        text = state.value if status is True else status
        return Event(self._born_ms + at_ms, state, attempt, _EVENT_WHO[who], text)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def _events(self) -> list[list[Any]]:
        if self._rows is None:
            self._rows = unpack_each(self._packed)
        return self._rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*cast("Sequence[object]", other)]

    def __hash__(self) -> int:
        return hash((*self,))


def _left(task: Task, where: int | list[Any]) -> Left:
    return Left(task.path, where) if isinstance(where, int) else Left(where[1].decode(), where[0])


def _created_task(new: NewTask, stored: int | bytes) -> Task:
    """What a create stored, when it tells the time; a record is that of an earlier one."""
    if isinstance(stored, bytes):
        return _unpack_task(new.id, stored)
    now_ms = stored
    return Task(
        id=new.id,
        state=new.state,
        path=new.path,
        query=new.query,
        status=new.status,
        attempt=1,
        failures=0,
        publishes=1 if new.wanted else 0,
        priority=new.priority,
        wanted=new.wanted,
        version=1,
        created_ms=now_ms,
        updated_ms=now_ms,
        queued_ms=now_ms,
        body=new.body,
        result=None,
        traceparent=new.traceparent,
        fingerprint=new.fingerprint,
        owner=new.owner,
        unannounced=False,
        history=(Event(now_ms, new.state, 1, Who.CLIENT, new.status[:BRIEF_CHARS]),),
    )


def _claimed(task_id: str, reply: list[Any]) -> Claimed | Refused:
    outcome = _outcome(task_id, reply)
    if isinstance(outcome, Refused):
        return outcome
    inline = outcome.task.body is None or outcome.task.body.blob is None
    return Claimed(outcome.task, cast("bytes | None", reply[2]) or b"" if inline else None)


def _granted(queued: list[Any], claimed: list[list[Any]]) -> Granted:
    granted = granted_of(queued)
    for grant, reply in zip(granted.grants, claimed, strict=True):
        granted.claims[grant] = _claimed(grant.task_id, reply)
    return granted


def _outcome(task_id: str, reply: list[Any], granted: Granted | None = None) -> Outcome:
    kind: str = reply[0].decode()
    task = _unpack_task(task_id, reply[1]) if len(reply) > 1 else None
    if kind in ("moved", "kept", "same"):
        assert task is not None
        return Moved(task, _left(task, reply[3]) if kind == "moved" else None, granted)
    return Refused(Refusal(kind), task, granted)
