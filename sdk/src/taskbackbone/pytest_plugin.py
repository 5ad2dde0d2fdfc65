"""``pytest_plugins = ["taskbackbone.pytest_plugin"]`` in ``conftest.py`` gives tests a played backbone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskbackbone.testing import PlayedBackbone


@pytest.fixture
def played_backbone() -> Iterator[PlayedBackbone]:
    """A backbone for the test's own model service, see :mod:`taskbackbone.testing`."""
    with PlayedBackbone() as backbone:
        yield backbone
