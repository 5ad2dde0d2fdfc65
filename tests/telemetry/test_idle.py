"""What an idle app sends, whoever configured the exporter: some kilobytes a minute, and nothing about its exports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from local.functions_host.schedules import parse_schedule
from local.redis_server import RedisServer
from tests.contract.test_metric_timers import MetricsRunner
from tests.real_worker.worker import RealWorker, find_python, prepared_python
from tests.telemetry.functions_worker import FunctionsWorker, settings_for
from tests.telemetry.ingestion_double import IngestionDouble
from tests.test_bindings import SNAPSHOT

MINUTES = 5
"""All timers run within five minutes."""
MOST_BYTES_A_MINUTE = 10_000
BATCH_S = 5
"""How often spans and log records are exported; metrics are once a minute."""
MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC)
PATHS = [f"/v1/test/idle/{number}" for number in range(3)]
BY_THE_WORKER = "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"
BY_WORKER_4_34 = "PYTHON_ENABLE_OPENTELEMETRY"
BY_THE_APP = ""


class Worker(Protocol):
    def timer(self, function: str) -> None: ...
    def flush(self, *, metrics: bool) -> None: ...


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Three queues whose tasks have ended."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        runner = MetricsRunner(server.url)
        for path in PATHS:
            runner.put(path, "completed")
            runner.put(path, "failed")
        runner.close()
        yield server


@pytest.mark.parametrize("flag", [BY_THE_WORKER, BY_WORKER_4_34, BY_THE_APP])
def test_an_idle_app_sends_at_most_ten_kilobytes_a_minute(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path, flag: str
) -> None:
    settings = settings_for(insights, redis.url) | ({flag: "true"} if flag else {})
    with FunctionsWorker(settings, tmp_path / "worker.log", configuring=bool(flag)) as worker:
        _assert_idle(worker, insights)


@pytest.mark.slow
@pytest.mark.parametrize("flag", [BY_THE_WORKER, BY_WORKER_4_34, BY_THE_APP])
def test_an_idle_app_in_microsofts_worker_sends_at_most_ten_kilobytes_a_minute(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path, flag: str
) -> None:
    base = find_python()
    if base is None:
        pytest.skip("the worker of Azure Functions needs CPython 3.13, which is neither on PATH nor under pyenv")
    settings = settings_for(insights, redis.url) | ({flag: "true"} if flag else {})
    with RealWorker(prepared_python(base), settings, tmp_path / "worker.log") as worker:
        _assert_idle(worker, insights)


def _assert_idle(worker: Worker, insights: IngestionDouble) -> None:
    schedules = _schedules()
    _play(worker, schedules, minutes=MINUTES)  # until all has been reported once
    started = len(insights.items())
    _play(worker, schedules, minutes=MINUTES)
    items = insights.items()[started:]

    shown = [(item.kind, item.size, json.dumps(item.data)[:200]) for item in items]
    assert sum(item.size for item in items) / MINUTES <= MOST_BYTES_A_MINUTE, shown
    depths = {
        item.properties["path"]
        for item in items
        if item.kind == "Metric" and item.data["metrics"][0]["name"] == "tasks.depth"
    }
    assert depths == set(PATHS), "the gauges are still sent"


def _play(worker: Worker, schedules: dict[str, Callable[[datetime], datetime]], *, minutes: int) -> None:
    """Let the timers run at their times, and the exporters at theirs; in no time."""
    due = {name: next_after(MIDNIGHT) for name, next_after in schedules.items()}
    for second in range(BATCH_S, minutes * 60 + 1, BATCH_S):
        now = MIDNIGHT + timedelta(seconds=second)
        for name, next_after in schedules.items():
            while due[name] <= now:
                worker.timer(name)
                due[name] = next_after(due[name])
        worker.flush(metrics=second % 60 == 0)


def _schedules() -> dict[str, Callable[[datetime], datetime]]:
    triggers = {
        name: trigger["schedule"]
        for name, [trigger, *_] in json.loads(SNAPSHOT.read_text()).items()
        if trigger["type"] == "timerTrigger"
    }
    assert "Reconciler" in triggers
    return {name: parse_schedule(schedule, {}).next_after for name, schedule in triggers.items()}


@pytest.mark.parametrize("configuring", [True, False])
def test_no_failure_is_lost(insights: IngestionDouble, redis: RedisServer, tmp_path: Path, configuring: bool) -> None:
    settings = settings_for(insights, "redis://127.0.0.1:1")
    with FunctionsWorker(settings, tmp_path / "worker.log", configuring=configuring) as worker:
        worker.timer("Reconciler")
        worker.timer("TaskQueueLogger")
        worker.log("azure.identity", logging.WARNING, "no credential")
        assert worker.post("SubmitTask", route={"path": "v1/test/a"}) == 503
        worker.flush()

    messages = [item.data["message"] for item in insights.items("Message")]
    assert any(text.startswith("the reconciler could not reach Redis") for text in messages)
    assert any(text.startswith("the queue depths could not be read") for text in messages)
    assert messages.count("no credential") == 1
    assert "no credential" in (tmp_path / "worker.log").read_text()
    [submit] = insights.items("Request")
    assert (submit.data["responseCode"], submit.data["success"]) == ("503", False)


def test_libraries_log_from_warning_on(insights: IngestionDouble, redis: RedisServer, tmp_path: Path) -> None:
    with FunctionsWorker(settings_for(insights, redis.url), tmp_path / "worker.log") as worker:
        for library in ("azure.core.pipeline.policies.http_logging_policy", "aiohttp.client", "any.other"):
            worker.log(library, logging.INFO, f"{library} is chatty")
            worker.log(library, logging.WARNING, f"{library} is worried")
        worker.log("task_backbone", logging.INFO, "the app has something to say")
    log = (tmp_path / "worker.log").read_text()
    assert "chatty" not in log
    assert log.count("is worried") == 3
    assert "the app has something to say" in log


def test_the_workers_debug_setting_lets_libraries_log_everything_but_no_export_makes_another(
    insights: IngestionDouble, redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_for(insights, redis.url) | {"PYTHON_ENABLE_DEBUG_LOGGING": "1"}
    with FunctionsWorker(settings, tmp_path / "worker.log", configuring=True) as worker:
        worker.log("azure.storage", logging.INFO, "a request")
        worker.flush()
        sent = insights.items("Message")
        for _ in range(3):
            worker.flush()
        assert insights.items("Message") == sent
    assert "a request" in [item.data["message"] for item in sent]
    assert "http_logging_policy" in (tmp_path / "worker.log").read_text(), "the exporter's calls are logged"
