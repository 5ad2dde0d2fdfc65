"""Idle times of slots, from a backend's journal."""

from __future__ import annotations

import pytest

from bench.backend import Visit
from bench.lifecycle import idle_times

ENDED_S = 100.0


def visit(arrived_s: float, freed_s: float = 0) -> Visit:
    return Visit("task", arrived_s, completed_sent_s=freed_s)


@pytest.mark.parametrize(
    ("visits", "tasks", "seconds", "unfilled"),
    [
        pytest.param([visit(1, 10), visit(12)], 2, [2], 0, id="the next task fills the slot"),
        pytest.param([visit(1, 10)], 1, [], 0, id="nothing waits"),
        pytest.param([visit(1, 10)], 2, [90], 1, id="a task waits and never comes"),
        pytest.param([visit(1, 10), visit(2, 20), visit(13), visit(21)], 4, [3, 1], 0, id="slots are filled in turn"),
        pytest.param([visit(1, 10), visit(2, 11), visit(15)], 3, [5], 0, id="one task waits for two slots"),
        pytest.param([visit(1, 10), visit(2, 11), visit(15)], 4, [5, 89], 1, id="of two that wait one comes"),
    ],
)
def test_slot_is_idle_from_its_release_to_the_next_task_while_one_waits(
    visits: list[Visit], tasks: int, seconds: list[float], unfilled: int
) -> None:
    assert idle_times(visits, tasks, ENDED_S) == (pytest.approx(seconds), unfilled)
