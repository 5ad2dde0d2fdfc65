"""How a task goes on, on a terminal as a bar that changes, elsewhere as a line for each change."""

from __future__ import annotations

import shutil
import time
from typing import IO, Any

from ._calls import TaskView

_BAR_CHARS = 24


class Progress:
    """Shows one task at a time on *stream*."""

    def __init__(self, stream: IO[str], label: str = "", *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._label = label
        self._is_quiet = is_quiet
        self._is_live = stream.isatty()
        self._last = ""

    def show(self, task: TaskView) -> None:
        text = self._label + _line(task, bar=self._is_live)
        if self._is_quiet or text == self._last:
            return
        self._last = text
        if self._is_live:
            self._stream.write("\r\x1b[K" + plain(text, shutil.get_terminal_size().columns - 1))
        else:
            self._stream.write(plain(text, 1_000) + "\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live and self._last and not self._is_quiet:
            self._stream.write("\n")
            self._stream.flush()


def plain(text: str, length: int) -> str:
    """One line of at most *length* characters, with nothing in it that a terminal would obey."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= length else line[: max(0, length - 1)] + "…"


def _line(task: TaskView, *, bar: bool) -> str:
    if task.queue_position is not None:
        return f"waiting, position {task.queue_position}{_start(task.estimated_start)}"
    done = 1.0 if task.state == "completed" else task.progress
    parts = [] if done is None else [f"{done:>4.0%}"]
    if bar and done is not None:
        full = round(_BAR_CHARS * done)
        parts.insert(0, "█" * full + "░" * (_BAR_CHARS - full))
    return " ".join([*parts, task.status])


def _start(start: Any) -> str:
    if start is None:
        return ""
    left_s = max(0.0, start.timestamp() - time.time())
    if left_s < 100:
        left = f"{left_s:.0f} s"
    else:
        left = f"{left_s / 60:.0f} min" if left_s < 6_000 else f"{left_s / 3_600:.1f} h"
    return f", starts at about {start.astimezone():%H:%M:%S}, in {left}"
