"""The telemetry of a service as its image sets it up: what of a task comes to a collector, to Application Insights.

The Python is one with what ``images/requirements-tracing.txt`` names, and with ``images/sitecustomize.py``.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from taskbackbone.testing import PlayedBackbone

from local.stack import ROOT
from tests.sdk.environments import Failure, call, environment, install, locked
from tests.telemetry.ingestion_double import IngestionDouble
from tests.waiting import eventually

_NAME = "image"
_REQUIREMENTS = ROOT / "images" / "requirements-tracing.txt"
_SITE = ROOT / "images" / "sitecustomize.py"
_WARNING = "the model says something"
_SERVICE = f"""
import logging
from opentelemetry import trace
from taskbackbone import TaskService

service = TaskService()


@service.task("/v1/traced")
def traced(body: bytes) -> str:
    with trace.get_tracer("model").start_as_current_span("forward"):
        logging.getLogger("model").warning({_WARNING!r})
    return "done"


service.run()
"""


def check(wheel: Path) -> None:
    """Run a task in a service whose telemetry is on, once for each destination, and once with it off.

    Raises:
        Failure: something that belongs to the task did not arrive, or something is loaded that is off.
    """
    python = environment(_NAME, sys.executable, [_REQUIREMENTS])
    with locked(_NAME):
        install(python, [str(wheel)], "--force-reinstall", "--no-deps")
        install(python, [f"{wheel}[otel]"])
        site = call([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
        shutil.copy(_SITE, site)
    loaded = call([str(python), "-c", "import sys; print('opentelemetry' in sys.modules)"]).strip()
    if loaded != "False":
        raise Failure("OpenTelemetry is loaded though nothing is sent")
    with Collector() as collector:
        trace_id = _task_of(python, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        sought = {
            "the span of the model": lambda: collector.has("/v1/traces", bytes.fromhex(trace_id), b"forward"),
            "the span of the task": lambda: collector.has("/v1/traces", bytes.fromhex(trace_id), b"/v1/traced"),
            "the log": lambda: collector.has("/v1/logs", bytes.fromhex(trace_id), _WARNING.encode()),
        }
        _await("a collector", sought)
    with IngestionDouble() as insights:
        trace_id = _task_of(python, {"APPLICATIONINSIGHTS_CONNECTION_STRING": insights.connection_string})
        sought = {
            "the span of the model": lambda: "forward" in {span.name for span in insights.spans(trace_id)},
            "the span of the task": lambda: any("/v1/traced" in span.name for span in insights.spans(trace_id)),
            "the log": lambda: (
                (trace_id, _WARNING)
                in {(each.operation_id, each.data["message"]) for each in insights.items("Message")}
            ),
        }
        _await("Application Insights", sought)


def _task_of(python: Path, variables: Mapping[str, str]) -> str:
    """Run a task and stop its service, which sends what it has. Returns the id of the trace."""
    trace_id = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="telemetry-") as directory:
        script = Path(directory, "service.py")
        script.write_text(_SERVICE)
        with PlayedBackbone() as backbone:
            with backbone.start([python, script], environment=variables, cwd=Path(directory)):
                submitted = backbone.submit("/v1/traced", b"", traceparent=f"00-{trace_id}-{'1' * 16}-01")
                state = submitted.wait().state
            if state != "completed":
                raise Failure(f"the task is {state}: {submitted.status}")
    return trace_id


def _await(destination: str, sought: Mapping[str, Callable[[], bool]]) -> None:
    for what, has_come in sought.items():
        try:
            eventually(has_come, within_s=30)
        except AssertionError:
            raise Failure(f"{what} did not come to {destination}") from None


class Collector:
    """A collector that takes OTLP over HTTP, and keeps it as it comes."""

    def __init__(self) -> None:
        self._came: list[tuple[str, bytes]] = []
        came = self._came

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                came.append((self.path, gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def has(self, path: str, *parts: bytes) -> bool:
        """Whether something came to *path* that has all these parts."""
        return any(at == path and all(part in body for part in parts) for at, body in [*self._came])

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
