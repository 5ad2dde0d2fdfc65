"""Steps of the same moment that one script takes together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class Together(Generic[Item, Reply]):
    """While a step for a key is on its way, those that are asked for the same key wait and go with the next one.

    Args:
        take: takes steps for a key together, and returns the reply to each.
        most: how many go together.
    """

    def __init__(self, take: Callable[[str, Sequence[Item]], Awaitable[Sequence[Reply]]], most: int) -> None:
        self._take = take
        self._most = most
        self._waiting: dict[str, list[tuple[Item, asyncio.Future[Reply]]]] = {}
        self._going: set[asyncio.Task[None]] = set()

    async def ask(self, key: str, item: Item) -> Reply:
        """The reply to *item*; or raises what taking it has raised."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append((item, future))
        else:
            self._waiting[key] = [(item, future)]
            # By a task of its own: whoever asked first may give up.
            going = asyncio.ensure_future(self._go(key))
            self._going.add(going)
            going.add_done_callback(self._going.discard)
        return await future

    async def _go(self, key: str) -> None:
        while waiting := self._waiting[key]:
            some = waiting[: self._most]
            del waiting[: self._most]
            try:
                replies = await self._take(key, [item for item, _ in some])
            except Exception as error:
                for _, future in some:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), reply in zip(some, replies, strict=True):
                    if not future.done():
                        future.set_result(reply)
        del self._waiting[key]
