"""Without a connection string the app sends no telemetry, but it still passes on trace contexts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import httpx

from local.stack import ROOT
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import ScriptedBackend

SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
    "EVENT_GRID_TOPIC_URI": "http://127.0.0.1:1/topic/api/events",
    "EVENT_GRID_KEY": "key",
    "BACKENDS": '{"/v1/org": "http://127.0.0.1:1"}',
    "ALLOW_LOOPBACK_BACKENDS": "true",
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "100000",  # otherwise the app warns of what an instance bears
}
SHOW_WHAT_SENDS = """
import sys
import function_app
from opentelemetry import _logs, metrics, trace
from shared import gauges, telemetry
gauges.DEPTH.set(1, path="/v1/org/api", state="created")
telemetry.flush()
providers = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
print([type(provider).__module__ for provider in providers if ".sdk." in type(provider).__module__])
print([name for name in sys.modules if name.startswith("azure.monitor")])
"""


def test_without_a_connection_string_nothing_sends_telemetry() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APPLICATIONINSIGHTS")}

    shown = subprocess.run(
        [sys.executable, "-c", SHOW_WHAT_SENDS],
        cwd=ROOT,
        env={**environment, **SETTINGS},
        capture_output=True,
        text=True,
        check=True,
    )

    assert (shown.stdout, shown.stderr) == ("[]\n[]\n", "")


def test_without_telemetry_a_callers_trace_context_still_reaches_the_backend(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = "/v1/test/untraced"
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}

    response = app.post(f"/api/v1/submit{path}", content=b"{}", headers=headers)

    assert backend.next_call(path).headers["traceparent"].split("-")[1] == trace_id
    Backbone(app).complete(response.json()["TaskId"])
