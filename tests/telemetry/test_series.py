"""A gauge has a bounded number of series, and sends nothing twice."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.metrics import CallbackOptions

from shared import telemetry


def test_a_gauge_takes_no_more_series_than_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    gauge = telemetry._Gauge("test.series", "A gauge of this test.")
    with caplog.at_level(logging.WARNING, "task_backbone"):
        for number in range(telemetry.SERIES_LIMIT + 50):
            gauge.set(number, path=f"/v1/{number}")
    assert len(gauge._observe(CallbackOptions())) == telemetry.SERIES_LIMIT
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    gauge.set(7, path="/v1/3")
    gauge.set(8, path="/v1/beyond")
    assert [(seen.value, seen.attributes) for seen in gauge._observe(CallbackOptions())] == [(7, {"path": "/v1/3"})]
    assert not gauge._observe(CallbackOptions())
