"""What reads many tasks at once: lists and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.store.arguments import Clock, ListArgument, now_of
from shared.store.record_codec import readable_task
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, by_tag, pack, texts, unpack
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import State, Task

LIST_READ_LIMIT: Final = 250
"""How many index entries a page reads in each partition, unless its limit is higher. If the filter has to read
records, a few more: the rest of the last one's millisecond."""
PAGE_BYTES: Final = 2_000_000
"""A page ends with the task whose record brings it to this size: a status text may have 65,000 characters."""

_PATHS_AT_ONCE: Final = 200
"""How many paths one script counts: no other call waits for more than these."""
_ENDED_PATHS_LOOKED_AT: Final = 16


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
    oldest_since_ms: int = field(default=0, compare=False)
    """Since when: the same by another measure. 0 if none waits."""
    delayed: int = 0
    """How many have yet to start. These are not among the ``created`` ones."""

    @property
    def is_open(self) -> bool:
        """Whether any task has not ended."""
        return self.created + self.dispatched + self.running > 0

    def plus(self, other: Depth) -> Depth:
        return Depth(
            self.created + other.created,
            self.dispatched + other.dispatched,
            self.running + other.running,
            self.completed + other.completed,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            max(self.oldest_waiting_ms, other.oldest_waiting_ms),
            min(self.oldest_since_ms or other.oldest_since_ms, other.oldest_since_ms or self.oldest_since_ms),
            self.delayed + other.delayed,
        )


@dataclass(frozen=True, slots=True, order=True)
class ListCursor:
    """A place in lists, which go by the time of creation, and among equals by the id: a task's, or with an empty id
    the end of a millisecond."""

    created_ms: int
    id: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Which tasks to list, and how many.

    Attributes:
        states: empty: any.
        delayed: only those that have yet to start.
        hides_others: whether who asks must not learn how many tasks other owners have.
        before: where the last page ended.
        since_ms, until_ms: created at or after the one, and before the other.
        text: what their id, path or status text has in it, whatever the case of ASCII letters; empty: anything.
        attempts: how many they have had, at least.
    """

    limit: int
    path: str | None = None
    states: Sequence[State] = ()
    delayed: bool = False
    owner: str | None = None
    before: ListCursor | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    text: str = ""
    attempts: int = 1
    hides_others: bool = False

    @property
    def sought(self) -> bytes:
        """The text in UTF-8, in lower case, as a script has it."""
        return self.text.encode(errors="replace").lower()

    @property
    def begin(self) -> ListCursor | None:
        """Before which place the page begins."""
        if self.until_ms is None:
            return self.before
        end = ListCursor(self.until_ms, "")
        return end if self.before is None else min(self.before, end)

    def takes(self, task: Task) -> bool:
        """Whether a task is one of those, but for its path."""
        return (
            self.owner in (None, "", task.owner)
            and (not self.states or task.state in self.states)
            and (not self.delayed or task.is_delayed)
            and task.attempt >= self.attempts
            and (self.since_ms is None or task.created_ms >= self.since_ms)
            and (self.until_ms is None or task.created_ms < self.until_ms)
            and (not self.text or self._is_in(task))
        )

    def _is_in(self, task: Task) -> bool:
        texts = (task.id, task.path, task.status)
        return any(self.sought in text.encode(errors="surrogateescape").lower() for text in texts)


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first; ``next`` is None on the last page. A page that is not the last may have fewer tasks
    than its limit, even none: how many a filter skips is bounded.

    Attributes:
        looked: how many tasks the page goes past: those that it has, and those between them that the filter skipped.
    """

    tasks: list[Task]
    next: ListCursor | None
    looked: int


class Queries:
    """Lists and counts over all partitions."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def paths(self, *, has_open: bool = False) -> set[str]:
        """The endpoint paths that have tasks.

        Args:
            has_open: without those that are known to have none but tasks that have ended.
        """
        return await self._paths("task/paths", "1" if has_open else "")

    async def paths_with_settings(self) -> set[str]:
        """The endpoint paths that have settings of an operator."""
        return await self._paths("queue/paths_with_settings")

    async def set_ended_paths_aside(self) -> set[str]:
        """The endpoint paths that have tasks that have not ended. The others cost the next call nothing."""
        return await self._paths("task/open_paths", str(_ENDED_PATHS_LOOKED_AT))

    async def depths(self, *paths: str) -> dict[str, Depth]:
        """Queue depths by endpoint path: of these, or of all that have tasks. Costs by the number of paths, not of
        tasks."""
        asked = paths or sorted(await self.paths())
        depths: dict[str, Depth] = dict.fromkeys(asked, Depth())
        now = str(now_of(self._now_ms))
        for start in range(0, len(asked), _PATHS_AT_ONCE):
            some = asked[start : start + _PATHS_AT_ONCE]
            parts = await asyncio.gather(*(self._link.script("task/depths", tag, now, *some) for tag in HASH_TAGS))
            for row in (row for part in parts for row in part):
                name = row[0].decode()
                depths[name] = depths[name].plus(Depth(*row[1:]))
        return depths if paths else {path: depth for path, depth in depths.items() if depth != Depth()}

    async def _paths(self, script: str, *args: str) -> set[str]:
        parts = await asyncio.gather(*(self._link.script(script, tag, *args) for tag in HASH_TAGS))
        return texts(path for part in parts for path in part)

    async def page(self, listing: Listing) -> Page:
        """A page of tasks, newest first. Paging meets every task that exists all the while exactly once, whatever
        else comes, goes or changes meanwhile."""
        argument: ListArgument = {"limit": listing.limit, "look": max(LIST_READ_LIMIT, listing.limit)}
        if listing.path:
            argument["path"] = listing.path
        if listing.delayed:
            argument["states"] = ["delayed"]
        elif listing.states:
            argument["states"] = [*listing.states]
        if listing.owner:
            argument["owner"] = listing.owner
            argument["hides"] = listing.hides_others
        if (begin := listing.begin) is not None:
            argument["before"] = (begin.created_ms, begin.id)
        if listing.since_ms is not None:
            argument["since"] = listing.since_ms
        if listing.text:
            argument["text"] = listing.sought
        if listing.attempts > 1:
            argument["attempts"] = listing.attempts
        packed = pack(argument)
        parts = await asyncio.gather(*(self._link.script("task/list", tag, packed) for tag in HASH_TAGS))
        found = sorted(
            ((ListCursor(row[0], row[1].decode()), row[2]) for rows, *_ in parts for row in rows), reverse=True
        )
        # A partition that stopped early says nothing of what lies beyond its stop, so the page ends at the newest
        # stop.
        known_to = max((ListCursor(stop[0], stop[1].decode()) for _, stop, _ in parts if stop), default=None)
        shown: list[ListCursor] = []
        size_bytes = 0
        for cursor, record_bytes in found:
            if known_to is not None and cursor < known_to:
                break
            if len(shown) == listing.limit or size_bytes >= PAGE_BYTES:
                known_to = shown[-1]
                break
            shown.append(cursor)
            size_bytes += record_bytes
        skipped = [ms for *_, packed in parts for ms in unpack(packed)]
        if known_to is not None:
            skipped = [ms for ms in skipped if ms >= known_to.created_ms]
        return Page(await self._tasks(shown, listing), known_to, len(shown) + len(skipped))

    async def _tasks(self, shown: list[ListCursor], listing: Listing) -> list[Task]:
        """The tasks at places of a list, without those that have gone, or do not belong there any more."""
        records = await self._records(cursor.id for cursor in shown)
        tasks = (readable_task(cursor.id, records[cursor.id]) for cursor in shown if records[cursor.id])
        return [task for task in tasks if task and listing.takes(task)]

    async def owners_of(self, grants: Collection[SlotGrant]) -> dict[SlotGrant, str]:
        """Whose the attempts are, of those whose tasks are there."""
        records = await self._records(grant.task_id for grant in grants)
        tasks = {grant: readable_task(grant.task_id, records[grant.task_id]) for grant in grants}
        return {grant: task.owner for grant, task in tasks.items() if task}

    async def _records(self, task_ids: Iterable[str]) -> dict[str, Any]:
        ids = by_tag(task_ids)
        parts = await asyncio.gather(*(self._link.script("task/records", tag, *ids[tag]) for tag in ids))
        return {
            task_id: raw
            for tag, part in zip(ids, parts, strict=True)
            for task_id, raw in zip(ids[tag], part, strict=True)
        }
