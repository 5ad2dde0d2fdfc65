"""How a task comes to be: each way is one script and one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.store.arguments import Clock, CreateArgument, stamp
from shared.store.policy import StorePolicy
from shared.store.queue_replies import enqueued_of
from shared.store.queue_steps import QueueSteps
from shared.store.record_codec import BRIEF_CHARS, expiry, new_record, packed_step
from shared.store.redis.link import NotAcknowledged, RedisLink, StoreUnavailable
from shared.store.redis.partitions import pack, tag_of, to_ms
from shared.store.replies import created_task, existing
from shared.tasks.outcomes import BatchRefused, Created, Draining, Enqueued, Existing, Full, Granted, TooLate
from shared.tasks.task import Actor, NewTask


class CreateSteps:
    """The scripts that create tasks.

    Args:
        queues: the queues in which tasks are enqueued by the same script, if one server has all partitions.
    """

    def __init__(
        self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None, queues: QueueSteps | None = None
    ) -> None:
        self._link = link
        self._now_ms = now_ms
        self._queues = queues
        self._retention_ms = to_ms(policy.retention_s)
        self._republish_ms = to_ms(policy.republish_s)

    async def create(self, new: NewTask) -> Created | Existing | TooLate:
        """Store a task with its body and deadline. From here it is safe."""
        try:
            reply = await self._link.script("task/create", tag_of(new.id), *self._create(new))
        except NotAcknowledged as error:
            error.outcome = _created(new, error.reply)
            raise
        return _created(new, reply)

    async def create_and_enqueue(self, new: NewTask) -> Created | Existing | Full | Draining | None:
        """Store a task and let it wait in its endpoint's queue, unless the queue refuses it.

        None if several servers have the partitions: nothing was done.
        """
        if self._queues is None:
            return None
        task_tag, path_tag = tag_of(new.id).encode(), tag_of(new.path).encode()
        enqueue = self._queues.enqueue_argument(new.path)
        try:
            reply = await self._link.combined("create_and_enqueue", task_tag, *self._create(new), path_tag, enqueue)
        except NotAcknowledged as error:
            error.granted = _granted_by(_created_and_enqueued(new, error.reply))
            raise
        return None if reply is None else _created_and_enqueued(new, reply)

    def packed_each(self, news: Sequence[NewTask]) -> Sequence[bytes] | None:
        """What :meth:`create_each_and_enqueue` sends. None if several servers have the partitions."""
        if self._queues is None or self._link.is_clustered:
            return None
        paths = {new.path for new in news}
        queues = {path: (tag_of(path).encode(), self._queues.enqueue_argument(path)) for path in paths}
        packed: list[bytes] = []
        for new in news:
            packed += tag_of(new.id).encode(), *self._create(new), *queues[new.path]
        return packed

    async def create_each_and_enqueue(self, news: Sequence[NewTask], packed: Sequence[bytes]) -> list[Any] | None:
        """As :meth:`create_and_enqueue` of each, in their order, in one round trip. Returns the reply to each, for
        :func:`create_outcome`, or its error.

        None if several servers have the partitions: nothing was done.
        """
        try:
            return await self._link.combined_steps("create_and_enqueue", *packed)
        except NotAcknowledged as error:
            error.granted = [
                granted
                for new, reply in zip(news, error.reply, strict=True)
                if not isinstance(reply, Exception)
                for granted in _granted_by(create_outcome(new, reply))
            ]
            raise

    async def create_child(
        self, new: NewTask, registration: tuple[bytes, bytes]
    ) -> Created | Existing | Full | Draining | BatchRefused | None:
        """As :meth:`create_and_enqueue`, and register the task at its batch, unless either refuses it.

        Args:
            registration: see ``combined/create_child``.
        """
        if self._queues is None:
            return None
        task_tag, path_tag = tag_of(new.id).encode(), tag_of(new.path).encode()
        enqueue = self._queues.enqueue_argument(new.path)
        try:
            reply = await self._link.combined(
                "create_child", task_tag, *self._create(new), path_tag, enqueue, *registration
            )
        except NotAcknowledged as error:
            error.granted = _granted_by(_created_child(new, error.reply))
            raise
        return None if reply is None else _created_child(new, reply)

    async def withdraw(self, task_id: str) -> bool:
        """Remove a task that was created a moment ago and that its queue refused, unless a repetition of the create
        was informed of it. Returns whether it is gone."""
        return bool(await self._link.script("task/withdraw", tag_of(task_id), task_id))

    def _create(self, new: NewTask) -> tuple[bytes, bytes]:
        argument: CreateArgument = {
            "id": new.id,
            "rec": new_record(new),
            # Nobody can retry a task that the backbone does not dispatch: only a very long silence ends it.
            "due_in": self._republish_ms if new.dispatch_requested else self._retention_ms,
            "actor": Actor.CLIENT,
            "brief": new.status[:BRIEF_CHARS],
            **stamp(self._now_ms),
        }
        if new.steps:
            argument["steps"] = [self._republish_ms, *map(packed_step, new.steps)]
        if new.by is not None:
            argument["by"] = new.by
        if new.create_until_ms is not None:
            argument["until"] = new.create_until_ms
        if (start := new.timing.start) is not None:
            argument["start_in" if start.since == "create" else "start_at"] = start.ms
        if (expires := expiry(new)) is not None:
            argument["expires"] = expires
        return pack(argument), new.inline_body if new.body and not new.body.blob else b""


def _created(new: NewTask, reply: list[Any]) -> Created | Existing | TooLate:
    kind, *more = reply
    if kind == b"late":
        return TooLate()
    (stored,) = more
    task = created_task(new, stored)
    return existing(task) if kind == b"exists" else Created(task)


def create_outcome(new: NewTask, reply: list[Any]) -> Created | Existing | Full | Draining | StoreUnavailable:
    """What one of several tasks has come to."""
    try:
        return _created_and_enqueued(new, reply)
    except StoreUnavailable as error:
        return error


def _created_child(new: NewTask, reply: list[Any]) -> Created | Existing | Full | Draining | BatchRefused:
    if reply[0][0] == b"refused":
        return BatchRefused(reply[0][1].decode())
    return _created_and_enqueued(new, reply)


def _granted_by(
    created: Created | Existing | Full | Draining | BatchRefused | StoreUnavailable,
) -> Sequence[Granted]:
    return created.granted if isinstance(created, (Created, Existing)) else ()


def _created_and_enqueued(new: NewTask, reply: list[Any]) -> Created | Existing | Full | Draining:
    (kind, stored), enqueued_reply = reply
    task = created_task(new, stored)
    if kind == b"exists":
        return existing(task)
    enqueued = enqueued_of(new.path, enqueued_reply)
    if isinstance(enqueued, Enqueued):
        return Created(task, enqueued.position, (enqueued.granted,))
    return enqueued
