"""A circuit breaker: keeps callers from waiting, one after the other or all at once, for what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class CircuitOpen(Exception):
    """Raised in place of a call: an earlier one got no answer, and the one that is trying now has none yet."""


class Circuit:
    """Lets all calls through until one gets no answer, and then none, until a probe gets one.

    The probe is made when somebody calls, one at a time, and goes on by itself. So there is no pause in which nobody
    may try: the first call after a recovery finds it, and none of those before it has waited for long.

    Args:
        failures: the exceptions of a call that got no answer.
        patience_s: how long a caller waits for the probe, so that what one call met is not the failure of all who
            came just then.
    """

    def __init__(self, failures: tuple[type[Exception], ...], *, patience_s: float = 0) -> None:
        self._failures = failures
        self._patience_s = patience_s
        self._is_open = False
        self._answers = 0
        self._probe: asyncio.Future[Any] | None = None

    @property
    def state(self) -> Literal["ok", "unavailable", "untried"]:
        """How the dependency was found, by the outcome of the calls so far."""
        return "unavailable" if self._is_open else "ok" if self._answers else "untried"

    def call(
        self, attempt: Callable[[], Awaitable[T]], *, probe: Callable[[], Awaitable[Any]], insist: bool = False
    ) -> Coroutine[Any, Any, T]:
        """Make the *attempt*, if the circuit lets it through or the caller *insists*.

        Args:
            probe: a call that does no harm, though nobody waits for its end.

        Raises:
            CircuitOpen: the attempt was not made.
        """
        return self._watch(attempt) if insist or not self._is_open else self._call_after(probe, attempt)

    async def _call_after(self, probe: Callable[[], Awaitable[Any]], attempt: Callable[[], Awaitable[T]]) -> T:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(self._watch(probe))
            # Nobody may be left to hear of its failure.
            self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        await asyncio.wait((self._probe,), timeout=self._patience_s)
        if self._is_open:
            raise CircuitOpen
        return await self._watch(attempt)

    async def _watch(self, attempt: Callable[[], Awaitable[T]]) -> T:
        answers = self._answers
        try:
            result = await attempt()
        except self._failures:
            # Old news where another call has got an answer since.
            self._is_open = self._is_open or self._answers == answers
            raise
        except Exception:
            self._answered()  # if not as was hoped for
            raise
        self._answered()
        return result

    def _answered(self) -> None:
        self._is_open = False
        self._answers += 1
