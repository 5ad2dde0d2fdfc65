"""One wait for many tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cache_manager.task_service import TaskService
from shared.http.conditional import matches
from shared.store import Seen
from shared.tasks.task import Task

MOST_STATUS_CHARS: Final = 1024 * 1024
"""Of all tasks in one answer, but for the first: the next answer has the others."""
_AT_ONCE: Final = 20
"""How many tasks are looked at at a time: their records may be large."""
_GATHERED_S: Final = 0.05
"""What changes so soon after the first is told with it."""


@dataclass(slots=True)
class News:
    """What is to be told.

    Attributes:
        tasks: by id, those that have changed or ended; None: there is no such task.
        is_cut: whether the wait had to make room for another one before its time was up.
    """

    tasks: dict[str, Task | None] = field(default_factory=dict[str, "Task | None"])
    is_cut: bool = False
    _status_chars: int = 0

    def add(self, task_id: str, task: Task | None) -> None:
        """Take one more, if there is room. One for which there is none is told as soon as it is asked for again."""
        chars = 0 if task is None else len(task.status)
        if not self._status_chars or self._status_chars + chars <= MOST_STATUS_CHARS:
            self.tasks[task_id] = task
            self._status_chars += chars


@dataclass(frozen=True, slots=True)
class ManyWaits:
    service: TaskService

    async def wait(self, ids: Sequence[str], known: Mapping[str, str], seconds: float, *, for_any: bool) -> News:
        """What has become of the tasks, once one of them has changed or ended, or once all have ended; or as it is
        when the time is up, or when the wait makes room for another one. It is one of the process' waits, however
        many tasks there are.

        Args:
            known: by id, the ETag of those tasks of which the caller has one.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        news = News()
        unfinished = await self._look(ids, known, news)
        if not unfinished or not seconds or (for_any and news.tasks):
            return news
        waits = [asyncio.ensure_future(self._wait(each, seen, for_any)) for each, seen in unfinished.items()]
        client = self.service.owner or self.service.client
        try:
            async with self.service.services.limits.wait(client, seconds) as wait:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED if for_any else asyncio.ALL_COMPLETED)
                await asyncio.sleep(_GATHERED_S if for_any else 0)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        news.is_cut = wait.is_cut
        for task_id, each in zip(unfinished, waits, strict=True):
            if not each.cancelled():
                news.add(task_id, self._own(each.result()))
        if not for_any:  # the time was up
            left = {task_id: seen for task_id, seen in unfinished.items() if task_id not in news.tasks}
            await self._look_again(left, news)
        return news

    async def _wait(self, task_id: str, seen: Seen, for_any: bool) -> Task | None:
        return await self.service.services.store.wait_since(task_id, seen, lambda task: for_any)

    async def _look(self, ids: Sequence[str], known: Mapping[str, str], news: News) -> dict[str, Seen]:
        """Add what is to be told now. Returns what has been seen of the tasks that have not ended."""
        unfinished: dict[str, Seen] = {}
        for some in _parted(ids):
            for task_id, task in zip(some, await asyncio.gather(*map(self.service.find, some)), strict=True):
                etag = known.get(task_id)
                if task is None or task.state.is_terminal or (etag is not None and not matches(etag, task.etag)):
                    news.add(task_id, task)
                if task is not None and not task.state.is_terminal:
                    unfinished[task_id] = Seen.of(task)
        return unfinished

    async def _look_again(self, seen: Mapping[str, Seen], news: News) -> None:
        for some in _parted([*seen]):
            for task_id, task in zip(some, await asyncio.gather(*map(self.service.find, some)), strict=True):
                if task is None or Seen.of(task).shown != seen[task_id].shown:
                    news.add(task_id, task)

    def _own(self, task: Task | None) -> Task | None:
        """None if another owner has taken the id meanwhile."""
        owner = self.service.owner
        return None if task is None or (owner is not None and task.owner != owner) else task


def _parted(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[begin : begin + _AT_ONCE] for begin in range(0, len(ids), _AT_ONCE)]
