"""Paths that callers make up: how long another caller waits beside them.

A caller asks for a task, one call after the other, before and after. In between somebody has asked for 12,000 queues
that nobody knows, and submitted a task to each of 10,000 paths below one prefix, as far as the app takes them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx

from bench.backend import BackendProcess
from bench.harness import Figure, Report
from bench.plausibility import require
from local.stack import Stack

PREFIX: Final = "/v1/bench"
UNKNOWN: Final = 12_000
PATHS: Final = 10_000
CALLERS: Final = 16
INTERVAL_S: Final = 5


def run(quick: bool) -> list[Figure]:
    unknown, paths, seconds = (1_200, 1_200, 6.0) if quick else (UNKNOWN, PATHS, 20.0)
    report = Report("paths", quick=quick, settings={"unknown": unknown, "paths": paths, "seconds each": seconds})
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        BackendProcess(Path(name), slots=8, service_s=0.05) as backend,
        Stack(
            Path(name),
            backends={PREFIX: backend.address},
            with_model=False,
            settings={"RECONCILER_INTERVAL_S": str(INTERVAL_S)},
        ) as stack,
        stack.client() as app,
    ):
        task_id = app.post(f"/api/v1/submit{PREFIX}/own", content=b"{}").raise_for_status().json()["TaskId"]
        before_ms = [*_calls_ms(app, task_id, seconds)]
        asked = _statuses(app, [("GET", f"/api/v1/queues/{number}/unregistered/path") for number in range(unknown)])
        require(set(asked) == {404}, "each of these queues is unknown")
        taken = _statuses(app, [("POST", f"/api/v1/submit{PREFIX}/{number}") for number in range(paths)])
        require(set(taken) <= {202, 429} and 202 in taken, "paths are taken, or refused as too many")
        after_ms = [*_calls_ms(app, task_id, seconds)]
    rows = [("before", before_ms), ("after", after_ms)]
    report.table(
        "another caller's GET of a task",
        ["", "calls", "median ms", "p99 ms", "longest ms"],
        [
            (name, len(ms), f"{statistics.median(ms):.2f}", f"{_percentile(ms, 99):.1f}", f"{max(ms):.0f}")
            for name, ms in rows
        ],
    )
    report.note(f"Of {paths:,} paths, {taken.count(202):,} were taken; the others were too many.")
    report.figure(Figure.of("paths", [statistics.median(after_ms) / statistics.median(before_ms)]))
    return report.finish()


def _calls_ms(app: httpx.Client, task_id: str, seconds: float) -> Iterator[float]:
    """How long each call takes, over so many rounds of the reconciler as *seconds* have."""
    end_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s:
        app.get(f"/api/v1/tasks/{task_id}").raise_for_status()
        yield (time.perf_counter() - began_s) * 1000


def _statuses(app: httpx.Client, calls: Sequence[tuple[str, str]]) -> list[int]:
    with ThreadPoolExecutor(CALLERS) as pool:
        return [*pool.map(lambda call: app.request(*call).status_code, calls)]


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
