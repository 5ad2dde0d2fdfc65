"""The endpoint paths whose model services fence their reports: they name the attempt, or send heartbeats.

If nothing is heard of such a service, it is dead. A legacy one may be at work, so its tasks get longer leases.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from shared.store.arguments import Clock, now_of
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, to_ms

log = logging.getLogger("task_backbone")

KEPT_S: Final = 30 * 86400.0
"""How long a path is remembered after the last report of this kind."""
_NOTE_AGAIN_S: Final = 86400.0
_TRY_AGAIN_S: Final = 60.0
_MOST_PATHS: Final = 10_000
"""How many paths a process keeps in mind. Then it begins again."""


class FencedPaths:
    """Each process notes a path once a day. All partitions have the note: a task's lease is set where the task is."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms
        self._note_again_at: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    def note(self, path: str) -> None:
        """Note that a service at *path* fences its reports. Does not wait: a report must not wait for other nodes."""
        now = time.monotonic()
        if self._note_again_at.get(path, 0.0) > now:
            return
        if len(self._note_again_at) >= _MOST_PATHS:
            self._note_again_at.clear()
        self._note_again_at[path] = now + _NOTE_AGAIN_S
        note = asyncio.get_running_loop().create_task(self._note(path))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def aclose(self) -> None:
        for note in self._notes:
            note.cancel()
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _note(self, path: str) -> None:
        arguments = str(now_of(self._now_ms)), path, str(to_ms(KEPT_S))
        try:
            await asyncio.gather(*(self._link.script("task/note_fenced", tag, *arguments) for tag in HASH_TAGS))
        except StoreUnavailable as error:
            self._note_again_at[path] = time.monotonic() + _TRY_AGAIN_S
            log.warning("it could not be noted that a model service fences its reports, and will be: %s", error)
