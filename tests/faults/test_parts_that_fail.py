"""Promise: no acknowledged task is lost, stuck or done twice, whichever part dies, freezes or goes wrong.

The short form of the harness; ``python3 dev.py faults`` is the long one. The faults are in ``table.py``.
"""

from __future__ import annotations

import pytest

from tests.faults.table import FAULTS, OF_PARTS, ON_CLUSTER, Fault
from tests.faults.trial import SHORT, Trials

pytestmark = pytest.mark.slow


def available(name: str) -> Fault:
    if why_not := FAULTS[name].why_not():
        pytest.skip(why_not)
    return FAULTS[name]


@pytest.mark.parametrize("name", OF_PARTS)
def test_every_acknowledged_task_ends_once_and_counts_are_correct_despite(name: str, single: Trials) -> None:
    assert single.run(available(name), name, SHORT).findings == []


@pytest.mark.parametrize("name", ON_CLUSTER)
def test_every_acknowledged_task_ends_once_on_a_cluster_despite(name: str, cluster: Trials) -> None:
    assert cluster.run(available(name), name, SHORT).findings == []


def test_no_process_leaks_tasks_or_sockets_after_the_faults(single: Trials, cluster: Trials) -> None:
    assert single.leaks() + cluster.leaks() == []
