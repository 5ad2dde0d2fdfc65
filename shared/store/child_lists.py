"""The list of a batch's children: the batch has their ids, and each one's partition its record."""

from __future__ import annotations

import asyncio
from typing import Final

from shared.store.batch_steps import CHILDREN_AT_ONCE, BatchSteps
from shared.store.queries import PAGE_BYTES, ListCursor, Listing, Page
from shared.store.task_steps import TaskSteps
from shared.tasks.task import Task

READ_AT_ONCE: Final = 32
"""How many records are read at a time: each may have a status text of 65,000 characters."""


class ChildLists:
    def __init__(self, batches: BatchSteps, tasks: TaskSteps) -> None:
        self._batches = batches
        self._tasks = tasks

    async def page(self, batch_id: str, listing: Listing) -> Page | None:
        """A page of the children of a batch that the listing's owner has, the last one first; None if there is no
        such batch. A cursor has a child's place in the order of registration."""
        behind = listing.before.created_ms if listing.before else None
        found = await self._batches.children(batch_id, owner=listing.owner, behind=behind, newest_first=True)
        if found is None:
            return None
        _, children = found
        is_last = len(children) < CHILDREN_AT_ONCE
        listed: list[Task] = []
        size = 0
        for begin in range(0, len(children), READ_AT_ONCE):
            some = children[begin : begin + READ_AT_ONCE]
            tasks = await asyncio.gather(*(self._tasks.get(child.id) for child in some))
            for child, task in zip(some, tasks, strict=True):
                if task is not None and _is_listed(task, listing):
                    listed.append(task)
                    size += len(task.status)
                    if len(listed) == listing.limit or size >= PAGE_BYTES:
                        looked = children.index(child) + 1
                        return Page(listed, ListCursor(child.place, child.id), looked)
        following = None if is_last else ListCursor(children[-1].place, children[-1].id)
        return Page(listed, following, len(children))


def _is_listed(task: Task, listing: Listing) -> bool:
    return listing.path in (None, task.path, task.pipeline) and listing.takes(task)
