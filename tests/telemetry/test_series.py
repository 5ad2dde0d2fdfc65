"""A gauge has a bounded number of series, sends nothing twice, and nothing that is old."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.metrics import CallbackOptions

from shared import gauges, telemetry


def test_a_gauge_takes_no_more_series_than_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    gauge = gauges.Gauge("test.series", "1", "A gauge of this test.")
    with caplog.at_level(logging.WARNING, "task_backbone"):
        for number in range(gauges.SERIES_LIMIT + 50):
            gauge.set(number, path=f"/v1/{number}")
    assert len(gauge.observe(CallbackOptions())) == gauges.SERIES_LIMIT
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    gauge.set(7, path="/v1/3")
    gauge.set(8, path="/v1/beyond")
    assert [(seen.value, seen.attributes) for seen in gauge.observe(CallbackOptions())] == [(7, {"path": "/v1/3"})]
    assert not gauge.observe(CallbackOptions())


def sent_by(gauge: gauges.Gauge) -> dict[str, float]:
    """What an export sends of the gauge, by path."""
    return {str((seen.attributes or {})["path"]): seen.value for seen in gauge.observe(CallbackOptions())}


def test_a_series_without_numbers_makes_room_and_gets_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "SERIES_LIMIT", 3)
    now_s = [0.0]
    gauge = gauges.Gauge("test.places", "1", "A gauge of this test.", lambda: now_s[0])
    for path in ("dead", "lively", "dead too", "refused"):
        gauge.set(1, path=path)
    assert sent_by(gauge) == {"dead": 1, "lively": 1, "dead too": 1}
    now_s[0] = gauges.SILENT_S - 1
    for path in ("lively", "refused"):
        gauge.set(2, path=path)
    assert sent_by(gauge) == {"lively": 2}
    now_s[0] = gauges.SILENT_S
    for path in ("new", "dead", "refused", "lively"):
        gauge.set(3, path=path)
    assert sent_by(gauge) == {"new": 3, "dead": 3, "lively": 3}


def test_a_process_has_a_bound_of_series_in_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "SERIES_LIMIT", 2)
    monkeypatch.setattr(gauges, "SERIES_IN_LIFE", 5)
    now_s = [0.0]
    gauge = gauges.Gauge("test.life", "1", "A gauge of this test.", lambda: now_s[0])
    sent: dict[str, float] = {}
    for number in range(10):
        gauge.set(number, path=str(number))
        sent |= sent_by(gauge)
        now_s[0] += gauges.SILENT_S
    assert sent == {str(number): number for number in range(5)}
    gauge.set(9, path="0")
    assert sent_by(gauge) == {"0": 9}, "those that it has had go on"


def test_a_number_that_was_not_sent_in_time_is_never_sent() -> None:
    now_s = [0.0]
    gauge = gauges.Gauge("test.frozen", "1", "A gauge of this test.", lambda: now_s[0])
    gauge.set(7, path="before the instance was frozen")
    now_s[0] = gauges.CURRENT_S + 1
    gauge.set(1, path="after")
    assert sent_by(gauge) == {"after": 1}


def test_a_counter_has_a_bound_of_series(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(telemetry, "_errors", set[str]())
    monkeypatch.setattr(
        telemetry._batches_interrupted, "add", lambda _, attributes: counted.append(attributes["error"])
    )
    for number in range(telemetry.ERRORS_LIMIT + 10):
        telemetry.batch_interrupted(f"Error{number}")
    telemetry.batch_interrupted("Error7")
    assert len(set(counted)) == telemetry.ERRORS_LIMIT + 1
    assert counted[-2:] == ["other", "Error7"]
