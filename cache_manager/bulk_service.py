"""What an operator does to many tasks: cancel or replay all that a filter finds, a piece a call. Whoever asks goes on
where the last piece ended, until there is no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from cache_manager.task_service import TaskService
from shared.store import ListCursor, Listing
from shared.tasks.outcomes import Outcome, Refusal, Refused
from shared.tasks.task import State, Task

BulkAction = Literal["cancel", "replay"]
AT_ONCE: Final = 32
"""How many tasks are changed at a time."""
LONGEST_S: Final = 20.0
"""After so long, a piece ends with what it has done: a gateway in between gives up after a few minutes."""
STATES: Final[dict[BulkAction, tuple[State, ...]]] = {
    "cancel": (State.CREATED, State.DISPATCHED, State.RUNNING),
    "replay": (State.FAILED,),
}
"""Those that an action changes."""


class Kept(NamedTuple):
    """A task that was left as it is."""

    task_id: str
    why: Refusal


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call has done.

    Attributes:
        matched: how many tasks it found.
        next: where the next piece begins; None if there is none.
    """

    matched: int
    done: int
    refused: Sequence[Kept]
    next: ListCursor | None


@dataclass(frozen=True, slots=True)
class BulkService:
    service: TaskService
    now_s: Callable[[], float] = time.monotonic

    async def count(self, listing: Listing) -> Piece:
        """What :meth:`apply` would look at, which changes nothing."""
        page = await self.service.services.store.page(listing)
        return Piece(len(page.tasks), 0, (), page.next)

    async def apply(self, action: BulkAction, listing: Listing, operation_id: str) -> Piece:
        """Cancel or replay the tasks of one page of the listing. If the operation has replayed one of them before, it
        does not do so again: a call whose answer was lost may be repeated, from any place.

        Raises:
            StoreUnavailable: Redis does not answer. What was done until then is done.
        """
        page = await self.service.services.store.page(listing)
        until_s = self.now_s() + LONGEST_S
        seen: list[Task] = []
        refused: list[Kept] = []
        for some in _batches(page.tasks):
            if seen and self.now_s() >= until_s:
                return Piece(len(seen), len(seen) - len(refused), refused, _behind(seen[-1]))
            # Each one to its end, whatever becomes of the others.
            steps = [self._take(action, task, operation_id) for task in some]
            found = await asyncio.gather(*steps, return_exceptions=True)
            for task, outcome in zip(some, found, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                if isinstance(outcome, Refused):
                    refused.append(Kept(task.id, outcome.reason))
            seen += some
        return Piece(len(seen), len(seen) - len(refused), refused, page.next)

    async def _take(self, action: BulkAction, task: Task, operation_id: str) -> Outcome:
        if action == "cancel":
            return await self.service.cancel(task.id)
        return await self.service.replay(task.id, once=operation_id)


def _behind(task: Task) -> ListCursor:
    return ListCursor(task.created_ms, task.id)


def _batches(tasks: Sequence[Task]) -> list[Sequence[Task]]:
    return [tasks[begin : begin + AT_ONCE] for begin in range(0, len(tasks), AT_ONCE)]
