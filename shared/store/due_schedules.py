"""Tells of schedules at the moment at which they are due."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from shared.store.arguments import Clock, now_of
from shared.store.following import Following
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, partition, to_ms
from shared.tasks.schedules import Name

log = logging.getLogger("task_backbone")

START_GRACE_S: Final = 30.0
"""After which a start is tried again of which nobody has told what came of it."""
_MOST_AT_ONCE: Final = 64


class Due(NamedTuple):
    """What is to be seen to in a partition now."""

    names: Sequence[Name]
    blobs: Sequence[str]
    """Of which no schedule has any."""

    @classmethod
    def of(cls, members: Iterable[str]) -> Due:
        told = [*members]
        return cls([name_of(each) for each in told if " " in each], [each for each in told if " " not in each])


class DueSchedules(Following):
    """One per event loop. ``wake`` has :meth:`take` called, and what it returns seen to."""

    def __init__(self, link: RedisLink, interval_s: float, now_ms: Clock | None = None) -> None:
        super().__init__(interval_s)
        self._link = link
        self._now_ms = now_ms

    async def take(self, number: int) -> Due:
        """What is due in a partition. Nobody else is told of it for a while, so it is to be seen to."""
        arguments = str(now_of(self._now_ms)), str(_MOST_AT_ONCE), str(to_ms(START_GRACE_S))
        try:
            names, next_in_ms = await self._link.script("schedule/due", HASH_TAGS[number], *arguments)
        except StoreUnavailable as error:
            log.warning("schedules that are due could not be found, and will be: %s", error)
            self._look_again(number)
            return Due.of(())
        self._go_on(number, None if next_in_ms < 0 else next_in_ms / 1000)
        return Due.of(name.decode() for name in names)

    def seen_to(self, names: Iterable[Name]) -> None:
        """These are due at other times now, which are still to be learned."""
        for number in {partition(name.owner) for name in names}:
            self.wake(number, 0)

    def expect(self, name: Name, in_s: float) -> None:
        """This process has said when a schedule is due."""
        self.learn(partition(name.owner), max(0.0, in_s))


def name_of(text: str) -> Name:
    owner, _, name = text.rpartition(" ")
    return Name(owner, name)
