"""What Prometheus reads over HTTP (contract B9). Prometheus' own parser is the judge."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest
from prometheus_client import Metric

from cache_manager.metrics import CONTENT_TYPE
from local.stack import Stack
from shared.store import COUNTS
from tests.cache_manager.test_metrics import families
from tests.contract.test_v1_series import series, total
from tests.contract.v1_support import complete_on_call, ended, new_path, submit
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

GAUGES = ("backbone_queue_waiting", "backbone_queue_in_flight", "backbone_queue_slots", "backbone_queue_paused")


def scraped(app: httpx.Client) -> dict[str, Metric]:
    answer = app.get("/api/v1/metrics").raise_for_status()
    assert answer.headers["Content-Type"] == CONTENT_TYPE
    return families(answer.text)


def samples(metric: Metric, path: str, suffix: str = "") -> Iterator[tuple[dict[str, str], float]]:
    for sample in metric.samples:
        if sample.labels.get("path") == path and sample.name == metric.name + suffix:
            yield {name: value for name, value in sample.labels.items() if name != "path"}, sample.value


def value(metrics: dict[str, Metric], name: str, path: str, suffix: str = "") -> float:
    [(labels, found)] = samples(metrics[name], path, suffix)
    assert not labels
    return found


def counted(metrics: dict[str, Metric], path: str) -> dict[str, float]:
    return {name: value(metrics, f"backbone_tasks_{name}", path, "_total") for name in COUNTS}


@pytest.mark.contract("B9.66")
def test_metrics_tell_how_each_endpoint_stands_and_what_was_counted(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    for number in range(3):
        ended(app, submit(app, path, str(number).encode()).json()["TaskId"])
    metrics = eventually(lambda: (found := scraped(app)) and counted(found, path)["completed"] == 3 and found)
    assert counted(metrics, path) == {"created": 3, "completed": 3, "failed": 0, "cancelled": 0, "retried": 0}
    states = {labels["state"]: number for labels, number in samples(metrics["backbone_tasks"], path)}
    assert states == {
        "created": 0,
        "delayed": 0,
        "dispatched": 0,
        "running": 0,
        "completed": 3,
        "failed": 0,
        "cancelled": 0,
    }
    assert value(metrics, "backbone_queue_oldest_wait_seconds", path) == 0
    for name in ("backbone_task_wait_seconds", "backbone_task_run_seconds"):
        buckets = {labels["le"]: count for labels, count in samples(metrics[name], path, "_bucket")}
        edges = [*buckets]
        assert (edges[0], edges[-1]) == ("0.1", "+Inf")
        assert all(low <= high for low, high in pairwise(buckets.values()))
        assert buckets["+Inf"] == value(metrics, name, path, "_count") == 3
        assert metrics[name].type == "histogram"
    assert metrics["backbone_tasks_created"].type == "counter"


@pytest.mark.contract("B9.66", "B9.67")
def test_gauges_are_the_numbers_of_the_queue_and_counters_those_of_the_series(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    backend.script(path, Answer(status=202))
    app.patch(f"/api/v1/queues{path}", json={"Paused": True, "Limit": 7}).raise_for_status()
    for _ in range(4):
        submit(app, path).raise_for_status()
    queue = app.get(f"/api/v1/queues{path}").raise_for_status().json()
    metrics = scraped(app)
    found = [value(metrics, name, path) for name in GAUGES]
    assert found == [queue["Waiting"], queue["InFlight"], queue["Slots"], 1]
    assert value(metrics, "backbone_queue_limit", path) == queue["Limit"] == 7
    assert value(metrics, "backbone_queue_oldest_wait_seconds", path) > 0
    document = series(app, path)
    assert counted(metrics, path) == {name: total(document, name.title()) for name in COUNTS}


@pytest.mark.contract("B9.66")
def test_a_queue_without_a_limit_has_no_number_for_it(app: httpx.Client) -> None:
    path = new_path()
    submit(app, path).raise_for_status()
    metrics = scraped(app)
    limits = metrics["backbone_queue_limit"].samples if "backbone_queue_limit" in metrics else []
    assert path not in {sample.labels["path"] for sample in limits}


@pytest.mark.contract("B9.66")
def test_metrics_tell_the_requests_in_flight(app: httpx.Client) -> None:
    path = new_path()
    report = {"ApiPath": path.lstrip("/"), "ServiceCluster": "east", "IncrementBy": 3}
    app.post("/api/CurrentProcessingUpsert", json=report).raise_for_status()
    [(labels, count)] = samples(scraped(app)["backbone_requests_in_flight"], path)
    assert (labels, count) == ({"cluster": "east"}, 3)


@pytest.mark.contract("B9.66")
def test_metrics_take_no_parameter_and_need_the_key(app: httpx.Client) -> None:
    assert app.get("/api/v1/metrics", params={"path": "/v1/a"}).status_code == 400
    assert app.get("/api/v1/metrics", headers={"x-functions-key": "guessed"}).status_code == 401


@pytest.mark.contract("B9.68")
def test_the_metrics_say_how_many_endpoints_are_left_out(app: httpx.Client) -> None:
    """None here. ``tests/cache_manager/test_metrics.py`` has more than there may be."""
    submit(app, new_path()).raise_for_status()
    assert [sample.value for sample in scraped(app)["backbone_endpoints_left_out"].samples] == [0]
