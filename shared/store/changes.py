"""How a caller waits for a change: the step that makes it publishes it, and meanwhile nobody asks Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import tag_of
from shared.store.task_steps import TaskSteps, record_key
from shared.tasks.task import Task

_READ_AGAIN_S: Final = 1.0
"""How long after a read that failed the next one follows, if nothing is heard before."""


class Seen(NamedTuple):
    """What has to be kept of a task to find out whether it has changed."""

    version: int
    shown: int
    """A digest of what a caller sees of it, of this process only."""

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.version, hash(_shown(task)))


class Changes:
    """The changes of single tasks."""

    def __init__(self, link: RedisLink, tasks: TaskSteps) -> None:
        self._link = link
        self._tasks = tasks

    async def wait(self, known: Task, is_enough: Callable[[Task], bool]) -> Task | None:
        """See :meth:`TaskStore.wait`."""
        return await self.wait_since(known.id, Seen.of(known), is_enough)

    async def wait_since(self, task_id: str, seen: Seen, is_enough: Callable[[Task], bool]) -> Task | None:
        """See :meth:`TaskStore.wait_since`."""
        async with self._link.listen(tag_of(task_id), record_key(task_id)) as listener:
            version: bytes | None = None
            is_read = True
            while True:
                # First it is heard, and then read: so no change comes between the two.
                try:
                    async with asyncio.timeout(None if is_read else _READ_AGAIN_S):
                        version = await listener.news() or version
                except TimeoutError:
                    pass
                try:
                    now = await self._tasks.get(task_id)
                except StoreUnavailable:
                    is_read = False
                    continue
                if now is None or now.state.is_terminal:
                    return now
                # A message tells of a change even if the next one undid it. Without one, the record has to show it.
                is_announced = version is not None and int(version) > seen.version
                now_seen = Seen.of(now)
                if (is_announced or now_seen.shown != seen.shown) and is_enough(now):
                    return now
                seen, version, is_read = now_seen, None, True


def _shown(task: Task) -> tuple[Any, ...]:
    """All that a caller sees of a task, but for the time of its last change. A step publishes any change of it."""
    text = task.status, task.long_status
    step = task.state.backend_status, task.path, task.query, task.attempt
    children = None if task.children is None else task.children.shown
    return task.created_ms, *step, text, task.progress, task.result, children
