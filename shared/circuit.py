"""A circuit breaker: keeps callers from waiting, one after the other or all at once, for what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class CircuitOpen(Exception):
    """Raised when an earlier call got no answer, and the one that is trying now has none yet.

    It may be the caller's own, which goes on: whether it succeeds is unknown.
    """


class Circuit:
    """Lets all calls through until one gets no answer, then one at a time, until one gets one.

    The one that tries goes on by itself, and its caller waits for it no longer than the others do. So there is no
    pause in which nobody may try: the first call after a recovery finds it, and costs none of those before it.

    Args:
        failures: the exceptions of a call that got no answer.
        patience_s: how long callers wait for the one that tries, so that what only one met is not the failure of
            all who came just then.
    """

    def __init__(self, failures: tuple[type[Exception], ...], *, patience_s: float = 0) -> None:
        self._failures = failures
        self._patience_s = patience_s
        self._is_open = False
        self._answers = 0
        self._trial: asyncio.Future[Any] | None = None

    @property
    def state(self) -> Literal["ok", "unavailable", "untried"]:
        """How the dependency was found, by the outcome of the calls so far."""
        return "unavailable" if self._is_open else "ok" if self._answers else "untried"

    async def call(self, attempt: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """Make the *attempt*, as circumstances allow, or if the caller *insists* in any.

        Raises:
            CircuitOpen: there is no outcome.
        """
        if insist or not self._is_open:
            return await self._watch(attempt)
        if self._trial is None or self._trial.done():
            trial = self._trial = asyncio.ensure_future(self._watch(attempt))
            # Nobody may be left to hear of its failure.
            trial.add_done_callback(lambda trial: trial.cancelled() or trial.exception())
            await asyncio.wait((trial,), timeout=self._patience_s)
            if not trial.done():
                raise CircuitOpen
            return trial.result()
        await asyncio.wait((self._trial,), timeout=self._patience_s)
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
