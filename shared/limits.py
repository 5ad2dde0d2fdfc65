"""How much a process takes on at a time. Beyond it, it says so at once: nothing waits for room."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Self

from shared.settings import INLINE_LIMIT_BYTES, Settings


class Overloaded(Exception):
    """Raised when the process has as much of something in hand as it may. Names it; nothing was begun."""


class Limit:
    """So much of something at a time.

    Args:
        strict: no exception is made for what is more than all of it, and comes alone.
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


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process."""

    requests: Limit
    waits: Limit
    """Fewer than requests: who waits for a change is also a request, and must not shut out those who make one."""
    dispatches: Limit
    body_bytes: Limit
    waiting_bytes: Limit
    """How many of these may lie with requests that wait. Their memory is taken until they are answered; so they keep
    the room for it, but must not shut out those who come with a body."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            requests=Limit("requests", settings.max_in_flight),
            waits=Limit("waiting requests", settings.max_waits),
            dispatches=Limit("dispatches", settings.max_dispatches),
            body_bytes=Limit("large bodies", settings.max_body_bytes_in_flight),
            waiting_bytes=Limit("waiting large bodies", settings.max_body_bytes_in_flight // 2, strict=True),
        )

    def body(self, size_bytes: int) -> AbstractContextManager[None]:
        """Room for a request's or a task's body or result. Small ones need none: their number is limited.

        Raises:
            Overloaded: there is none.
        """
        return nullcontext() if size_bytes <= INLINE_LIMIT_BYTES else self.body_bytes.hold(size_bytes)

    @contextmanager
    def wait(self, body_size_bytes: int = 0) -> Generator[None]:
        """Room to wait for a change, for a request that came with such a body.

        Raises:
            Overloaded: there is none.
        """
        is_large = body_size_bytes > INLINE_LIMIT_BYTES
        with self.waits.hold(), self.waiting_bytes.hold(body_size_bytes) if is_large else nullcontext():
            yield
