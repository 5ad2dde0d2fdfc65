"""Without telemetry, the app passes trace contexts on exactly as the OpenTelemetry propagator would; in place of one
that is not valid it begins a new trace."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from shared import telemetry
from tests.shared.store.conftest import Clock
from tests.shared.store.fleet import new_task

IDS = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
VALID = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00")
TASK = replace(new_task("7", Clock()), traceparent=f"00-{'3' * 32}-{'4' * 16}-01")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"00-{IDS}-01", f"00-{IDS}-01"),
        (f"00-{IDS}-00", f"00-{IDS}-00"),
        (f" 00-{IDS}-01 ", f"00-{IDS}-01"),
        (f"cc-{IDS}-01-of-a-later-version", f"00-{IDS}-01"),
        ("", ""),
    ],
)
def test_only_a_valid_trace_context_of_a_caller_is_kept(given: str, kept: str) -> None:
    with telemetry.invocation_span("SubmitTask", {"traceparent": given}):
        assert telemetry.traceparent() == kept
    assert telemetry.traceparent() == ""


@pytest.mark.parametrize(
    "given",
    [
        f"00-{IDS}-01-more",
        f"ff-{IDS}-01",
        f"00-{IDS.upper()}-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"00-{'0' * 32}-{'0' * 16}-00",
        "nonsense",
    ],
)
def test_a_trace_context_that_is_not_valid_begins_a_new_trace(given: str) -> None:
    begun: set[str] = set()
    for _ in range(2):
        with telemetry.invocation_span("SubmitTask", {"traceparent": given}, is_from_host=False):
            trace = telemetry.traceparent()
            assert VALID.fullmatch(trace)
            assert telemetry.traceparent() == telemetry.outgoing(TASK)["traceparent"] == trace
            begun.add(trace)
    assert len(begun) == 2
    assert telemetry.traceparent() == ""


def test_a_tracestate_is_passed_on_too() -> None:
    headers = {"traceparent": f"00-{IDS}-01", "tracestate": "vendor=1"}
    with telemetry.invocation_span("BackendWebhook", headers), telemetry.client_span(TASK, "http://model"):
        assert telemetry.outgoing(TASK) == headers


def test_a_dispatch_belongs_to_the_trace_of_its_event_not_to_that_of_the_delivery() -> None:
    with telemetry.invocation_span(
        "BackendWebhook", {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}
    ):
        with telemetry.consumer_span(TASK, "7.1", f"00-{IDS}-01"):
            assert telemetry.outgoing(TASK) == {"traceparent": f"00-{IDS}-01"}
        with telemetry.consumer_span(TASK, "7.1", ""):
            assert telemetry.outgoing(TASK) == {"traceparent": TASK.traceparent}
        with telemetry.consumer_span(replace(TASK, traceparent=""), "7.1", ""):
            assert telemetry.traceparent() == ""
