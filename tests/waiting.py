"""Waiting for what another process will do: until it is so, never for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 120
"""How long a test waits for what must happen before it fails: enough for an overloaded machine. When all is well, no
test waits that long."""
_POLL_INTERVAL_S = 0.02

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within_s: float = PATIENCE_S, every_s: float = _POLL_INTERVAL_S) -> T:
    """The first true value of *condition*.

    Raises:
        AssertionError: there was none in time; tells the last one.
    """
    deadline_s = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s} s; at last: {value!r}")
        time.sleep(every_s)
    return value
