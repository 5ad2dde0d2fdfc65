"""The waits of a process: over the limit, the client that has the most loses its oldest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from shared.resilience.waits import Waits

LONG_S = 3600.0


class Callers:
    """Callers that wait, until their time is up or their wait is cut."""

    def __init__(self, waits: Waits, ending: AsyncExitStack) -> None:
        self._waits = waits
        self._ending = ending
        self.cut: list[str] = []

    async def wait(self, client: str, name: str, seconds: float = LONG_S) -> asyncio.Task[None]:
        begun = asyncio.Event()

        async def wait() -> None:
            async with self._waits.hold(client, seconds) as held:
                begun.set()
                await asyncio.Event().wait()
            if held.is_cut:
                self.cut.append(name)

        task = asyncio.create_task(wait())
        self._ending.callback(task.cancel)
        await begun.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        return task


async def test_over_the_limit_the_client_with_the_most_loses_its_oldest() -> None:
    async with AsyncExitStack() as ending:
        callers = Callers(Waits(4), ending)
        for client, name in (("b", "b1"), ("a", "a1"), ("a", "a2"), ("a", "a3")):
            await callers.wait(client, name)
        assert callers.cut == []
        await callers.wait("c", "c1")
        assert callers.cut == ["a1"]
        await callers.wait("a", "a4")
        assert callers.cut == ["a1", "a2"]
        await callers.wait("d", "d1")
        assert callers.cut == ["a1", "a2", "a3"]
        # Each has one now: the oldest of all.
        await callers.wait("e", "e1")
        assert callers.cut == ["a1", "a2", "a3", "b1"]


async def test_a_wait_that_is_over_leaves_its_place() -> None:
    async with AsyncExitStack() as ending:
        callers = Callers(Waits(1), ending)
        await (await callers.wait("a", "a1", seconds=0))
        left = await callers.wait("a", "a2")
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await callers.wait("a", "a3")
        assert callers.cut == []


async def test_a_timeout_of_what_waits_is_an_error() -> None:
    with pytest.raises(TimeoutError, match="no answer"):
        async with Waits(1).hold("a", LONG_S):
            raise TimeoutError("no answer")
