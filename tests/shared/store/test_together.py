"""Steps of the same moment go together, and each gets its own reply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shared.store.together import Together


class Steps:
    def __init__(self) -> None:
        self.taken: list[tuple[str, list[int]]] = []
        self.is_asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fails = False

    async def take(self, key: str, items: Sequence[int]) -> Sequence[int]:
        self.taken.append((key, [*items]))
        self.is_asked.set()
        await self.go_on.wait()
        if self.fails:
            raise ConnectionError("lost")
        return [10 * item for item in items]


async def started(steps: Steps, count: int) -> None:
    async with asyncio.timeout(60):
        while len(steps.taken) < count:
            steps.is_asked.clear()
            await steps.is_asked.wait()


async def test_those_that_wait_go_with_the_next_step_of_their_key() -> None:
    steps = Steps()
    together = Together(steps.take, most=3)
    first = asyncio.ensure_future(together.ask("a", 1))
    await started(steps, 1)
    rest = [asyncio.ensure_future(together.ask("a", item)) for item in (2, 3, 4, 5)]
    other = asyncio.ensure_future(together.ask("b", 6))
    await started(steps, 2)
    steps.go_on.set()
    assert await asyncio.gather(first, *rest, other) == [10, 20, 30, 40, 50, 60]
    assert steps.taken == [("a", [1]), ("b", [6]), ("a", [2, 3, 4]), ("a", [5])]
    assert await together.ask("a", 7) == 70


async def test_one_that_gives_up_takes_nothing_from_the_others() -> None:
    steps = Steps()
    together = Together(steps.take, most=3)
    first = asyncio.ensure_future(together.ask("a", 1))
    await started(steps, 1)
    second, third = (asyncio.ensure_future(together.ask("a", item)) for item in (2, 3))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    steps.go_on.set()
    assert await third == 30


async def test_an_error_is_that_of_all_that_went_together_and_of_no_later_one() -> None:
    steps = Steps()
    steps.fails = True
    together = Together(steps.take, most=3)
    asked = [asyncio.ensure_future(together.ask("a", item)) for item in (1, 2, 3)]
    steps.go_on.set()
    for each in asked:
        with pytest.raises(ConnectionError):
            await each
    steps.fails = False
    assert await together.ask("a", 4) == 40
