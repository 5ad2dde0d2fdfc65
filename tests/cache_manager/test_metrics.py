"""What Prometheus reads. Its own parser is the judge."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import azure.functions as func
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cache_manager.metrics import Standing, metrics_text
from cache_manager.metrics_api import MOST_PATHS, get_metrics
from shared.store import COUNTS, LAST_BIN, OTHER, Depth, RequestCount, Totals


def families(text: str) -> dict[str, Metric]:
    """The metrics by their names, each of which is there once and described."""
    found = [*text_string_to_metric_families(text)]
    by_name = {family.name: family for family in found}
    assert len(by_name) == len(found)
    assert all(family.documentation and family.type != "unknown" for family in found)
    return by_name


def totals(limit: int | None = None, rate: float | None = None) -> Totals:
    return Totals(dict.fromkeys(COUNTS, 1), 1, 2, 3, limit, rate, False, {0: 1, LAST_BIN: 2}, {5: 1})


def standing(path: str) -> Standing:
    return Standing(path, Depth(created=1, oldest_waiting_ms=1_500), totals())


@pytest.mark.parametrize(
    "path", ['/v1/"quoted"', "/v1/back\\slash", "/v1/line\nbreak", "/v1/ünïcode/日本", '/v1/\\n"} 1 #', "/v1/a\r"]
)
def test_a_path_of_any_characters_comes_back_as_it_is(path: str) -> None:
    found = families(metrics_text([standing(path), standing("/v1/b")], 0))
    for name in ("backbone_queue_waiting", "backbone_task_wait_seconds", "backbone_tasks_created"):
        assert {sample.labels["path"] for sample in found[name].samples} == {path, "/v1/b"}


def test_a_bucket_has_all_that_waited_no_longer() -> None:
    samples = families(metrics_text([standing("/v1/a")], 0))["backbone_task_wait_seconds"].samples
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    edges = [float(edge) for edge in buckets]
    assert edges[:3] == [0.1, 0.2, 0.4] and edges[-2:] == [104857.6, float("inf")]
    assert [*buckets.values()] == [1] * LAST_BIN + [3]
    assert [sample.value for sample in samples if sample.name.endswith("_count")] == [3]
    assert not [sample for sample in samples if sample.name.endswith("_sum")], "nobody knows it"


def test_a_limit_is_told_of_where_there_is_one() -> None:
    limited = Standing("/v1/b", Depth(), totals(limit=4))
    found = families(metrics_text([standing("/v1/a"), limited], 0))["backbone_queue_limit"].samples
    assert [(sample.labels["path"], sample.value) for sample in found] == [("/v1/b", 4)]


def test_a_rate_is_told_of_where_there_is_one() -> None:
    rated = Standing("/v1/b", Depth(), totals(rate=1.5))
    found = families(metrics_text([standing("/v1/a"), rated], 0))["backbone_queue_rate"].samples
    assert [(sample.labels["path"], sample.value) for sample in found] == [("/v1/b", 1.5)]


def test_a_pipeline_has_tasks_and_no_queue() -> None:
    found = families(metrics_text([Standing("all", Depth(failed=2), None)], 0))
    assert set(found) == {"backbone_tasks", "backbone_endpoints_left_out"}


async def test_of_very_many_endpoints_those_that_have_tasks_come_first() -> None:
    used = {"/v1/zz", "/v1/zy", "batches"}
    counted = [OTHER, *(f"/v1/a/{number:05}" for number in range(MOST_PATHS)), *used - {"batches"}]
    asked: list[Sequence[str]] = []

    async def answer(found: Any) -> Any:
        return found

    def depths(*paths: str) -> Any:
        asked.append(paths)
        return answer({path: Depth() for path in paths})

    def sums(paths: Sequence[str]) -> Any:
        asked.append(paths)
        return answer({path: totals() for path in paths})

    store = SimpleNamespace(
        queues=SimpleNamespace(paths=lambda: answer(used), depths=depths),
        series=SimpleNamespace(paths=lambda: answer(counted), totals=sums),
    )
    request = func.HttpRequest("GET", "http://127.0.0.1/api/v1/metrics", body=b"")
    requests = SimpleNamespace(page=lambda limit: answer(([RequestCount("east", "/v1/a", 7, None)], None)))
    response = await get_metrics(request, cast("Any", SimpleNamespace(store=store, request_counts=requests)))
    found = families(response.get_body().decode())
    assert found["backbone_endpoints_left_out"].samples[0].value == 3
    [in_flight] = found["backbone_requests_in_flight"].samples
    assert (in_flight.labels, in_flight.value) == ({"cluster": "east", "path": "/v1/a"}, 7)
    shown = {sample.labels["path"] for sample in found["backbone_queue_waiting"].samples}
    assert len(shown) == MOST_PATHS - 1 and used - {"batches"} <= shown and OTHER not in shown
    assert {len(paths) for paths in asked} == {MOST_PATHS, MOST_PATHS - 1}
