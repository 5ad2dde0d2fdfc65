"""A flush ends even if new telemetry arrives meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from shared import gauges, telemetry
from tests.waiting import PATIENCE_S, eventually


class BusyApp(SpanExporter):
    """An app in which each export of a span makes the next span."""

    def __init__(self) -> None:
        self.is_busy = True
        self.sent: list[str] = []
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(self, schedule_delay_millis=600_000))

    @property
    def provider(self) -> TracerProvider:
        return self._provider

    def add_span(self, name: str) -> None:
        self._provider.get_tracer("test").start_span(name).end()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sent += [span.name for span in spans]
        if self.is_busy:
            self.add_span("next")
        return SpanExportResult.SUCCESS


@pytest.fixture
def busy_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyApp]:
    app = BusyApp()
    monkeypatch.setattr(telemetry.trace, "get_tracer_provider", lambda: app.provider)
    monkeypatch.setattr(telemetry, "FLUSH_S", 0.1)
    yield app
    app.is_busy = False
    app.provider.shutdown()


def flushing_threads() -> int:
    return sum(thread.name == "telemetry flush" for thread in threading.enumerate())


def test_a_flush_ends_even_if_there_is_always_more_to_send(busy_app: BusyApp) -> None:
    busy_app.add_span("first")
    flush = threading.Thread(target=telemetry.flush, daemon=True)
    flush.start()
    flush.join(PATIENCE_S)
    assert not flush.is_alive()
    assert "first" in busy_app.sent


def test_repeated_calls_share_one_flush_which_also_sends_later_spans(busy_app: BusyApp) -> None:
    busy_app.add_span("first")
    for _ in range(3):
        telemetry.flush()
    assert flushing_threads() == 1
    busy_app.add_span("late")
    eventually(lambda: "late" in busy_app.sent)
    busy_app.is_busy = False
    eventually(lambda: flushing_threads() == 0)


def test_a_flush_with_enough_time_returns_after_it_has_sent_everything(
    busy_app: BusyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 60)
    busy_app.is_busy = False
    for name in ("one", "two"):
        busy_app.add_span(name)
        telemetry.flush()
    assert busy_app.sent == ["one", "two"]


def test_two_simultaneous_flushes_share_one_thread_and_neither_fails(
    busy_app: BusyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException] = []
    begins, another_came = threading.Event(), threading.Event()

    class SlowToStart(threading.Thread):
        def start(self) -> None:
            begins.set()
            assert another_came.wait(PATIENCE_S)
            second.join(0.5)  # by now the second flush has ended, unless it waits for this thread
            super().start()

    def flush() -> None:
        try:
            telemetry.flush()
        except BaseException as error:
            failures.append(error)

    busy_app.add_span("first")
    first, second = threading.Thread(target=flush), threading.Thread(target=flush)
    monkeypatch.setattr(telemetry.threading, "Thread", SlowToStart)
    first.start()
    assert begins.wait(PATIENCE_S)
    second.start()
    another_came.set()
    first.join()
    second.join()
    assert failures == []
    assert flushing_threads() == 1


def test_metrics_are_flushed_only_if_the_app_has_some_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    flushed: list[bool] = []
    monkeypatch.setattr(provider, "force_flush", lambda: flushed.append(True))
    monkeypatch.setattr(telemetry.metrics, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(telemetry, "_has_interruptions", False)
    for gauge in gauges.ALL:
        monkeypatch.setattr(gauge, "_unsent", {})

    telemetry.flush()
    assert flushed == []
    telemetry.batch_interrupted("TimeoutError")
    telemetry.flush()
    telemetry.flush()
    assert flushed == [True], "once for each interruption, so that no failure waits for the next interval"
    gauges.DEPTH.set(1, path="/v1/a", state="created")
    telemetry.flush()
    assert flushed == [True] * 2
