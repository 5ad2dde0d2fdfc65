"""Waiting for a condition in another process, never for a fixed time."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 120
"""How long a test waits before it fails: enough for an overloaded machine. A passing test never waits that long."""
_POLL_INTERVAL_S = 0.02
_ASYNC_POLL_INTERVAL_S = 0.002
_POLL_SHARE = 0.05
"""A long wait is polled ever less often, and ends this much late at most: polling costs the app time, too."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within_s: float = PATIENCE_S, every_s: float = _POLL_INTERVAL_S) -> T:
    """Return the first true value of *condition*.

    Raises:
        AssertionError: there was none in time. The message has the last value.
    """
    started_s = time.monotonic()
    while not (value := condition()):
        waited_s = time.monotonic() - started_s
        if waited_s > within_s:
            raise AssertionError(f"not within {within_s} s; at last: {value!r}")
        time.sleep(max(every_s, waited_s * _POLL_SHARE))
    return value


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in this event loop.

    Raises:
        TimeoutError: it did not happen in time.
    """
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (nothing sets an event then)
            await asyncio.sleep(_ASYNC_POLL_INTERVAL_S)
