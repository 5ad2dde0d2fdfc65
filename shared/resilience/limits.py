"""How much a process does at a time. Beyond these limits it refuses at once: no call waits for room."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self

from shared.resilience.waits import Wait, Waits
from shared.settings import INLINE_LIMIT_BYTES, Settings

_BRANCHES: Final = 16
"""Of a holder's share beyond the bound, how many of its paths' branches have one each."""
_DEPTH: Final = 4
"""How many segments of a path tell services apart."""
_Branch = tuple[str, str]
"""A holder, and the beginning of paths; all of its paths if that is empty."""


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

    Several may stand behind one holder, as services do behind a gateway, and only their paths tell them apart. So of
    its share beyond the bound, a holder gives a sixteenth to each branch of its paths that has less: of ``/a/x``,
    these are ``/a`` beside ``/b``, and ``/a/x`` beside ``/a/y``. Each level leaves half of the share to the one
    above, so whoever makes up paths below ``/a`` takes none from ``/b``.

    Args:
        holders: how many there are to share it.
    """

    def __init__(self, what: str, most: int, holders: int) -> None:
        self._what = what
        self._most = most
        self._share = max(1, most // max(1, holders))
        self._held = 0
        self._held_by: Counter[_Branch] = Counter()
        self._beyond: Counter[str] = Counter()
        """What holders were given while there was no room."""

    @contextmanager
    def hold(self, holder: str, path: str = "", amount: int = 1) -> Generator[None]:
        """
        Args:
            path: that of the task, below the holder's.

        Raises:
            Overloaded: there is no room for this holder.
        """
        branches = _branches(holder, path)
        beyond = amount if self._held and self._held + amount > self._most else 0
        if beyond and not self._has_share(branches, amount):
            raise Overloaded(self._what)
        self._note(branches, amount, beyond)
        try:
            yield
        finally:
            self._note(branches, -amount, -beyond)

    def _has_share(self, branches: Sequence[_Branch], amount: int) -> bool:
        whole, *parts = branches
        if self._held_by[whole] + amount <= self._share:
            return True
        most, beyond = self._share // _BRANCHES, self._beyond[whole[0]] + amount
        return any(
            beyond <= self._share >> depth and self._held_by[part] + amount <= most
            for depth, part in enumerate(parts)
        )

    def _note(self, branches: Sequence[_Branch], amount: int, beyond: int) -> None:
        self._held += amount
        self._beyond[branches[0][0]] += beyond
        for branch in branches:
            self._held_by[branch] += amount
            if not self._held_by[branch]:  # callers make up paths
                del self._held_by[branch]


def _branches(holder: str, path: str) -> list[_Branch]:
    segments = path.split("/", _DEPTH + 1)[1 : _DEPTH + 1]
    return [(holder, branch) for branch in accumulate(("", *segments), "{}/{}".format)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process."""

    requests: Limit
    waits: Waits
    """Lower than ``requests``: a request that waits for a change must not shut out the requests that make one."""
    dispatches: FairLimit
    """Shared by the backends."""
    body_bytes: FairLimit
    """Shared by requests and dispatches."""
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
            body_bytes=FairLimit("large bodies", settings.max_body_bytes_in_flight, holders=2),
            waiting_bytes=Limit("waiting large bodies", settings.max_body_bytes_in_flight // 2, strict=True),
        )

    def body(self, size_bytes: int) -> AbstractContextManager[None]:
        """Room for a body or result that comes with a request, or goes with its answer. Small ones need none: their
        number is limited.

        Raises:
            Overloaded: there is none.
        """
        return nullcontext() if size_bytes <= INLINE_LIMIT_BYTES else self.body_bytes.hold("requests", "", size_bytes)

    def dispatched(self, path: str, size_bytes: int) -> AbstractContextManager[None]:
        """Room for what a dispatch to *path* has of a body or result; see :meth:`body`."""
        return (
            nullcontext()
            if size_bytes <= INLINE_LIMIT_BYTES
            else self.body_bytes.hold("dispatches", path, size_bytes)
        )

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
