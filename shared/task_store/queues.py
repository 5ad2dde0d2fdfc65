"""The queues: who waits at an endpoint for a slot of its backend, and who holds one.

How many a backend holds is learned from its answers; ``docs/queues.md`` says how. A queue is an index over the
records, and may be wrong: what is granted has still to be claimed, and what is lost is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from shared.record import record
from shared.task import State, Task
from shared.task_store.link import RedisLink
from shared.task_store.outcomes import Draining, Full, Grant, Granted, QueuePlace, Taken
from shared.task_store.packing import TAGS, pack, tag_of, to_ms

LOOK_LIMIT: Final = 256
_FIRST_PAUSE_AFTER: Final = {True: 1, False: 7}
"""How many failures in a row go without a pause, by whether the backend gave no answer at all."""


@dataclass(frozen=True, slots=True)
class Tended:
    granted: Granted
    doubtful: list[Grant]
    """Their slot was held for so long that it is to be seen whether they still need it."""
    loss: int | None
    """Something of the queue is missing; the value tells this loss from a later one."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How a queue stands."""

    waiting: int
    holding: int
    """How many tasks hold a slot: granted, dispatched or running."""
    slots: int
    """How many tasks the backend is known to hold at a time."""
    limit: int | None
    """How many it is to be given at most."""
    paused: bool
    draining: bool
    place: QueuePlace | None = None


@record
class Turn:
    """An attempt of a task in its endpoint's queue."""

    path: str
    grant: Grant
    owner: str
    queued_ms: int
    """Since when; 0 is now."""
    priority: int

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.path, Grant(task.id, task.attempt), task.owner, task.queued_ms, task.priority)

    @property
    def row(self) -> list[Any]:
        return [self.grant.turn, self.owner, self.queued_ms, self.priority]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Times in seconds."""

    claim_s: float = 30
    """Within which what was granted is claimed."""
    look_s: float = 30
    """How often a slot that is held is looked at."""
    refused_s: float = 5
    """The longest pause before a backend that refused is tried with more, unless it says when."""
    failed_s: float = 5
    """The first pause of a backend that is down."""
    backlog: int | None = None
    """How many may wait."""


class TaskQueues:
    """All queues of one Redis.

    Args:
        limit: the configured limit of an endpoint path.
        now_ms: the clock; None for the Redis server's own.
    """

    def __init__(
        self,
        link: RedisLink,
        policy: QueuePolicy,
        limit: Callable[[str], int | None] = lambda path: None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._link = link
        self._policy = policy
        self._claim_ms = to_ms(policy.claim_s)
        self._limit = limit
        self._now_ms = now_ms

    async def offer_new(self, turn: Turn) -> Taken | Full | Draining:
        """Let a new task wait, unless the queue takes none."""
        return taken_of(
            await self._script("offer", turn.path, turns=[turn.row], new=True, backlog=self._policy.backlog)
        )

    async def offer(self, turns: Iterable[Turn]) -> Granted:
        """Let turns of one path wait; nothing happens to those that do, or hold a slot."""
        turns = list(turns)
        reply = await self._script("offer", turns[0].path, turns=[turn.row for turn in turns])
        return granted_of(reply[1:])

    async def accepted(self, task: Task) -> Granted:
        """The backend took the task's present attempt."""
        return await self._turn("accepted", task)

    async def refused(self, task: Task, requeued: Task, *, after_s: float | None) -> Granted:
        """The backend had no room for *task*, which waits again as *requeued*.

        Args:
            after_s: when the backend said to try again.
        """
        return await self._turn(
            "refused", task, after=to_ms(after_s or 0), most=to_ms(self._policy.refused_s), **_again(requeued)
        )

    async def failed(self, task: Task, *, answered: bool) -> Granted:
        """A dispatch failed. If that happens again and again, or the backend gave no answer, it is given a pause."""
        policy = self._policy
        return await self._turn(
            "failed",
            task,
            grace=_FIRST_PAUSE_AFTER[not answered],
            base=to_ms(policy.failed_s),
            most=to_ms(max(policy.failed_s, 6 * policy.refused_s)),
        )

    async def put_back(self, task: Task, requeued: Task) -> None:
        """This process has no room to dispatch the task."""
        await self._turn_script("put_back", task, **_again(requeued))

    async def leave(self, path: str, grant: Grant, task: Task | None) -> Granted:
        """An attempt neither waits nor is worked on at *path* any more. *task* is what became of it, if known."""
        owner, served_ms = (task.owner, _served_ms(task)) if task else ("", None)
        return granted_of(await self._script("leave", path, turn=grant.turn, owner=owner, served=served_ms))

    async def pump(self, path: str) -> Granted:
        """Hand on what is free."""
        return granted_of(await self._script("pump", path))

    async def held(self) -> set[str]:
        """The endpoint paths at which any turn holds a slot, also where no task is left."""
        parts = await asyncio.gather(*(self._link.script("held", "{" + tag + "}") for tag in TAGS))
        return {path.decode() for part in parts for path in part}

    async def tend(self, path: str) -> Tended:
        """What the reconciler does for a queue at each run."""
        reply = await self._script("tend", path, again=to_ms(self._policy.look_s), most=LOOK_LIMIT)
        return Tended(granted_of(reply), [Grant.of(turn.decode()) for turn in reply[2]], reply[3] or None)

    async def hold(self, turns: Iterable[Turn]) -> None:
        """Turns of one path that are known to be in their backend's hands."""
        turns = list(turns)
        await self._script("hold", turns[0].path, turns=[turn.row for turn in turns])

    async def look_again(self, path: str, in_s: dict[Grant, float]) -> None:
        """Set when slots are to be looked at again."""
        await self._script("look_again", path, turns=[[grant.turn, to_ms(s)] for grant, s in in_s.items()])

    async def whole(self, path: str, loss: int) -> None:
        """All there is was offered since the *loss*."""
        await self._script("whole", path, loss=loss)

    async def status(self, path: str, task: Task | None = None) -> QueueStatus:
        """How the queue stands, and where the task stands in it, if it waits."""
        of = {"turn": Grant(task.id, task.attempt).turn, "owner": task.owner} if task else {}
        waiting, holding, slots, limit, paused, draining, place = await self._script("status", path, **of)
        return QueueStatus(
            waiting, holding, slots, limit if limit >= 0 else None, bool(paused), bool(draining), _place(place)
        )

    async def configure(self, path: str, changes: dict[str, Any]) -> Granted:
        """Change the operator's settings: ``paused``, ``draining``, ``limit``; a false value takes one back."""
        return granted_of(await self._script("configure", path, set={k: v or False for k, v in changes.items()}))

    async def _turn(self, script: str, task: Task, **arg: Any) -> Granted:
        return granted_of(await self._turn_script(script, task, **arg))

    async def _turn_script(self, script: str, task: Task, **arg: Any) -> Any:
        turn = Grant(task.id, task.attempt).turn
        return await self._script(script, task.path, turn=turn, owner=task.owner, **arg)

    def packed_new(self, path: str) -> bytes:
        """What the script is told that creates a task and lets it wait; the rest it has from the record."""
        arg: dict[str, Any] = {"cap": self._limit(path) or False, "claim": self._claim_ms}
        if self._policy.backlog is not None:
            arg["backlog"] = self._policy.backlog
        return pack(arg)

    def packed_step(self, taken: Task | None, *, window_ms: int) -> bytes:
        """What the script is told that takes a step of a task together with what follows from it in its queue."""
        if taken is None:
            return pack({"claim": self._claim_ms, "window": window_ms})
        turn = Grant(taken.id, taken.attempt).turn
        return self._packed(taken.path, {"turn": turn, "owner": taken.owner, "window": window_ms})

    async def _script(self, name: str, path: str, **arg: Any) -> Any:
        given = {key: value for key, value in arg.items() if value is not None}
        return await self._link.script(f"queue/{name}", tag_of(path), self._packed(path, given))

    def _packed(self, path: str, arg: dict[str, Any]) -> bytes:
        """A script's packed map, with *arg*, which is used up."""
        arg["now"] = self._now_ms() if self._now_ms else 0
        arg["path"] = path
        arg["cap"] = self._limit(path) or False
        arg["claim"] = self._claim_ms
        return pack(arg)


def _again(requeued: Task) -> dict[str, Any]:
    turn = Turn.of(requeued)
    return {"next": turn.grant.turn, "queued_at": turn.queued_ms, "priority": turn.priority}


def _served_ms(task: Task) -> int | None:
    """How long the backend took for a task that it completed."""
    if task.state is not State.COMPLETED:
        return None
    starts = (event.at_ms for event in reversed(task.history) if event.state is State.DISPATCHED)
    started_ms = next(starts, None)
    return None if started_ms is None else task.updated_ms - started_ms


def taken_of(reply: list[Any]) -> Taken | Full | Draining:
    if reply[0] == b"full":
        return Full(_seconds(reply[1]))
    return Draining() if reply[0] == b"draining" else Taken(granted_of(reply[1:]), _place(reply[3]))


def granted_of(reply: list[Any]) -> Granted:
    return Granted([Grant.of(turn.decode()) for turn in reply[0]], _seconds(reply[1]))


def _place(reply: list[Any] | None) -> QueuePlace | None:
    return QueuePlace(reply[0], reply[1], _seconds(reply[2])) if reply else None


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000
