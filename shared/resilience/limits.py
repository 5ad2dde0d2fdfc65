"""How much a process does at a time. Beyond these limits it refuses at once: no call waits for room."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Self

from shared.resilience.waits import Wait, Waits
from shared.settings import INLINE_LIMIT_BYTES, Settings


class Overloaded(Exception):
    """Raised if the process has as much of something in flight as it may. Names it; nothing was begun."""


class Limit:
    """An upper bound for something in flight.

    Args:
        strict: refuse also what exceeds the whole limit and comes alone. Otherwise that is let through.
    """

    def __init__(self, what: str, most: int, *, strict: bool = False) -> None:
        self._what = what
        self._most = most
        self._strict = strict
        self._held = 0

    @contextmanager
    def hold(self, amount: int = 1) -> Generator[None]:
        """
        Raises:
            Overloaded: there is no room.
        """
        if (self._held or self._strict) and self._held + amount > self._most:
            raise Overloaded(self._what)
        self._held += amount
        try:
            yield
        finally:
            self._held -= amount


class FairLimit:
    """An upper bound for something in flight, of which nobody's share can be taken by the others.

    Anybody may have all of it. What is in flight cannot be taken back, so who has less than an equal share is let in
    even if the others have all: never more than twice the bound is in flight.

    Args:
        holders: how many there are to share it.
    """

    def __init__(self, what: str, most: int, holders: int) -> None:
        self._what = what
        self._most = most
        self._share = max(1, most // max(1, holders))
        self._held = 0
        self._held_by: Counter[str] = Counter()

    @contextmanager
    def hold(self, holder: str) -> Generator[None]:
        """
        Raises:
            Overloaded: there is no room for this holder.
        """
        if self._held >= self._most and self._held_by[holder] >= self._share:
            raise Overloaded(self._what)
        self._held += 1
        self._held_by[holder] += 1
        try:
            yield
        finally:
            self._held -= 1
            self._held_by[holder] -= 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process."""

    requests: Limit
    waits: Waits
    """Lower than ``requests``: a request that waits for a change must not shut out the requests that make one."""
    dispatches: FairLimit
    """Shared by the backends."""
    body_bytes: Limit
    waiting_bytes: Limit
    """How many body bytes may belong to requests that wait. These hold their memory until they are answered, and must
    not shut out other requests with bodies."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        backends = len(settings.backends.entries) + bool(settings.backend_base_url)
        return cls(
            requests=Limit("requests", settings.max_in_flight),
            waits=Waits(settings.most_waits),
            dispatches=FairLimit("dispatches", settings.max_dispatches, backends),
            body_bytes=Limit("large bodies", settings.max_body_bytes_in_flight),
            waiting_bytes=Limit("waiting large bodies", settings.max_body_bytes_in_flight // 2, strict=True),
        )

    def body(self, size_bytes: int) -> AbstractContextManager[None]:
        """Room for a request's or a task's body or result. Small ones need none: their number is limited.

        Raises:
            Overloaded: there is none.
        """
        return nullcontext() if size_bytes <= INLINE_LIMIT_BYTES else self.body_bytes.hold(size_bytes)

    @asynccontextmanager
    async def wait(self, client: str, seconds: float, body_size_bytes: int = 0) -> AsyncGenerator[Wait]:
        """Room for *client* to wait for a change, for a request that came with a body of this size. See
        :meth:`Waits.hold`.

        Raises:
            Overloaded: requests with too large bodies wait.
        """
        is_large = body_size_bytes > INLINE_LIMIT_BYTES
        with self.waiting_bytes.hold(body_size_bytes) if is_large else nullcontext():
            async with self.waits.hold(client, seconds) as wait:
                yield wait
