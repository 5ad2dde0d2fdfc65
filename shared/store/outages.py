"""Which backends are away, and which answer.

A queue knows its own backend's outage, by its path (``lua/includes/queue/outage.lua``). Whether a backend answers at
all is known by its registered prefix: a 404 of one that does is a mistake in the path, and of one that does not an
outage."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from shared.store.arguments import Clock, OutagesArgument, now_of
from shared.store.policy import StorePolicy
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, pack, tag_of, to_ms, unpack
from shared.tasks import status_texts
from shared.tasks.value import value

log = logging.getLogger("task_backbone")

KEPT_S: Final = 86_400.0
"""For how long an outage that is over is remembered, and the answer of a backend."""
_NOTED_AGAIN_S: Final = 600.0


@value
class Outage:
    """The time in which a queue's backend was away. Unix milliseconds.

    Attributes:
        ended_ms: None if the backend is away still.
        cause: a text for callers.
        is_waited_for: whether any task waits or holds a slot in the queue.
    """

    since_ms: int
    ended_ms: int | None
    cause: str
    is_waited_for: bool = True

    @classmethod
    def unpacked(cls, raw: bytes, *, is_waited_for: bool = True) -> Outage:
        since_ms, ended_ms, cause = unpack(raw)
        return cls(since_ms, ended_ms or None, cause, is_waited_for)


def limit_s_if_over(
    outage: Outage, policy: StorePolicy, now_ms: Clock | None, queued_ms: int | None = None
) -> float | None:
    """The longest that a task waits in this outage, if the outage is longer, and the wait of the task that was queued
    at *queued_ms* too; else None."""
    limit_s = policy.max_unregistered_s if outage.cause == status_texts.UNREGISTERED else policy.max_outage_s
    since_ms = max(outage.since_ms, queued_ms or 0)
    waited_ms = (now_of(now_ms) or time.time() * 1000) - since_ms
    return limit_s if outage.ended_ms is None and waited_ms >= to_ms(limit_s) else None


class Outages:
    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms
        self._noted: dict[str, float] = {}

    async def by_path(self) -> dict[str, Outage]:
        """The outages of a day, of all queues whose node answers.

        Raises:
            StoreUnavailable: none does.
        """
        parts = await asyncio.gather(*map(self._of_partition, HASH_TAGS))
        if all(isinstance(part, StoreUnavailable) for part in parts):
            raise StoreUnavailable("no node answers")
        answered = [part for part in parts if not isinstance(part, StoreUnavailable)]
        return {path: outage for part in answered for path, outage in part.items()}

    async def note_answer(self, backend: str) -> None:
        """The backend accepted a task. Most calls cost nothing."""
        now_s = time.monotonic()
        if now_s < self._noted.get(backend, 0):
            return
        self._noted[backend] = now_s + _NOTED_AGAIN_S
        try:
            await self._note(backend, KEPT_S)
        except StoreUnavailable as error:  # a later answer is noted
            self._noted.pop(backend)
            log.warning("could not note that a backend answers: %s", error)

    async def forget_answer(self, backend: str) -> None:
        self._noted.pop(backend, None)
        await self._note(backend, 0)

    async def is_answering(self, backend: str) -> bool:
        """Whether the backend accepted a task lately, at any path, and was not found away since."""
        tag = tag_of(backend)
        return await self._link.get(tag, f"{tag}answers:{backend}") is not None

    async def _note(self, backend: str, kept_s: float) -> None:
        await self._link.script("backend/note", tag_of(backend), backend, str(to_ms(kept_s)))

    async def _of_partition(self, tag: str) -> dict[str, Outage] | StoreUnavailable:
        argument: OutagesArgument = {"now": now_of(self._now_ms), "kept": to_ms(KEPT_S)}
        try:
            rows = await self._link.script("backend/outages", tag, pack(argument))
        except StoreUnavailable as error:
            return error
        return {path.decode(): Outage.unpacked(raw, is_waited_for=bool(waited)) for path, raw, waited in rows}
