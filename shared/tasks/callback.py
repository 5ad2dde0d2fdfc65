"""What a task's destination is told of it, and what came of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

CallbackEvent = Literal["completed", "failed", "cancelled", "progress"]
"""What a destination may be told: an end, or how far a task is."""
ENDS: Final[tuple[CallbackEvent, ...]] = ("completed", "failed", "cancelled")


class WantedCallback(NamedTuple):
    """What a new task's destination is to be told."""

    destination: str
    events: tuple[CallbackEvent, ...]


class CallbackMessage(NamedTuple):
    """Something that a destination is to be told of a task. Its number is the same at each try."""

    number: int
    event: CallbackEvent
    at_ms: int
    attempt: int
    """The attempt that has ended; 0 of progress, which is that of the current one."""


class SettledCallback(NamedTuple):
    """An end of which the destination was told, or of which it will not be told any more."""

    message: CallbackMessage
    what: Literal["delivered", "gone", "given up"]
    """``gone``: the destination has answered that there is none any more. ``given up``: it was tried for too long."""
    at_ms: int
    tries: int
    answer: str
    """What it answered last: a status, or a word such as ``timeout``."""


class Callback(NamedTuple):
    """A task's callback: whom it tells, what is to be told yet, and what came of the last messages."""

    destination: str
    waiting: Sequence[CallbackMessage] = ()
    """In the order in which they are sent."""
    tries: int = 0
    """How often the first of these was sent."""
    last_answer: str | None = None
    last_tried_ms: int | None = None
    settled: Sequence[SettledCallback] = ()
    """The oldest first. Progress is not among them."""
