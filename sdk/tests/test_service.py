"""What a `TaskService` hears from its environment."""

from __future__ import annotations

import pytest

from taskbackbone import TaskService


def test_the_environment_says_how_long_a_service_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SERVICE_DRAIN_S", "SERVICE_CANCEL_GRACE_S"):
        monkeypatch.delenv(variable, raising=False)
    service = TaskService()
    assert (service.drain_s, service.cancel_grace_s) == (20, 10)

    monkeypatch.setenv("SERVICE_DRAIN_S", "90.5")
    monkeypatch.setenv("SERVICE_CANCEL_GRACE_S", "0")
    service = TaskService()
    assert (service.drain_s, service.cancel_grace_s) == (90.5, 0)


def test_the_code_of_a_service_wins_over_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_DRAIN_S", "90")
    monkeypatch.setenv("SERVICE_CANCEL_GRACE_S", "90")
    service = TaskService(drain_s=0, cancel_grace_s=0)
    assert (service.drain_s, service.cancel_grace_s) == (0, 0)


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_what_is_no_number_of_seconds_stops_the_service(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SERVICE_DRAIN_S", text)
    with pytest.raises(ValueError, match="SERVICE_DRAIN_S"):
        TaskService()
