"""NAME before a backbone that is played: without Redis and without Azure."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskbackbone.testing import PlayedBackbone

SERVICE = Path(__file__).with_name("service.py")


@pytest.fixture(scope="module")
def backbone() -> Iterator[PlayedBackbone]:
    with PlayedBackbone() as played, played.start([sys.executable, str(SERVICE)]):
        yield played


def test_it_predicts(backbone: PlayedBackbone) -> None:
    task = backbone.submit("/v1/NAME/predict", [1, 2, 6], query="scale=2").wait()
    assert task.json() == {"mean": 6.0}


def test_an_empty_list_fails(backbone: PlayedBackbone) -> None:
    task = backbone.submit("/v1/NAME/predict", []).wait()
    assert (task.state, task.status) == ("failed", "failed - the list is empty")
