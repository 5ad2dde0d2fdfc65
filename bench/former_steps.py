# type: ignore
"""Steps as ``bench/steps.py`` has them, for revisions that have no such file: those up to c4e7033.

FROZEN: it is imported only with a tree of such a revision on the path, so it speaks that revision's names. Do not
rename anything here when the app's names change. It can be deleted once nobody compares with such revisions any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

from bench.commands import BODY, LEASE_S, PATH, beat, claim, complete, create, open_redis
from shared.task import Content, State
from shared.task_store import (
    Claimed,
    Created,
    Granted,
    Moved,
    NewTask,
    QueuePolicy,
    RedisLink,
    Refused,
    StorePolicy,
    TaskQueues,
    TaskStore,
    connect,
)
from shared.task_store.connection import RedisAddress

Step = Callable[[str], Awaitable[None]]


class Steps:
    """The steps on one Redis.

    Parameters:
        url: of an empty Redis.
        callers: how many steps are asked for at a time; as many slots has the queue.
    """

    def __init__(self, url: str, callers: int) -> None:
        self._alone = open_redis(url)
        link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_identity))
        queues = TaskQueues(link, QueuePolicy(claim_s=600), lambda _: callers)
        self._queued = TaskStore(link, StorePolicy(), queues=queues)
        self._granted: list[Granted] = []
        self._at_work: asyncio.Queue[Claimed] = asyncio.Queue()

    @property
    def stages(self) -> Sequence[Mapping[str, Step]]:
        """Each begins with an empty Redis. Every task goes through its steps in this order, and is completed then."""
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
        )

    async def prepare(self, step: str) -> None:
        """What must be done before the first of these steps, and does not count."""
        if step == "complete + grant + claim":
            granted, self._granted = self._granted, []
            for each in granted:
                await self._start(each)

    async def completed(self) -> int:
        """How many tasks have come to their end."""
        return (await self._alone.store.depths(PATH))[PATH].completed

    async def aclose(self) -> None:
        await self._alone.aclose()
        await self._queued.aclose()

    async def _create(self, task_id: str) -> None:
        _expect(await create(self._alone, task_id), Created)

    async def _claim(self, task_id: str) -> None:
        _expect(await claim(self._alone, task_id), Claimed)

    async def _heartbeat(self, task_id: str) -> None:
        _expect(await beat(self._alone, task_id), Moved)

    async def _complete(self, task_id: str) -> None:
        _expect(await complete(self._alone, task_id), Moved)

    async def _create_and_enqueue(self, task_id: str) -> None:
        content = Content("application/octet-stream", len(BODY))
        created = await self._queued.create_waiting(NewTask(task_id, PATH, LEASE_S, body=content, inline_body=BODY))
        assert isinstance(created, Created), created
        if created.granted.grants:
            self._granted.append(created.granted)

    async def _complete_and_claim_next(self, _: str) -> None:
        """Of whichever task is at work: it is the queue that says which comes next."""
        task = (await self._at_work.get()).task
        ended = await self._queued.update(task.id, state=State.COMPLETED, status="completed", attempt=task.attempt)
        assert isinstance(ended, Moved), ended
        if ended.granted:
            await self._start(ended.granted)

    async def _start(self, granted: Granted) -> None:
        for grant in granted.grants:
            claimed: Claimed | Refused | None = granted.claims.get(grant)
            claimed = claimed or await self._queued.claim(grant.task_id, grant.attempt)
            assert isinstance(claimed, Claimed), claimed
            self._at_work.put_nowait(claimed)


def _expect(outcome: object, kind: type) -> None:
    """A step that was refused is cheaper than one that was taken."""
    if not isinstance(outcome, kind):
        raise AssertionError(f"not {kind.__name__}: {outcome}")


def _no_identity() -> NoReturn:
    raise AssertionError("the benchmarks' Redis is entered without Entra ID")
