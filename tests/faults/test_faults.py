"""Promise: whatever breaks, no acknowledged task is lost, stuck or done twice, and every number stays true.

The short form of the harness: each fault once, under a small load. ``python3 dev.py faults`` is the long one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig
from tests.faults.table import FAULTS, Fault
from tests.faults.trial import SHORT, Trials


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    yield from _trials(Rig(tmp_path_factory.mktemp("rig")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    yield from _trials(Rig(tmp_path_factory.mktemp("rig"), cluster=True))


RIGS = {False: "single", True: "cluster"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_no_task_is_lost_stuck_or_counted_wrongly_though_this_happens(
    fault: Fault, request: pytest.FixtureRequest
) -> None:
    trials: Trials = request.getfixturevalue(RIGS[fault.wants_cluster])

    report = trials.run(fault, fault.name, SHORT)

    assert (report.lost, report.stuck, report.wrong) == ([], [], [])
    assert 0 < report.acknowledged <= report.completed + report.failed


@pytest.mark.parametrize("rig", RIGS.values())
def test_after_all_that_no_process_has_leaked_tasks_or_sockets(rig: str, request: pytest.FixtureRequest) -> None:
    trials: Trials = request.getfixturevalue(rig)

    assert trials.leaks() == []


def _trials(rig: Rig) -> Iterator[Trials]:
    with rig:
        trials = Trials(rig)
        trials.warm_up(1)
        yield trials
