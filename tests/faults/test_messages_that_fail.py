"""Promise: whatever becomes of events, and whatever a model service answers, every acknowledged task ends once.

The short form of the harness; ``python3 dev.py faults`` is the long one. The faults are in ``table.py``.
"""

from __future__ import annotations

import pytest

from tests.faults.table import FAULTS, OF_MESSAGES
from tests.faults.trial import SHORT, Trials


@pytest.mark.parametrize("name", OF_MESSAGES)
def test_every_acknowledged_task_ends_once_and_all_counts_are_true_in_spite_of(name: str, single: Trials) -> None:
    assert single.run(FAULTS[name], name, SHORT).findings == []


def test_after_all_that_no_process_has_leaked_tasks_or_sockets(single: Trials) -> None:
    assert single.leaks() == []
