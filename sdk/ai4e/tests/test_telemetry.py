"""The telemetry modules, with the real exporter and a played Application Insights; and without its packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from conftest import TOOLS, Server

KEY, SECOND_KEY = str(uuid.uuid4()), str(uuid.uuid4())


class Insights:
    """Application Insights, as far as it takes items: each is a dict with the key of its resource."""

    def __init__(self) -> None:
        self.items: List[Dict[str, Any]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                items = json.loads(body) if body.startswith("[") else [json.loads(line) for line in body.splitlines()]
                double.items += items
                answer = {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                return

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def of(self, kind: str, key: str = KEY) -> List[Dict[str, Any]]:
        """What a resource got of a kind, such as MessageData."""
        found = [item for item in self.items if item["iKey"] == key]
        return [item["data"]["baseData"] for item in found if item["data"]["baseType"] == kind]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def insights() -> Iterator[Insights]:
    pytest.importorskip("azure.monitor.opentelemetry.exporter")
    double = Insights()
    yield double
    double.close()


def run(code: str, **variables: str) -> Tuple[str, str]:
    """Run *code* in a process of its own, as a service is one; returns what it printed, and its errors."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP")}
    for quiet in ("STATSBEAT_DISABLED_ALL", "SDKSTATS_DISABLED", "CONTROLPLANE_DISABLED"):
        environment["APPLICATIONINSIGHTS_" + quiet] = "true"
    environment.update(variables, PYTHONPATH=str(TOOLS))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


SEND = "\nimport ai4e_telemetry\nai4e_telemetry.telemetry().flush()\n"

WRAPPER = """
from ai4e_app_insights_wrapper import AI4EAppInsights
log = AI4EAppInsights()
for name in ("debug", "info", "warn", "error"):
    getattr(log, "log_" + name)("a message of " + name, "task-1", {"tile": 7, "message": "of the service"})
try:
    raise ValueError("no such tile")
except ValueError:
    log.log_exception("a message of exception", "task-1")
log.track_metric("REJECTED_STATE/v1/my api", 1)
"""


def test_the_wrapper_sends_logs_and_metrics_to_both_resources(insights: Insights) -> None:
    run(
        WRAPPER + SEND,
        APPINSIGHTS_INSTRUMENTATIONKEY=KEY,
        APPINSIGHTS_AI4E_INSTRUMENTATIONKEY=SECOND_KEY,
        APPINSIGHTS_ENDPOINT_URI=insights.url,
        SERVICE_NAME="words",
    )
    for key in (KEY, SECOND_KEY):
        told = {each["message"]: each for each in insights.of("MessageData", key)}
        assert sorted(told) == ["a message of " + name for name in ("debug", "error", "info", "warn")]
        properties = told["a message of info"]["properties"]
        assert (properties["task_id"], str(properties["tile"])) == ("task-1", "7")
        assert properties["message_"] == "of the service"
        assert str(told["a message of error"]["severityLevel"]) in ("3", "Error")
        [exception] = insights.of("ExceptionData", key)
        assert exception["properties"]["task_id"] == "task-1"
        assert any(
            each["metrics"][0]["name"].lower() == "rejected_state/v1/my_api"
            for each in insights.of("MetricData", key)
        )


MANY_METRICS = """
from ai4e_app_insights_wrapper import AI4EAppInsights
log = AI4EAppInsights()
for number in range(1_050):
    log.track_metric("of_caller_%d" % number, 1)
log.track_metric("of_caller_7", 2)
"""


def test_a_process_has_a_bound_of_metrics(insights: Insights) -> None:
    _, errors = run(MANY_METRICS + SEND, APPINSIGHTS_INSTRUMENTATIONKEY=KEY, APPINSIGHTS_ENDPOINT_URI=insights.url)
    sent = [metric for each in insights.of("MetricData") for metric in each["metrics"]]
    values = {metric["name"].lower(): metric["value"] for metric in sent if "of_caller_" in metric["name"].lower()}
    assert len(values) == 1_000
    assert values["of_caller_7"] == 2
    assert errors.count("There are 1000 metrics") == 1


def test_a_value_is_sent_while_it_is_current_and_no_longer(insights: Insights) -> None:
    code = """
import time
from ai4e_app_insights_wrapper import AI4EAppInsights
log = AI4EAppInsights()
log.track_metric("formerly", 7)
log.track_metric("lately", 1)
now_s = time.monotonic()
time.monotonic = lambda: now_s + 200  # a metric is exported each minute
log.track_metric("lately", 2)
"""
    run(code + SEND, APPINSIGHTS_INSTRUMENTATIONKEY=KEY, APPINSIGHTS_ENDPOINT_URI=insights.url)
    sent = [metric for each in insights.of("MetricData") for metric in each["metrics"]]
    values = {metric["name"].lower(): metric["value"] for metric in sent}
    assert (values.get("formerly"), values["lately"]) == (None, 2)


def test_a_connection_string_comes_before_a_key(insights: Insights) -> None:
    string = f"InstrumentationKey={KEY};IngestionEndpoint={insights.url};LiveEndpoint={insights.url}"
    run(WRAPPER + SEND, APPLICATIONINSIGHTS_CONNECTION_STRING=string, APPINSIGHTS_INSTRUMENTATIONKEY=SECOND_KEY)
    assert insights.of("MessageData")
    assert insights.of("MessageData", SECOND_KEY) == []


def test_the_logger_sends_spans_and_the_services_properties(insights: Insights) -> None:
    code = """
import logging
from flask import Flask
from azure_monitor_logger import AzureMonitorLogger
from ai4e_service import APIService
app = Flask("service")
log = AzureMonitorLogger(logging.getLogger("service"), app)
with app.app_context():
    service = APIService(app, log)

@service.api_sync_func("/echo/<text>", ["GET"], trace_name="get:echo")
def echo(*args, **kwargs):
    log.log_info("echoed", "task-2", {"of": "one"})
    log.log_info("echoed again")
    return kwargs["text"]

parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
assert app.test_client().get("/echo/a", headers={"traceparent": parent}).status_code == 200
log.track_metric("tiles", 3)
"""
    run(
        code + SEND,
        APPINSIGHTS_INSTRUMENTATIONKEY=KEY,
        APPINSIGHTS_ENDPOINT_URI=insights.url,
        SERVICE_NAME="words",
        SERVICE_MODEL_FRAMEOWRK_VERSION="3.7",
    )
    told = {each["message"]: each["properties"] for each in insights.of("MessageData")}
    assert (told["echoed"]["task_id"], told["echoed"]["of"]) == ("task-2", "one")
    assert told["echoed"]["service_model_framework_version"] == "3.7"
    assert "of" not in told["echoed again"]  # the original kept what one message had for all later ones
    [request] = insights.of("RequestData")
    assert request["name"] == "GET /echo/<text>"
    spans = [item for item in insights.items if item["data"]["baseType"] in ("RequestData", "RemoteDependencyData")]
    assert {item["tags"]["ai.operation.id"] for item in spans} == {"0af7651916cd43dd8448eb211c80319c"}
    assert [each["name"] for each in insights.of("RemoteDependencyData")] == ["get:echo"]


def test_the_extension_sends_requests_logs_and_exceptions(insights: Insights) -> None:
    code = f"""
from flask import Flask
from ai4e_app_insights import AppInsights
app = Flask("service")
app.config["APPINSIGHTS_INSTRUMENTATIONKEY"] = "{KEY}"
app.config["APPINSIGHTS_ENDPOINT_URI"] = "{insights.url}"
appinsights = AppInsights(app)

@app.route("/good")
def good():
    app.logger.info("all is good")
    return "good"

@app.route("/bad")
def bad():
    raise ValueError("bad")

assert app.test_client().get("/good").status_code == 200
assert app.test_client().get("/bad").status_code == 500
assert app.test_client().get("/missing").status_code == 404
appinsights.flush()
"""
    run(code)
    assert "all is good" in [each["message"] for each in insights.of("MessageData")]
    found = {each["name"]: (str(each["responseCode"]), each["success"]) for each in insights.of("RequestData")}
    assert found["GET /good"] == ("200", True)
    assert found["GET /bad"] == ("500", False)
    assert found["GET /missing"][0] == "404"
    assert insights.of("ExceptionData")


def test_the_context_knows_the_service() -> None:
    code = (
        "from ai4e_app_insights_context import AI4ETelemetryContext\nknown = AI4ETelemetryContext()\n"
        "print(known.service_owner, known.properties['service_model_framework_version'], known.device.type)"
    )
    printed, _ = run(code, SERVICE_OWNER="us", SERVICE_MODEL_FRAMEOWRK_VERSION="1.2")
    assert printed.split() == ["us", "1.2", "Other"]


def test_without_a_resource_nothing_is_sent_and_errors_are_shown() -> None:
    printed, errors = run(WRAPPER)
    assert printed == ""
    assert "a message of warn" in errors
    assert "ValueError: no such tile" in errors
    assert "a message of info" not in errors


@pytest.mark.parametrize(
    "made",
    [
        "from ai4e_app_insights_wrapper import AI4EAppInsights\nlog = AI4EAppInsights()\n",
        "from flask import Flask\nimport logging\nfrom azure_monitor_logger import AzureMonitorLogger\n"
        "log = AzureMonitorLogger(logging.getLogger('service'), Flask('service'))\n",
    ],
)
def test_the_trace_of_an_error_is_shown_once(made: str) -> None:
    raised = (
        "import traceback\ntry:\n    raise ValueError('no such tile')\n"
        "except ValueError:\n    log.log_exception(traceback.format_exc(), 'task-1')\n"
    )
    _, errors = run(made + raised)
    assert errors.splitlines()[0].endswith("ValueError: no such tile")
    assert errors.count("Traceback") == 1


def test_without_the_packages_a_line_says_so_and_all_else_works(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['azure'] = sys.modules['opentelemetry'] = None\n"
    code = (
        hide
        + WRAPPER
        + (
            "from flask import Flask\nfrom ai4e_app_insights import AppInsights\n"
            "from azure_monitor_logger import AzureMonitorLogger\nimport logging\n"
            "AppInsights(Flask('service')).flush()\n"
            "other = AzureMonitorLogger(logging.getLogger('other'), Flask('other'))\n"
            "other.log_error('an error', 'task-3'); other.track_metric('any', 1); print(other.tracer)\n"
        )
    )
    printed, errors = run(code, APPINSIGHTS_INSTRUMENTATIONKEY=KEY)
    assert printed.split() == ["None"]
    assert errors.count("telemetry is off") == 1
    assert "an error" in errors


def test_a_key_that_is_none_turns_telemetry_off() -> None:
    pytest.importorskip("azure.monitor.opentelemetry.exporter")
    _, errors = run(WRAPPER, APPINSIGHTS_INSTRUMENTATIONKEY="no key")
    assert errors.count("telemetry is off") == 1
