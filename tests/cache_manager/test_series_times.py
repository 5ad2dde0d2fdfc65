"""Which times a series has: such of which rows as short as its steps are kept."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import azure.functions as func
import pytest

from cache_manager import series_api
from cache_manager.series_api import get_series
from shared.http.problems import Problem
from shared.http.times import iso
from shared.store import SPANS_MIN, EndpointSeries, span_of
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock
from tests.shared.store.counted import submit
from tests.shared.store.fleet import PATH

MINUTE_MS = 60_000


@pytest.fixture(autouse=True)
def app_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_api, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))


async def series(process: Process, **query: str) -> dict[str, Any]:
    request = func.HttpRequest("GET", "http://127.0.0.1/api/v1/series", params={"path": PATH, **query}, body=b"")
    [found] = json.loads((await get_series(request, process.services)).get_body())["Series"]
    return found


@pytest.mark.parametrize(("kept_min", "span_min"), [(360, 1), (7 * 1440, 10)])
async def test_all_that_is_kept_of_a_span_can_be_asked_for_by_it(
    redis_url: str, clock: Clock, kept_min: int, span_min: int
) -> None:
    process = Process.start(redis_url, clock)
    kept_ms, span_ms = kept_min * MINUTE_MS, span_min * MINUTE_MS
    clock.ms += -clock.ms % (60 * MINUTE_MS)
    first_ms = clock.ms
    expected: dict[str, int] = {}
    for number, after_ms in enumerate((0, 3 * span_ms, kept_ms // 2)):
        clock.ms = first_ms + after_ms
        await submit(process.store, f"t{number}")
        if after_ms:
            expected[iso(clock.ms)] = 1
    # In the middle of a span, so that the first one is not whole.
    clock.ms = first_ms + kept_ms + span_ms // 2
    found = await series(process, **{"from": iso(clock.ms - kept_ms)})
    assert found["StepSeconds"] == span_min * 60
    created = dict(zip(found["Times"], found["Created"], strict=True))
    assert {time: count for time, count in created.items() if count} == expected


@pytest.mark.parametrize("step_min", [1, 2, 7, 10, 60, 90, 1440, 166_666])
async def test_steps_are_made_of_whole_rows(redis_url: str, clock: Clock, step_min: int) -> None:
    """As :meth:`EndpointSeries.read` wants them."""
    process = Process.start(redis_url, clock)
    clock.ms += -clock.ms % (60 * MINUTE_MS) + 90_000
    asked: list[tuple[int, int, int]] = []
    read = EndpointSeries.read

    async def reading(series: EndpointSeries, path: str, start: int, end: int, step: int, now: int) -> Any:
        asked.append((start, end, step))
        return await read(series, path, start, end, step, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndpointSeries, "read", reading)
        for ago_min in (*range(1, 400, 7), 360, 7 * 1440, 7 * 1440 - 4):
            try:
                await series(process, **{"from": iso(clock.ms - ago_min * MINUTE_MS), "step": str(step_min * 60)})
            except Problem as problem:
                assert problem.document["errors"][0]["pointer"] == "step"
    for start_ms, end_ms, step_ms in asked:
        assert start_ms < end_ms
        assert step_ms % (SPANS_MIN[span_of(start_ms, clock.ms)] * MINUTE_MS) == 0
