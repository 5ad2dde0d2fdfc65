"""Who configures the exporter, who tells requests, and by which name the app is shown."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.redis_server import RedisServer
from tests.real_worker.worker import RealWorker, find_python, prepared_python
from tests.telemetry.functions_worker import FunctionsWorker, settings_for
from tests.telemetry.ingestion_double import IngestionDouble

PATH = "/v1/test/configured"
CREATE = json.dumps({"Endpoint": f"http://127.0.0.1:9{PATH}", "BackendStatus": "created"})
BY_THE_HOST = {"AzureFunctionsJobHost__telemetryMode": "OpenTelemetry"}
NOT_BY_THE_HOST = {"AzureFunctionsJobHost__telemetryMode": "Default"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("logger_name", ["", "another"])
def test_an_exporter_that_the_worker_has_configured_is_used_and_not_configured_again(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path, logger_name: str
) -> None:
    settings = settings_for(insights, redis.url) | {"PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME": logger_name}
    with FunctionsWorker(settings, tmp_path / "worker.log", configuring=True) as worker:
        assert worker.post("CacheConnectorUpsert", body=CREATE) == 200
        worker.timer("TaskQueueLogger")
        worker.flush(metrics=True)

    log = (tmp_path / "worker.log").read_text()
    assert log.count("OpenTelemetry was configured before the app started") == 1
    assert "Overriding of current" not in log
    [event] = insights.items("Event")
    assert (event.name, event.properties["task.path"]) == ("TaskStateChanged", PATH)
    [request] = insights.items("Request")
    assert request.name == "POST /api/CacheConnectorUpsert"
    metrics = [item.data["metrics"][0]["name"] for item in insights.items("Metric")]
    assert {"tasks.depth", "tasks.oldest_waiting_seconds"} <= set(metrics)


def test_what_the_worker_has_configured_without_spans_is_not_configured_again(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_for(insights, redis.url) | {"OTEL_TRACES_EXPORTER": "none"}
    with FunctionsWorker(settings, tmp_path / "worker.log", configuring=True) as worker:
        assert worker.post("CacheConnectorUpsert", body=CREATE) == 200
        worker.flush()

    log = (tmp_path / "worker.log").read_text()
    assert "Overriding of current" not in log
    assert "already instrumented" not in log
    [event] = insights.items("Event")
    assert event.name == "TaskStateChanged"
    assert not insights.items("Request")


@pytest.mark.parametrize(
    ("settings", "has_trace_context", "kind"),
    [
        ({}, True, "RemoteDependency"),  # host.json says OpenTelemetry
        (BY_THE_HOST, True, "RemoteDependency"),
        (BY_THE_HOST, False, "Request"),
        (NOT_BY_THE_HOST, True, "Request"),
    ],
)
def test_an_invocation_is_one_request_whether_the_host_tells_it_or_the_app(
    insights: IngestionDouble,
    redis: RedisServer,
    tmp_path: Path,
    settings: dict[str, str],
    has_trace_context: bool,
    kind: str,
) -> None:
    operation_id, host_span_id = secrets.token_hex(16), secrets.token_hex(8)
    traceparent = f"00-{operation_id}-{host_span_id}-01" if has_trace_context else None
    with FunctionsWorker(settings_for(insights, redis.url) | settings, tmp_path / "worker.log") as worker:
        worker.post("CacheConnectorUpsert", body=CREATE, traceparent=traceparent)
        worker.flush()
    [span] = [*insights.items("Request"), *insights.items("RemoteDependency")]
    name = "POST /api/CacheConnectorUpsert" if kind == "Request" else "CacheConnectorUpsert"
    assert (span.kind, span.name) == (kind, name)
    if has_trace_context:
        assert (span.operation_id, span.parent_id) == (operation_id, host_span_id)


@pytest.mark.slow
def test_in_microsofts_worker_the_function_is_part_of_the_hosts_request(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path
) -> None:
    base = find_python()
    if base is None:
        pytest.skip("the worker of Azure Functions needs CPython 3.13, which is neither on PATH nor under pyenv")
    operation_id, host_span_id = secrets.token_hex(16), secrets.token_hex(8)
    traceparent = f"00-{operation_id}-{host_span_id}-01"
    settings = settings_for(insights, redis.url) | {"PYTHON_ENABLE_OPENTELEMETRY": "true"}
    with RealWorker(prepared_python(base), settings, tmp_path / "worker.log") as worker:
        path = "CacheConnectorUpsert"
        assert worker.http(path, "POST", path, body=CREATE, traceparent=traceparent).status == 200
        worker.flush(metrics=False)
    assert insights.items("Request") == []
    [span] = insights.items("RemoteDependency")
    assert (span.name, span.operation_id, span.parent_id) == (path, operation_id, host_span_id)


@pytest.mark.parametrize(
    ("platform", "role"),
    [
        ({}, "task-backbone"),
        ({"WEBSITE_SITE_NAME": "my-app", "FUNCTIONS_WORKER_RUNTIME": "python"}, "my-app"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,service.version=1"}, "ours"),
    ],
)
def test_the_role_is_named_where_the_platform_names_none(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path, platform: dict[str, str], role: str
) -> None:
    with FunctionsWorker(settings_for(insights, redis.url) | platform, tmp_path / "worker.log") as worker:
        worker.post("CacheConnectorUpsert", body=CREATE)
        worker.flush()
    assert {item.tags["ai.cloud.role"] for item in insights.items()} == {role}


def test_the_double_takes_lines_of_json_as_the_host_sends_them(insights: IngestionDouble) -> None:
    endpoint = insights.connection_string.split("IngestionEndpoint=")[1].split(";")[0]
    envelopes = [
        {"tags": {}, "data": {"baseType": "RequestData", "baseData": {"name": name}}} for name in ("one", "two")
    ]
    body = "\n".join(json.dumps(envelope) for envelope in envelopes) + "\n"
    request = urllib.request.Request(f"{endpoint}v2.1/track", body.encode(), method="POST")
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["itemsAccepted"] == 2
    assert [item.name for item in insights.items("Request")] == ["one", "two"]
