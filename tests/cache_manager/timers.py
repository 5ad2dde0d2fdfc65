"""Timers without time."""

from __future__ import annotations

from shared.wakes import Wakes, Work


class Timers(Wakes):
    """Timers that a test has go off."""

    def __init__(self) -> None:
        self.set: list[tuple[float, str, Work]] = []

    def after(self, seconds: float, name: str, work: Work) -> None:
        self.set.append((seconds, name, work))

    async def go_off(self) -> list[float]:
        """Do what is to be done by the timers that are set now. Returns after how long they were."""
        now_set, self.set = self.set, []
        for _, _, work in now_set:
            await work()
        return [seconds for seconds, _, _ in now_set]
