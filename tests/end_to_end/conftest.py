from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local.stack import Stack
from tests.end_to_end.backbone import Backbone


@pytest.fixture
def backbone(app: httpx.Client) -> Backbone:
    """The app of the worker's stack."""
    return Backbone(app)


@pytest.fixture
def faulty(stack: Stack) -> Iterator[Stack]:
    """The worker's stack, whose Event Grid faults are turned off afterwards."""
    yield stack
    stack.set_faults({})
