"""A circuit breaker: keeps callers from waiting, one after the other or all at once, for a dependency that is
silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Reachability = Literal["ok", "unavailable", "untried"]


class CircuitOpen(Exception):
    """Raised in place of a call: an earlier call got no answer, and the present probe has none yet."""


class CircuitBreaker:
    """Lets all calls through until one gets no answer, and then none until a probe gets one.

    A caller starts the probe, one at a time, and it goes on by itself. So there is no pause in which no call may try:
    the first call after a recovery finds it, and the calls before it did not wait long.

    Args:
        failures: the exceptions of a call that got no answer. patience_s: how long a caller waits for the probe, so
        that one call's trouble does not fail all that come then.
    """

    def __init__(self, failures: tuple[type[Exception], ...], *, patience_s: float = 0) -> None:
        self._failures = failures
        self._patience_s = patience_s
        self._is_open = False
        self._answers = 0
        self._probe: asyncio.Future[Any] | None = None

    @property
    def state(self) -> Reachability:
        """How the dependency was found, by the outcomes of the calls so far."""
        return "unavailable" if self._is_open else "ok" if self._answers else "untried"

    def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        probe: Callable[[], Awaitable[Any]],
        bypass_circuit: bool = False,
    ) -> Coroutine[Any, Any, T]:
        """Make the *attempt*, if the circuit is closed or the caller bypasses it.

        Args:
            probe: a call that does no harm though nobody waits for its end.

        Raises:
            CircuitOpen: the attempt was not made.
        """
        if bypass_circuit or not self._is_open:
            return self._watch(attempt)
        return self._call_after(probe, attempt)

    async def _call_after(self, probe: Callable[[], Awaitable[Any]], attempt: Callable[[], Awaitable[T]]) -> T:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(self._watch(probe))
            # Its callers may all have left when it fails.
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
            # Old news if another call has got an answer since.
            self._is_open = self._is_open or self._answers == answers
            raise
        except Exception:
            self._note_answer()  # an error is an answer too
            raise
        self._note_answer()
        return result

    def _note_answer(self) -> None:
        self._is_open = False
        self._answers += 1
