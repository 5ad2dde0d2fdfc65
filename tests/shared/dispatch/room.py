"""Room for the results that backends answer with."""

from __future__ import annotations

from shared.resilience.limits import Overloaded


class Room:
    """Args:
    most_bytes: of a result.
    free_bytes: how much room there is.
    """

    def __init__(self, most_bytes: int = 10_000_000, free_bytes: int = 100_000_000) -> None:
        self.most_bytes = most_bytes
        self.taken_bytes = 0
        self._free_bytes = free_bytes

    def take(self, size_bytes: int) -> None:
        if self.taken_bytes + size_bytes > self._free_bytes:
            raise Overloaded("results")
        self.taken_bytes += size_bytes
