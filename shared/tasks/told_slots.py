"""What an instance of a model service tells of itself, in the headers of its answers and reports."""

from __future__ import annotations

import re
from typing import Final, Self

from shared.tasks.value import value

SLOTS_HEADER: Final = "X-Task-Slots"
INSTANCE_HEADER: Final = "X-Task-Instance"
MOST_SLOTS: Final = 10_000
_INSTANCE: Final = re.compile(r"[\x21-\x7e]{1,128}")


@value
class ToldSlots:
    """How many tasks an instance holds at a time; 0 if it takes no more.

    Attributes:
        instance: its name among those of its service; empty if it has none.
    """

    slots: int
    instance: str

    @classmethod
    def parse(cls, slots: str | None, instance: str | None) -> Self | None:
        """None if no slots are told.

        Raises:
            BadSlots: one of the headers makes no sense.
        """
        if instance is not None and not _INSTANCE.fullmatch(instance):
            raise BadSlots(INSTANCE_HEADER, "1 to 128 printable ASCII characters without blanks are expected")
        if slots is None:
            return None
        if not (slots.isascii() and slots.isdigit() and len(slots) < 9 and int(slots) <= MOST_SLOTS):
            raise BadSlots(SLOTS_HEADER, f"a number from 0 to {MOST_SLOTS} is expected")
        return cls(int(slots), instance or "")


class BadSlots(ValueError):
    def __init__(self, header: str, expected: str) -> None:
        super().__init__(f"{header}: {expected}")
        self.header = header
        self.expected = expected
