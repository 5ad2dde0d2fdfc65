"""Promise: every acknowledged task ends once, whatever happens to events and whatever a model service answers.

The short form of the harness; ``python3 dev.py faults`` is the long one. The faults are in ``table.py``.
"""

from __future__ import annotations

import pytest

from tests.faults.table import FAULTS, OF_MESSAGES
from tests.faults.trial import SHORT, Trials

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", OF_MESSAGES)
def test_every_acknowledged_task_ends_once_and_counts_are_correct_despite(name: str, single: Trials) -> None:
    assert single.run(FAULTS[name], name, SHORT).findings == []


def test_no_process_leaks_tasks_or_sockets_after_the_faults(single: Trials) -> None:
    assert single.leaks() == []
