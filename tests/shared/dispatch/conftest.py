from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.dispatch.backend_client import BackendClient
from tests.patience import patient
from tests.shared.dispatch.test_backend_client import registry

__all__ = ["patient"]


@pytest.fixture
async def client() -> AsyncIterator[BackendClient]:
    client = BackendClient(registry("http://127.0.0.1", loopback=True))
    yield client
    await client.aclose()
