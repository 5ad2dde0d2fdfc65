"""Many tasks that are created in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

from shared.store.create_steps import CreateSteps, create_outcome
from shared.store.redis.link import StoreUnavailable
from shared.store.starts import Starts
from shared.tasks.outcomes import BatchRefused, Created, Draining, Existing, Full
from shared.tasks.task import NewTask

CreateOutcome = Created | Existing | Full | Draining | BatchRefused | StoreUnavailable


class JointCreation:
    """Tasks that are created together, each as :meth:`TaskStore.create` does it. No two of them have one id.

    They are packed when this is made, and the answer is read when the outcomes are asked for. So a caller that has
    more of them makes the next one and reads the one before while Redis works on this one.

    Args:
        create: creates one of them alone.
    """

    def __init__(
        self,
        news: Sequence[NewTask],
        creations: CreateSteps,
        starts: Starts,
        create: Callable[[NewTask], Awaitable[Created | Existing | Full | Draining | BatchRefused]],
    ) -> None:
        self._news = news
        self._creations = creations
        self._starts = starts
        self._create = create
        is_joint = all(new.dispatch_requested and not new.batch for new in news)
        self._packed = creations.packed_each(news) if is_joint else None
        self._replies: Sequence[Any] = ()
        self._known: dict[str, CreateOutcome] = {}
        """By task id, the outcomes that do not have to be read from a reply."""

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why none of them is known to be stored."""
        failures = [outcome for outcome in self._known.values() if isinstance(outcome, StoreUnavailable)]
        return failures[0] if failures and len(failures) == len(self._news) else None

    async def send(self) -> None:
        """Have them created: on a single server in their order, in one round trip, if they are no children."""
        packed, self._packed = self._packed, None
        replies: Sequence[Any] | None = None
        try:
            if packed is not None:
                replies = await self._creations.create_each_and_enqueue(self._news, packed)
        except StoreUnavailable as error:
            alike = StoreUnavailable(str(error))  # what was granted is to be dispatched once
            self._known = {**{new.id: alike for new in self._news}, self._news[0].id: error}
        self._replies = replies or cast("list[Any]", [None] * len(self._news))
        if self._known:
            return
        replied = zip(self._news, self._replies, strict=True)
        left = [new for new, reply in replied if reply is None or isinstance(reply, Exception)]
        outcomes = await asyncio.gather(*map(self._outcome_alone, left))
        self._known = {new.id: outcome for new, outcome in zip(left, outcomes, strict=True)}

    def outcomes(self) -> Iterator[CreateOutcome]:
        """What each has come to, in their order."""
        for new, reply in zip(self._news, self._replies, strict=True):
            known = self._known.get(new.id)
            if known is None:
                known = create_outcome(new, reply)
                if new.is_delayed:
                    self._starts.expect(known)
            yield known

    async def _outcome_alone(self, new: NewTask) -> CreateOutcome:
        try:
            return await self._create(new)
        except StoreUnavailable as error:
            return error
