"""A flush ends, whatever comes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from shared import telemetry
from tests.waiting import PATIENCE_S, eventually


class BusyApp(SpanExporter):
    """Whenever a span is sent, the next request has left one already."""

    def __init__(self) -> None:
        self.is_busy = True
        self.sent: list[str] = []
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(self, schedule_delay_millis=600_000))

    @property
    def provider(self) -> TracerProvider:
        return self._provider

    def leave_span(self, name: str) -> None:
        self._provider.get_tracer("test").start_span(name).end()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sent += [span.name for span in spans]
        if self.is_busy:
            self.leave_span("next")
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


def test_a_flush_ends_although_there_is_always_more_to_send(busy_app: BusyApp) -> None:
    busy_app.leave_span("first")
    flush = threading.Thread(target=telemetry.flush, daemon=True)
    flush.start()
    flush.join(PATIENCE_S)
    assert not flush.is_alive()
    assert "first" in busy_app.sent


def test_however_often_it_is_called_one_flush_goes_on_and_sends_what_came_since(busy_app: BusyApp) -> None:
    busy_app.leave_span("first")
    for _ in range(3):
        telemetry.flush()
    assert flushing_threads() == 1
    busy_app.leave_span("late")
    eventually(lambda: "late" in busy_app.sent)
    busy_app.is_busy = False
    eventually(lambda: flushing_threads() == 0)


def test_a_flush_has_sent_all_when_it_returns_if_there_is_time(
    busy_app: BusyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 60)
    busy_app.is_busy = False
    for name in ("one", "two"):
        busy_app.leave_span(name)
        telemetry.flush()
    assert busy_app.sent == ["one", "two"]


def test_of_two_who_flush_at_once_neither_fails_and_one_flush_goes_on(
    busy_app: BusyApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException] = []
    begins, another_came = threading.Event(), threading.Event()

    class SlowToStart(threading.Thread):
        def start(self) -> None:
            begins.set()
            assert another_came.wait(PATIENCE_S)
            second.join(0.5)  # by now it is over, if it does not wait for this one
            super().start()

    def flush() -> None:
        try:
            telemetry.flush()
        except BaseException as error:
            failures.append(error)

    busy_app.leave_span("first")
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
