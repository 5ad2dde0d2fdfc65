"""What reads many tasks at once: lists and counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from shared.store.arguments import Clock, ListArgument, now_of
from shared.store.record_codec import unpack_task
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, pack
from shared.tasks.task import State, Task

LIST_READ_LIMIT: Final = 250
"""How many index entries a page reads at most in each partition, unless its limit is higher."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tasks of one endpoint path are in each state, and how long the oldest has waited."""

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
class ListCursor:
    """A task's place in lists, which go by the time of creation, and among equals by the id."""

    created_ms: int
    id: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Which tasks to list, and how many; ``before`` is where the last page ended."""

    limit: int
    path: str | None = None
    state: State | None = None
    owner: str | None = None
    before: ListCursor | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first; ``next`` is None on the last page. A page that is not the last may have fewer tasks
    than its limit, even none: how many a filter skips is bounded."""

    tasks: list[Task]
    next: ListCursor | None


class Queries:
    """Lists and counts over all partitions."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def depths(self, path: str | None = None) -> dict[str, Depth]:
        """Queue depths by endpoint path, or of one path. Costs by the number of paths, not of tasks."""
        now = str(now_of(self._now_ms))
        parts = await asyncio.gather(*(self._link.script("task/depths", tag, now, path or "") for tag in HASH_TAGS))
        depths: dict[str, Depth] = {path: Depth()} if path else {}
        for row in (row for part in parts for row in part):
            name = row[0].decode()
            depths[name] = depths.get(name, Depth()).plus(Depth(*row[1:]))
        return depths

    async def page(self, listing: Listing) -> Page:
        """A page of tasks, newest first. Paging meets every task that exists all the while exactly once, whatever
        else comes, goes or changes meanwhile."""
        argument: ListArgument = {"limit": listing.limit, "look": max(LIST_READ_LIMIT, listing.limit)}
        if listing.path:
            argument["path"] = listing.path
        if listing.state:
            argument["state"] = listing.state
        if listing.owner:
            argument["owner"] = listing.owner
        if listing.before:
            argument["before"] = (listing.before.created_ms, listing.before.id)
        packed = pack(argument)
        parts = await asyncio.gather(*(self._link.script("task/list", tag, packed) for tag in HASH_TAGS))
        found = sorted(
            ((ListCursor(row[0], row[1].decode()), row[2]) for rows, _ in parts for row in rows), reverse=True
        )
        # A partition that stopped early says nothing of what lies beyond its stop, so the page ends at the newest
        # stop.
        known_to = max((ListCursor(stop[0], stop[1].decode()) for _, stop in parts if stop), default=None)
        tasks = [
            (cursor, unpack_task(cursor.id, raw)) for cursor, raw in found if known_to is None or cursor >= known_to
        ]
        if len(tasks) > listing.limit:
            tasks = tasks[: listing.limit]
            known_to = tasks[-1][0]
        return Page([task for _, task in tasks], known_to)
