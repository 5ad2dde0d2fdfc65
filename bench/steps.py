"""The steps of a task in this revision. ``python3 dev.py bench --against REV`` measures them in both revisions.

The public names of `Steps` and the names of the steps are the only ones that the revisions share. They never change,
whatever is renamed elsewhere. ``bench/step_driver.py`` loads this file from either tree. For a tree without such a
file it uses ``bench/former_steps.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from bench.commands import BODY, LEASE_S, PATH, claim, complete, create, default_policy, heartbeat, open_redis
from shared.store import (
    CHILDREN_AT_ONCE,
    ChildEnd,
    RedisAddress,
    RedisLink,
    TaskStore,
    connect,
)
from shared.tasks.outcomes import Applied, Claimed, Created, Granted
from shared.tasks.task import Content, NewBatch, NewTask, State

Step = Callable[[str], Awaitable[None]]


class Steps:
    """The steps on one Redis.

    Parameters:
        url: the URL of an empty Redis.
        callers: how many steps run at a time. The queue has as many slots.
    """

    def __init__(self, url: str, callers: int) -> None:
        self._apart = open_redis(url)
        link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_identity))
        self._queued = TaskStore(link, replace(default_policy(), slot_claim_s=600), lambda _: callers)
        self._granted: list[Granted] = []
        self._at_work: asyncio.Queue[Claimed] = asyncio.Queue()
        self._unreported: list[ChildEnd] = []
        self._reporting = asyncio.Lock()

    @property
    def stages(self) -> Sequence[Mapping[str, Step]]:
        """Each stage begins with an empty Redis. Every task takes its steps in this order, and is completed then."""
        return (
            {
                "create": self._create,
                "claim": self._claim,
                "heartbeat": self._heartbeat,
                "complete": self._complete,
            },
            {
                "create + enqueue": self._create_and_enqueue,
                "complete + grant + claim": self._complete_and_claim_next,
            },
            {
                "child: create + enqueue": self._create_child,
                "child: complete + grant + claim": self._complete_child,
            },
        )

    async def prepare(self, step: str) -> None:
        """Make the preparations for the first of these steps, which do not count."""
        if step == "child: create + enqueue":
            await self._queued.batches.create(NewBatch("batch"))
        if step.endswith("complete + grant + claim"):
            granted, self._granted = self._granted, []
            for each in granted:
                await self._start(each)

    async def completed(self) -> int:
        """The number of completed tasks."""
        return (await self._apart.queries.depths(PATH))[PATH].completed

    async def aclose(self) -> None:
        await self._apart.aclose()
        await self._queued.aclose()

    async def _create(self, task_id: str) -> None:
        _expect(await create(self._apart, task_id), Created)

    async def _claim(self, task_id: str) -> None:
        _expect(await claim(self._apart, task_id), Claimed)

    async def _heartbeat(self, task_id: str) -> None:
        _expect(await heartbeat(self._apart, task_id), Applied)

    async def _complete(self, task_id: str) -> None:
        _expect(await complete(self._apart, task_id), Applied)

    async def _create_and_enqueue(self, task_id: str) -> None:
        content = Content("application/octet-stream", len(BODY))
        created = await self._queued.create(NewTask(task_id, PATH, LEASE_S, body=content, inline_body=BODY))
        assert isinstance(created, Created), created
        self._granted += [granted for granted in created.granted if granted.grants]

    async def _complete_and_claim_next(self, _: str) -> None:
        """Complete any running task: the queue decides which one comes next."""
        task = (await self._at_work.get()).task
        ended = await self._queued.update(task.id, state=State.COMPLETED, status="completed", attempt=task.attempt)
        assert isinstance(ended, Applied), ended
        for granted in ended.granted:
            await self._start(granted)

    async def _create_child(self, task_id: str) -> None:
        content = Content("application/octet-stream", len(BODY))
        new = NewTask(task_id, PATH, LEASE_S, body=content, inline_body=BODY, batch="batch")
        created = await self._queued.create(new)
        assert isinstance(created, Created), created
        self._granted += [granted for granted in created.granted if granted.grants]

    async def _complete_child(self, _: str) -> None:
        """As for any task, and the batch hears of it; as in the app, ends of the same moment share a report."""
        task = (await self._at_work.get()).task
        ended = await self._queued.update(task.id, state=State.COMPLETED, status="completed", attempt=task.attempt)
        assert isinstance(ended, Applied), ended
        for granted in ended.granted:
            await self._start(granted)
        self._unreported.append(ChildEnd.of(ended.task))
        if not self._reporting.locked():
            async with self._reporting:
                while self._unreported:
                    ends, self._unreported = self._unreported[:CHILDREN_AT_ONCE], self._unreported[CHILDREN_AT_ONCE:]
                    _expect(await self._queued.batches.report_ends("batch", ends), Applied)

    async def _start(self, granted: Granted) -> None:
        for grant in granted.grants:
            claimed = await self._queued.claim_granted(granted, grant)
            assert isinstance(claimed, Claimed), claimed
            self._at_work.put_nowait(claimed)


def _expect(outcome: object, kind: type) -> None:
    """Make sure that no step was refused, since a refused step is cheaper."""
    if not isinstance(outcome, kind):
        raise AssertionError(f"not {kind.__name__}: {outcome}")


def _no_identity() -> NoReturn:
    raise AssertionError("the benchmarks' Redis is entered without Entra ID")
