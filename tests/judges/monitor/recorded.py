"""What the app's real exporter sends while known things happen, and what the queries have to answer to that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.judges.monitor.day import DESTINATION
from tests.scripted_backend import Answer, ScriptedBackend
from tests.telemetry.functions_worker import NOT_ABOUT_ITSELF, ONLY_WHEN_FLUSHED
from tests.telemetry.ingestion_double import IngestionDouble
from tests.waiting import eventually

PATH, BRIEF = "/v1/judged/tasks", "/v1/judged/brief"


def record(directory: Path, target: Path) -> None:
    """Write what arrived, and what is known of it, as JSON: ``{"envelopes", "path", "brief", "tasks",
    "transitions", "metrics"}``; the last is what Prometheus would read then."""
    with (
        IngestionDouble() as insights,
        ScriptedBackend() as backend,
        Stack(
            directory,
            backends={
                PATH: {"url": backend.url, "limit": 2},
                BRIEF: {"url": backend.url, "lease_s": 1},
            },
            with_model=False,
            settings={
                **IN_A_HURRY,
                **ONLY_WHEN_FLUSHED,
                **NOT_ABOUT_ITSELF,
                "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED": "true",
                "OTEL_TRACES_SAMPLER": "always_on",
                "APPLICATIONINSIGHTS_CONNECTION_STRING": insights.connection_string,
                "TMPDIR": str(directory),
                "CALLBACKS": json.dumps(
                    {DESTINATION: {"url": f"{backend.url}/told", "secret_setting": "TOLD_SECRET"}}
                ),
                "TOLD_SECRET": f"whsec_{'A' * 43}=",
            },
        ) as stack,
        stack.client() as http,
    ):
        backbone = Backbone(http)
        tasks = _happen(backbone, backend)
        transitions = {what: backbone.transitions(task_id) for what, task_id in tasks.items()}
        expected = sum(map(len, transitions.values()))

        def flushed() -> bool:
            for timer in ("TaskQueueLogger", "TaskProcessLogger"):
                stack.run_function(timer)
            names = {metric.data["metrics"][0]["name"] for metric in insights.items("Metric")}
            return len(insights.items("Event")) >= expected and {"tasks.steps", "callbacks.deliveries"} <= names

        eventually(flushed, every_s=0.5)
        metrics = http.get("/api/v1/metrics").raise_for_status().text
    envelopes = [each for line in insights.raw.splitlines() if line for each in _parsed(line)]
    known = {"envelopes": envelopes, "path": PATH, "brief": BRIEF, "tasks": tasks, "transitions": transitions}
    known["metrics"] = metrics
    target.write_text(json.dumps(known))


def _parsed(line: str) -> list[dict[str, Any]]:
    found = json.loads(line)
    return found if isinstance(found, list) else [found]


def _happen(backbone: Backbone, backend: ScriptedBackend) -> dict[str, str]:
    """The ids of the tasks, by what becomes of each."""
    tasks: dict[str, str] = {}

    def submit(what: str, path: str) -> str:
        tasks[what] = backbone.submit(path)
        return tasks[what]

    reported = submit("reported", PATH)
    backend.next_call(PATH)
    backbone.update(reported, "running").raise_for_status()
    backbone.heartbeat(reported, 1)
    backbone.complete(reported)
    completed = submit("completed", PATH)
    backend.next_call(PATH)
    backbone.complete(completed)
    backend.script(PATH, Answer(400), Answer(200))
    rejected = submit("rejected", PATH)
    backend.next_call(PATH)
    backbone.ended(rejected)
    cancelled = submit("cancelled", PATH)
    backend.next_call(PATH)
    backbone.http.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()
    silent = submit("silent", BRIEF)
    backend.next_call(BRIEF)
    backbone.heartbeat(silent, 1)  # without one, leases double
    backbone.ended(silent)
    _wait_for(backbone, PATH, lambda queue: queue["InFlight"] == 0)
    changed = {"Paused": True, "Rate": "1/3600s"}
    backbone.http.patch(f"/api/v1/queues{PATH}", json=changed).raise_for_status()
    headers = {"Start-Before": "1", "Callback": DESTINATION}
    expired = backbone.http.post(f"/api/v1/submit{PATH}", content=b"{}", headers=headers).raise_for_status()
    tasks["expired"] = expired.json()["TaskId"]
    backbone.ended(tasks["expired"])
    tasks["waiting"] = backbone.submit(PATH)
    return tasks


def _wait_for(backbone: Backbone, path: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    eventually(lambda: condition(backbone.http.get(f"/api/v1/queues{path}").raise_for_status().json()))
