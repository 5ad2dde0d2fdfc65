"""Long timeouts of Redis and Blob Storage for stores in the tests' own process, unless a test sets others."""

from __future__ import annotations

import pytest

from shared import bodies
from shared.store.redis import client, link, loan, pipelining, subscriptions
from tests.waiting import PATIENCE_S


def be_patient(monkeypatch: pytest.MonkeyPatch, seconds: float = PATIENCE_S) -> None:
    """Let a call take as long as *seconds*."""
    for module in (client, link, pipelining, subscriptions):
        monkeypatch.setattr(module, "CALL_TIMEOUT_S", seconds)
    for module in (client, loan, subscriptions):
        monkeypatch.setattr(module, "REPLY_TIMEOUT_S", seconds)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", seconds)
    monkeypatch.setattr(client, "OPEN_TIMEOUT_S", seconds)
    monkeypatch.setattr(bodies, "CONNECT_TIMEOUT_S", seconds)
    monkeypatch.setattr(bodies, "READ_TIMEOUT_S", seconds)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an overloaded machine an answer may take seconds without being wrong."""
    be_patient(monkeypatch)
