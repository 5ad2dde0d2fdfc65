"""The list of a batch's children: the batch has their ids, and each one's partition its record."""

from __future__ import annotations

import asyncio

from shared.store.batch_steps import CHILDREN_AT_ONCE, BatchSteps
from shared.store.queries import ListCursor, Listing, Page
from shared.store.task_steps import TaskSteps
from shared.tasks.task import Task


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
        tasks = await asyncio.gather(*(self._tasks.get(child.id) for child in children))
        listed: list[Task] = []
        for child, task in zip(children, tasks, strict=True):
            if task is not None and _is_listed(task, listing):
                listed.append(task)
                if len(listed) == listing.limit:
                    return Page(listed, ListCursor(child.place, child.id))
        return Page(listed, None if is_last else ListCursor(children[-1].place, children[-1].id))


def _is_listed(task: Task, listing: Listing) -> bool:
    return listing.state in (None, task.state) and listing.path in (None, task.path, task.pipeline)
