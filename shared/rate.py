"""How often an endpoint is given a task, at most."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

MOST_TASKS: Final = 10_000
LONGEST_WINDOW_S: Final = 86_400
_EXPECTED: Final = f"like 100/60s, with up to {MOST_TASKS} tasks within up to {LONGEST_WINDOW_S} whole seconds"
_TEXT: Final = re.compile(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})s")


@dataclass(frozen=True, slots=True)
class Rate:
    """In no window of *window_s* seconds are more *tasks* granted a slot.

    Attributes:
        is_burst: whether they may be granted at once; else evenly.
    """

    tasks: int
    window_s: int
    is_burst: bool = False

    @classmethod
    def parse(cls, text: str, *, is_burst: bool = False) -> Self:
        """A rate such as ``100/60s``.

        Raises:
            ValueError: it is none.
        """
        found = _TEXT.fullmatch(text)
        rate = found and cls(int(found[1]), int(found[2]), is_burst)
        if not rate or rate.tasks > MOST_TASKS or rate.window_s > LONGEST_WINDOW_S:
            raise ValueError(f"must be {_EXPECTED}")
        return rate

    def __str__(self) -> str:
        return f"{self.tasks}/{self.window_s}s"

    @property
    def packed(self) -> tuple[int, int, int]:
        """As the scripts have it: how many tasks, within how many ms, and 1 if they may be granted at once."""
        return self.tasks, self.window_s * 1000, int(self.is_burst)

    @classmethod
    def unpacked(cls, packed: list[int]) -> Self:
        tasks, window_ms, is_burst = packed
        return cls(tasks, window_ms // 1000, is_burst == 1)
