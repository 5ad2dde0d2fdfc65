"""The callbacks of one Redis: which destinations are to be told something of which tasks, and what came of it.

What a task's end leads to is written with the end itself, by the script that takes that step. ``lua/callback/`` has
the scripts of what follows, with what they take and return.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NotRequired, TypedDict

from shared.store.arguments import Clock, Stamp, now_of, seed, stamp
from shared.store.following import Following
from shared.store.record_codec import readable_task
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, NOT_PACKED, PARTITIONS, pack, partition, tag_of, to_ms, unpack
from shared.tasks.callback import CallbackMessage
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

CLAIM_S: Final = 60.0
"""Within which a destination answers, and its answer is recorded. Then somebody else may send the same again."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 3600.0
_LOOKED_AT: Final = 64
"""At how many tasks of a partition it is looked at a time whether anything of their callbacks was lost."""
_RESENT_AT_ONCE: Final = 250
_TAG: Final = HASH_TAGS[0]
"""Of the partition that knows how the destinations have answered."""

Settled = Literal["delivered", "gone", "retry"]
"""What came of a try: the destination took it; it says that there is none any more; it is tried again."""


class _LookArgument(TypedDict):
    now: int
    names: Sequence[str]
    limit: int


class _ClaimArgument(Stamp):
    window: int
    name: str
    id: str


class _RecordArgument(TypedDict):
    now: int
    op: int
    id: str
    number: int
    what: Settled
    answer: str
    least: int
    base: int
    cap: int
    seed: int


class _ResendArgument(TypedDict):
    now: int
    name: str
    limit: int
    since: int
    id: NotRequired[str]
    owner: NotRequired[str]


class _NoteArgument(TypedDict):
    now: int
    name: str
    answer: str
    ok: bool


@dataclass(frozen=True, slots=True)
class ClaimedCallback:
    """A message that this process is to send, and nobody else meanwhile."""

    task: Task
    message: CallbackMessage
    claim: int
    """By which the claim is known."""


@dataclass(frozen=True, slots=True)
class DestinationState:
    """How a destination stands.

    Attributes:
        waiting: of how many tasks it is to be told something.
        given_up: of how many tasks, that are still kept, it was given up to tell it.
        failing_since_ms: None while it takes what it is told.
    """

    waiting: int
    given_up: int
    last_answer: str | None
    last_tried_ms: int | None
    failing_since_ms: int | None


class Callbacks(Following):
    """One per event loop. ``wake`` has :meth:`look_in` called, and what it finds sent.

    Raises :class:`StoreUnavailable` from every method if Redis does not answer; to repeat a step is safe.
    """

    def __init__(self, link: RedisLink, now_ms: Clock | None = None, *, interval_s: float = 5) -> None:
        super().__init__(interval_s)
        self._link = link
        self._now_ms = now_ms

    @staticmethod
    def partition_of(task_id: str) -> int:
        """Where lies what is to be told of a task."""
        return partition(task_id)

    async def look_everywhere(self, names: Sequence[str]) -> dict[str, set[int]]:
        """In which partitions there is something to send now to each of the destinations, of those whose node
        answers. This process follows what is to be sent from there."""
        looks = (self._look(number, names) for number in range(PARTITIONS))
        due: dict[str, set[int]] = {}
        for number, found in enumerate(await asyncio.gather(*looks, return_exceptions=True)):
            if isinstance(found, StoreUnavailable):
                continue
            if isinstance(found, BaseException):
                raise found
            told, next_in_s = found
            self.learn(number, next_in_s)
            for name in told:
                due.setdefault(name, set()).add(number)
        return due

    async def look_in(self, number: int, names: Sequence[str]) -> list[str]:
        """To which of the destinations there is something to send now from a partition."""
        try:
            found, next_in_s = await self._look(number, names)
        except StoreUnavailable as error:
            log.warning("what destinations are to be told could not be found, and will be: %s", error)
            self._look_again(number)
            return []
        self._go_on(number, next_in_s)
        return found

    async def due(self, name: str, number: int, limit: int) -> list[str]:
        """Of which tasks of a partition a destination is to be told something now, *limit* of them at most."""
        now = str(now_of(self._now_ms))
        ids: list[bytes] = await self._link.script("callback/due", HASH_TAGS[number], now, name, str(limit))
        return [task_id.decode(errors="replace") for task_id in ids]

    async def claim(self, name: str, task_id: str) -> tuple[ClaimedCallback | None, bool]:
        """Claim what a task has to send to its destination now.

        Returns:
            What this process is to send; None: nothing, or somebody else sends it. And whether anything was given up.
        """
        argument: _ClaimArgument = {
            "window": to_ms(CLAIM_S),
            "name": name,
            "id": task_id,
            **stamp(self._now_ms),
        }
        raw, given_up, in_ms = await self._link.script("callback/claim", tag_of(task_id), pack(argument))
        if in_ms >= 0:
            self._wake(partition(task_id), in_ms / 1000)
        task = None if raw is None else readable_task(task_id, raw)
        if task is None or task.callback is None or not task.callback.waiting:
            return None, given_up == 1
        return ClaimedCallback(task, task.callback.waiting[0], argument["op"]), given_up == 1

    async def record(
        self, claimed: ClaimedCallback, what: Settled, answer: str = "", *, least_s: float = 0
    ) -> float | None:
        """Record what came of a try. If there is something to send soon, this process wakes for it.

        Args:
            answer: a status or a word.
            least_s: how long it is not tried again, at least.

        Returns:
            In how many seconds the task has something to send next; None: nothing, or it is somebody else's affair.
        """
        argument: _RecordArgument = {
            "now": now_of(self._now_ms),
            "op": claimed.claim,
            "id": claimed.task.id,
            "number": claimed.message.number,
            "what": what,
            "answer": answer,
            "least": to_ms(least_s),
            "base": to_ms(FIRST_PAUSE_S),
            "cap": to_ms(LONGEST_PAUSE_S),
            "seed": seed(),
        }
        in_ms = await self._link.script("callback/record", tag_of(claimed.task.id), pack(argument))
        if in_ms < 0:
            return None
        if in_ms > 0:
            self._wake(partition(claimed.task.id), in_ms / 1000)
        return in_ms / 1000

    async def note(self, name: str, answer: str, *, ok: bool) -> None:
        """Note how a destination has answered, for :meth:`state`."""
        argument: _NoteArgument = {"now": now_of(self._now_ms), "name": name, "answer": answer, "ok": ok}
        await self._link.script("callback/note", _TAG, pack(argument))

    async def state(self, name: str) -> DestinationState:
        *counts, raw = await asyncio.gather(
            *(self._link.script("callback/counts", tag, name) for tag in HASH_TAGS),
            self._link.script("callback/state", _TAG, name),
        )
        waiting, given_up = (sum(column) for column in zip(*counts, strict=True))
        try:
            answer, tried_ms, failing_ms = unpack(raw) if raw else (None, None, None)
        except (TypeError, *NOT_PACKED):  # somebody else has written it
            answer, tried_ms, failing_ms = None, None, None
        return DestinationState(waiting, given_up, answer, tried_ms, failing_ms or None)

    async def resend(self, name: str, task_id: str, owner: str | None = None) -> int | None:
        """Have a destination told again how a task has ended last.

        Returns:
            1; 0 if it has not ended, or the destination does not want to know such an end; None if the *owner* (None:
            anybody) has no such task, or it has another destination.
        """
        count, _ = await self._resend(tag_of(task_id), {**self._resending(name), "id": task_id}, owner)
        return None if count < 0 else count

    async def resend_given_up(self, name: str, since_ms: int = 0) -> int:
        """Have a destination told again of those tasks of which it was given up to tell it, since a time. Returns how
        many these are."""

        async def resend(tag: str) -> int:
            total = 0
            while True:
                count, looked_at = await self._resend(tag, {**self._resending(name), "since": since_ms}, None)
                total += count
                if looked_at < _RESENT_AT_ONCE:
                    return total

        return sum(await asyncio.gather(*map(resend, HASH_TAGS)))

    async def _look(self, number: int, names: Sequence[str]) -> tuple[list[str], float | None]:
        """To whom there is something to send now, and after how long there is more; None: nothing is known of."""
        argument: _LookArgument = {"now": now_of(self._now_ms), "names": names, "limit": _LOOKED_AT}
        found, next_in_ms = await self._link.script("callback/look", HASH_TAGS[number], pack(argument))
        return [name.decode() for name in found], None if next_in_ms < 0 else next_in_ms / 1000

    async def _resend(self, tag: str, argument: _ResendArgument, owner: str | None) -> tuple[int, int]:
        if owner is not None:
            argument["owner"] = owner
        count, looked_at = await self._link.script("callback/resend", tag, pack(argument))
        return count, looked_at

    def _resending(self, name: str) -> _ResendArgument:
        return {"now": now_of(self._now_ms), "name": name, "limit": _RESENT_AT_ONCE, "since": 0}
