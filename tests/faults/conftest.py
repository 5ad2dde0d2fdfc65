from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig
from tests.faults.trial import Trials

WARM_UP_S = 1


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Trials on a stack with one Redis server."""
    yield from _trials(Rig(tmp_path_factory.mktemp("rig")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Trials on a stack with a Redis Cluster."""
    yield from _trials(Rig(tmp_path_factory.mktemp("rig"), cluster=True))


def _trials(rig: Rig) -> Iterator[Trials]:
    with rig:
        trials = Trials(rig)
        trials.warm_up(WARM_UP_S)
        yield trials
