"""A task's callback as its record keeps it: ``J`` in ``lua/includes/task/record.lua``."""

from __future__ import annotations

from typing import Any, Final

from shared.tasks.callback import Callback, CallbackEvent, CallbackMessage, SettledCallback, WantedCallback

_LETTERS: Final = 2
"""So many of an event's name stand for it among those that a destination wants."""


def pack_callback(wanted: WantedCallback) -> dict[str, Any]:
    """That of a new task."""
    events = "".join(event[:_LETTERS] for event in wanted.events)
    return {"d": wanted.destination, "w": events, "n": 0}


def unpack_callback(packed: dict[str, Any]) -> Callback:
    ends = tuple(_message(*row[:4]) for row in packed.get("Q", ()))
    progress = tuple(_message(row[0], "progress", row[1], 0) for row in (packed.get("p"),) if row)
    answer, at_ms = packed.get("r", (None, None))
    settled = tuple(
        SettledCallback(_message(*row[:4]), what, ended_ms, tries, str(answer))
        for *row, what, ended_ms, tries, answer in packed.get("D", ())
    )
    return Callback(
        packed["d"],
        ends + progress,
        packed.get("t", 0),
        None if answer is None else str(answer),
        at_ms,
        settled,
    )


def _message(number: int, event: CallbackEvent, at_ms: int, attempt: int) -> CallbackMessage:
    return CallbackMessage(number, event, at_ms, attempt)
