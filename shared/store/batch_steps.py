"""The steps of a batch's life, each one script and one round trip. ``lua/batch/`` has the scripts, with what they
take and return.

A batch and its children lie in different partitions. A child is registered at its batch before it is created. What
becomes of it is reported to the batch afterwards, as often as necessary.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self, cast

from shared.store.arguments import (
    BatchArgument,
    BatchUpkeep,
    ChildrenArgument,
    Clock,
    CreateBatchArgument,
    EraseArgument,
    RegisterArgument,
    RegistrationArgument,
    now_of,
    stamp,
)
from shared.store.policy import StorePolicy
from shared.store.record_codec import new_batch_record, unpack_task
from shared.store.redis.link import NotAcknowledged, RedisLink
from shared.store.redis.partitions import by_tag, pack, tag_of, to_ms
from shared.store.replies import existing, outcome_of
from shared.store.together import Together
from shared.store.upkeep_steps import BLOB_GRACE_S
from shared.tasks import status_texts
from shared.tasks.outcomes import BatchRefused, Created, Existing, Outcome, Refusal, Refused
from shared.tasks.task import Actor, NewBatch, NewTask, State, Task

MOST_CHILDREN: Final = 10_000
REGISTRATION_S: Final = 15.0
"""Within which a registered child is created."""
REGISTRATION_GRACE_S: Final = 30.0
"""After which it is checked at the earliest whether it was. The clocks of two nodes of a cluster may differ by less
than the time between."""
LOOK_S: Final = 3600.0
"""How often a batch looks for what became of children of which it hears nothing."""
AGAIN_S: Final = 30.0
"""When it is gone on with what was begun with a batch, if whoever began it has died."""
CHILDREN_AT_ONCE: Final = 250
"""How many children one step reads or changes."""

News = State | Literal["dropped", "unreplayable", "begun"]
"""What became of a child: as ``lua/batch/report.lua`` says, or the state that it has come to."""
_KNOWN: Final = ("registered", "open", "completed", "failed", "cancelled", "again")
"""What ``lua/includes/batch/children.lua`` calls what is known of a child, by its number."""


def then_task_id(batch_id: str, nth: int) -> str:
    """The id of a batch's Then task, as ``lua/includes/batch/settle.lua`` makes it."""
    return str(uuid.UUID(hashlib.sha1(f"then {nth} {batch_id}".encode(), usedforsecurity=False).hexdigest()[:32]))


class ChildReport(NamedTuple):
    """What became of a child, as ``lua/batch/report.lua`` says."""

    child_id: str
    number: int
    what: News


class Erased(NamedTuple):
    """What came of the removal of a task."""

    what: Literal["gone", "blobs", "batch", "unfinished", "unreported", "unknown"]
    left: Task | None
    """What is left of one with blobs: their names."""


class ChildEnd(NamedTuple):
    """A change of a child that its batch has to know. It is kept until the batch does."""

    batch_id: str
    child_id: str
    attempt: int
    state: State

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.batch, task.id, task.attempt, task.state)

    @classmethod
    def parse(cls, text: str) -> Self:
        batch_id, child_id, attempt, state = text.split(" ")
        return cls(batch_id, child_id, int(attempt), State(state))

    @property
    def text(self) -> str:
        """As it is kept."""
        return f"{self.batch_id} {self.child_id} {self.attempt} {self.state}"


class Child(NamedTuple):
    """A child as its batch knows it."""

    id: str
    place: int
    """In the order of registration, 1 for the first."""
    known: Literal["registered", "open", "completed", "failed", "cancelled", "again"]
    number: int
    """The attempt that this is known of; of a registered one, which registration it is."""

    @property
    def is_awaited(self) -> bool:
        return self.known in ("registered", "open", "again")


@dataclass(frozen=True, slots=True)
class Registration:
    """A child may be created until then."""

    until_ms: int
    number: int
    """Which registration of the child it is."""


class BatchSteps:
    """The scripts on batches.

    Attributes:
        after_unacknowledged: does what follows from a step that was taken and that its caller hears nothing of.
    """

    def __init__(self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None) -> None:
        self.after_unacknowledged: Callable[[Outcome], object] = lambda outcome: None
        self._link = link
        self._now_ms = now_ms
        self._registrations = Together(self._register, CHILDREN_AT_ONCE)
        upkeep: BatchUpkeep = {
            "again": to_ms(AGAIN_S),
            "grace": to_ms(REGISTRATION_GRACE_S),
            "look": to_ms(LOOK_S),
            "idle": to_ms(policy.batch_idle_s),
            "retention": to_ms(policy.retention_s),
            "completion": to_ms(policy.completion_s),
            "texts": {
                "failed": status_texts.CHILDREN_FAILED,
                "cancelled": status_texts.CHILDREN_CANCELLED,
                "then": status_texts.THEN_ENDED,
            },
        }
        self._packed_upkeep: bytes = pack(upkeep)
        self._idle_ms = upkeep["idle"]

    async def create(self, new: NewBatch) -> Created | Existing:
        """Store a batch."""
        argument: CreateBatchArgument = {
            "id": new.id,
            "actor": Actor.CLIENT,
            "brief": State.CREATED.value,
            "idle": self._idle_ms,
            "look": to_ms(LOOK_S),
            "rec": new_batch_record(new),
            **stamp(self._now_ms),
        }
        kind, stored = await self._link.script("batch/create", tag_of(new.id), pack(argument))
        task = unpack_task(new.id, stored)
        return existing(task) if kind == b"exists" else Created(task)

    async def register(self, batch_id: str, child_id: str, owner: str) -> Registration | BatchRefused:
        """Register a child at its batch, before it is created. Registrations of the same moment share a script."""
        return await self._registrations.ask(batch_id, (child_id, owner))

    async def _register(
        self, batch_id: str, children: Sequence[tuple[str, str]]
    ) -> Sequence[Registration | BatchRefused]:
        argument: RegisterArgument = {**self._argument(batch_id), "children": children, "most": MOST_CHILDREN}
        now, replies = await self._link.script("batch/register", tag_of(batch_id), pack(argument))
        until_ms = now + to_ms(REGISTRATION_S)
        return [
            Registration(until_ms, reply) if isinstance(reply, int) else BatchRefused(reply.decode())
            for reply in replies
        ]

    def registration(self, new: NewTask) -> tuple[bytes, bytes]:
        """What ``combined/create_child`` takes for the registration of a child."""
        argument: RegistrationArgument = {
            **self._argument(new.batch, new.owner),
            "child": new.id,
            "most": MOST_CHILDREN,
        }
        return tag_of(new.batch).encode(), pack(argument)

    async def report_ends(self, batch_id: str, ends: Sequence[ChildEnd]) -> Outcome:
        """Report to a batch what became of its children. They are kept until it knows."""
        reports = [ChildReport(end.child_id, end.attempt, end.state) for end in ends]
        kept: dict[str, list[str]] = {}
        for end in ends:
            kept.setdefault(tag_of(end.child_id), []).append(end.text)
        argument: BatchArgument = {**self._argument(batch_id), "reports": reports}
        tag = tag_of(batch_id).encode()
        reply = await self._link.combined("report_ends", tag, pack(argument), pack(kept))
        if reply is not None:
            return _outcome(batch_id, reply)
        outcome = await self.report(batch_id, reports)
        await asyncio.gather(*(self._link.script("batch/acknowledge", tag, *texts) for tag, texts in kept.items()))
        return outcome

    async def report(self, batch_id: str, reports: Sequence[ChildReport], *, is_refused: bool = False) -> Outcome:
        """Report to a batch what became of its children.

        Args:
            is_refused: whether those that were dropped were just not created; otherwise only old registrations are
                dropped.
        """
        argument = self._argument(batch_id)
        argument["reports"] = [*reports]
        if is_refused:
            argument["is_refused"] = True
        return await self._step("batch/report", argument)

    async def seal(self, batch_id: str, owner: str | None) -> Outcome:
        return await self._step("batch/seal", self._argument(batch_id, owner))

    async def cancel(self, batch_id: str, owner: str | None, by: str | None = None) -> Outcome:
        argument = self._argument(batch_id, owner)
        argument["status"] = status_texts.CANCELLED
        if by is not None:
            argument["by"] = by
        return await self._step("batch/cancel", argument)

    async def replay(self, batch_id: str, owner: str | None, by: str | None = None) -> Outcome:
        argument = self._argument(batch_id, owner)
        if by is not None:
            argument["by"] = by
        argument["op"] = stamp(self._now_ms)["op"]
        return await self._step("batch/replay", argument)

    async def mark_replays(self, batch_id: str) -> Outcome:
        """Mark the next piece of a batch's failed children as to be replayed."""
        argument = self._argument(batch_id)
        argument["limit"] = CHILDREN_AT_ONCE
        return await self._step("batch/mark", argument)

    async def rest(
        self, batch_id: str, *, checked: int | None = None, look_again: bool = False, is_cancelled: bool = False
    ) -> Outcome:
        """Set a batch's next deadline, after what the last one was for."""
        argument = self._argument(batch_id)
        if checked is not None:
            argument["checked"] = checked
        argument["look_again"] = look_again
        argument["is_cancelled"] = is_cancelled
        return await self._step("batch/rest", argument)

    async def children(
        self,
        batch_id: str,
        *,
        owner: str | None = None,
        behind: int | None = None,
        last: int | None = None,
        newest_first: bool = False,
        is_removed: bool = False,
    ) -> tuple[Task, list[Child]] | None:
        """Some of a batch's children, *behind* a place, in the order of registration or against it; and the batch.
        None if there is no such batch of that owner.

        Args:
            last: the place that is the last one to read.
            is_removed: whether the batch is one that is being removed.
        """
        argument: ChildrenArgument = {
            "id": batch_id,
            "limit": CHILDREN_AT_ONCE,
            "newest_first": newest_first,
            "is_removed": is_removed,
        }
        if owner is not None:
            argument["owner"] = owner
        if behind is not None:
            argument["behind"] = behind
        if last is not None:
            argument["last"] = last
        reply = await self._link.script("batch/children", tag_of(batch_id), pack(argument))
        if not reply:
            return None
        raw, rows = reply
        children = [Child(child.decode(), place, _KNOWN[known], number) for child, place, known, number in rows]
        return unpack_task(batch_id, raw), children

    async def forget(self, batch_id: str, child_ids: Iterable[str]) -> None:
        """Forget children of a batch that is being removed."""
        await self._link.script("batch/forget", tag_of(batch_id), batch_id, *child_ids)

    async def erase(
        self, task_ids: Iterable[str], *, owner: str | None = None, batch_id: str | None = None
    ) -> dict[str, Erased]:
        """Remove finished tasks now. What came of it, by their ids.

        Args:
            batch_id: only its children.
        """

        async def erase(tag: str, ids: list[str]) -> list[tuple[str, Erased]]:
            argument: EraseArgument = {"ids": ids, "blob_grace": to_ms(BLOB_GRACE_S), **stamp(self._now_ms)}
            if owner is not None:
                argument["owner"] = owner
            if batch_id is not None:
                argument["batch"] = batch_id
            reply: list[list[Any]] = await self._link.script("task/erase", tag, pack(argument))
            return [(task_id, _erased(task_id, *row)) for task_id, row in zip(ids, reply, strict=True)]

        parts = await asyncio.gather(*(erase(tag, ids) for tag, ids in by_tag(task_ids).items()))
        return dict(found for part in parts for found in part)

    def _argument(self, batch_id: str, owner: str | None = None) -> BatchArgument:
        argument: BatchArgument = {"id": batch_id, "now": now_of(self._now_ms), "after": self._packed_upkeep}
        if owner is not None:
            argument["owner"] = owner
        return argument

    async def _step(self, script: str, argument: BatchArgument) -> Outcome:
        batch_id = argument["id"]
        try:
            return _outcome(batch_id, await self._link.script(script, tag_of(batch_id), pack(argument)))
        except NotAcknowledged as error:
            outcome = _outcome(batch_id, error.reply)
            if isinstance(outcome, Refused):  # it has written nothing
                return outcome
            self.after_unacknowledged(outcome)
            raise


def _outcome(batch_id: str, reply: list[Any]) -> Outcome:
    return Refused(Refusal.UNKNOWN, None) if reply == [b"unknown"] else outcome_of(batch_id, reply)


def _erased(task_id: str, what: bytes, left: bytes | None = None) -> Erased:
    return Erased(cast("Any", what.decode()), None if left is None else unpack_task(task_id, left))
