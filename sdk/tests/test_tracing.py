"""A task's trace goes from the caller through the supervisor into the worker, the model's code and the reports."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskbackbone.testing import PlayedBackbone

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
PATH = "/v1/words/count"

SERVICE = """
import logging
{configuration}
from taskbackbone import Task, TaskService

service = TaskService()


@service.task("/v1/words/count")
def count(body: str, task: Task) -> dict:
    {model}
    return {{"words": len(body.split())}}


@service.task("/v1/words/broken")
def broken(body: str) -> str:
    raise RuntimeError("of the model")


service.run()
"""
MODEL = """from opentelemetry.trace import get_tracer
    with get_tracer("model").start_as_current_span("features"):
        logging.getLogger("model").warning("a line of the model")"""

# The exporters of the images, and of a service that configures OpenTelemetry itself.
OTLP = """
from opentelemetry import trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

tracer_provider, logger_provider = TracerProvider(), LoggerProvider()
tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
logger_provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
trace.set_tracer_provider(tracer_provider)
set_logger_provider(logger_provider)
logging.getLogger().addHandler(LoggingHandler(logger_provider=logger_provider))
"""


class Receiver:
    """What takes spans and logs by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, Any] = {}
        self.logs: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            spans = [span for each in traces.resource_spans for scope in each.scope_spans for span in scope.spans]
            self.spans.update({span.name: span for span in spans})
        elif path == "/v1/logs":
            logs = ExportLogsServiceRequest.FromString(body)
            self.logs += [
                log for each in logs.resource_logs for scope in each.scope_logs for log in scope.log_records
            ]

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def script(folder: Path, configuration: str, model: str = MODEL) -> list[str]:
    file = folder / "service.py"
    file.write_text(SERVICE.format(configuration=configuration, model=model))
    return [sys.executable, str(file)]


def test_spans_and_logs_of_supervisor_worker_and_model_reach_a_collector(tmp_path: Path) -> None:
    with Receiver() as receiver, PlayedBackbone() as backbone:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with backbone.start(script(tmp_path, OTLP), environment=variables):
            task = backbone.submit(PATH, "to be", traceparent=TRACEPARENT).wait()
        names = {f"task {PATH}", f"work {PATH}", "features", "report PUT"}
        backbone.until(lambda: names <= set(receiver.spans))

        spans = receiver.spans
        attempt, work, features = spans[f"task {PATH}"], spans[f"work {PATH}"], spans["features"]
        report = spans["report PUT"]
        assert {span.trace_id.hex() for span in (attempt, work, features, report)} == {TRACE_ID}
        assert attempt.parent_span_id.hex() == SPAN_ID
        assert work.parent_span_id == attempt.span_id
        assert features.parent_span_id == work.span_id
        assert report.parent_span_id == attempt.span_id
        told = {each.key: each.value for each in attempt.attributes}
        assert (told["task.id"].string_value, told["task.attempt"].int_value) == (task.id, task.attempt)
        assert told["task.outcome"].string_value == "completed"
        line = next(log for log in receiver.logs if log.body.string_value == "a line of the model")
        assert (line.trace_id.hex(), line.span_id) == (TRACE_ID, features.span_id)
        sent = [call.headers["traceparent"] for call in task.calls]
        assert {header.split("-")[1] for header in sent} == {TRACE_ID}
        assert {header.split("-")[2] for header in sent} == {attempt.span_id.hex()}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans of this process."""
    from taskbackbone import _reports, _supervisor, _task, _tracing

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_tracing, "_tracer", provider.get_tracer("taskbackbone"))
    for module in (_supervisor, _reports, _task):
        monkeypatch.setattr(module, "span", module.span)
    yield exporter
    provider.shutdown()


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    return next(span for span in exporter.get_finished_spans() if span.name == name)


def test_an_attempt_and_its_report_have_spans_with_their_outcome(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    from taskbackbone import TaskService

    service = TaskService(isolation="thread")

    @service.task("/v1/words/broken")
    def broken(body: str) -> str:
        raise RuntimeError("of the model")

    with PlayedBackbone() as backbone:
        for name, value in backbone.environment.items():
            monkeypatch.setenv(name, value)
        server = uvicorn.Server(uvicorn.Config(service.asgi, port=0, log_config=None))
        serving = threading.Thread(target=server.run)
        serving.start()
        backbone.until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        backbone.service_url = f"http://127.0.0.1:{port}"
        task = backbone.submit("/v1/words/broken", "a", traceparent=TRACEPARENT).wait()
        server.should_exit = True
        serving.join()

    assert task.state == "failed"
    attempt, work = named(exporter, "task /v1/words/broken"), named(exporter, "work /v1/words/broken")
    report = named(exporter, "report POST")
    assert work.parent is not None
    assert attempt.context is not None
    assert (attempt.attributes or {})["task.outcome"] == "failed"
    assert (report.attributes or {})["http.response.status_code"] == 200
    assert work.parent.span_id == attempt.context.span_id
    assert [event.name for event in work.events] == ["exception"]
    assert not work.status.is_ok


def test_a_service_that_traces_nothing_loads_nothing_of_opentelemetry(tmp_path: Path) -> None:
    model = "return sorted(name for name in __import__('sys').modules if name.startswith('opentelemetry'))"
    with PlayedBackbone() as backbone, backbone.start(script(tmp_path, "", model)):
        task = backbone.submit(PATH, "a", traceparent=TRACEPARENT).wait()

        assert task.json() == []
        assert {call.headers["traceparent"] for call in task.calls} == {TRACEPARENT}
    code = "import sys, taskbackbone.service, taskbackbone._supervisor, taskbackbone._main; print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "opentelemetry" not in json.loads(loaded.replace("'", '"'))
