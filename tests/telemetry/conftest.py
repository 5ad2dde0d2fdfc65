from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.ingestion_double import IngestionDouble


@pytest.fixture
def insights() -> Iterator[IngestionDouble]:
    with IngestionDouble() as double:
        yield double
