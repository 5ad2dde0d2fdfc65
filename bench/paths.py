"""Paths that callers make up: how long another caller waits beside them.

Somebody asks for 12,000 queues that nobody knows, submits a task to each of 10,000 paths, a thousand below each of
ten prefixes, and to some more, which are refused. Once their tasks have ended, another caller asks for a task, call
after call: by turns there, and of a second app of the same kind to which none of this was done.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.backend import BackendProcess
from bench.harness import Figure, Report, ratios, side_by_side, with_spread
from bench.plausibility import require
from local.stack import Stack
from shared.dispatch.endpoint_bound import MOST_ENDPOINTS

PREFIXES: Final = tuple(f"/v1/bench{number}" for number in range(10))
UNKNOWN: Final = 12_000
EXCESS: Final = 100
"""How many paths are too many."""
CALLERS: Final = 16
INTERVAL_S: Final = 5
"""Of the reconciler. Each sample has a round of it."""
SAMPLE_S: Final = 6.0
PATIENCE_S: Final = 120.0


def run(quick: bool) -> list[Figure]:
    unknown, prefixes, repeats = (1_200, PREFIXES[:1], 2) if quick else (UNKNOWN, PREFIXES, 6)
    paths = MOST_ENDPOINTS * len(prefixes)
    report = Report("paths", quick=quick, settings={"unknown": unknown, "paths": paths, "repeats": repeats})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as parts:
        directory = Path(name)
        backend = parts.enter_context(BackendProcess(directory, answers=True))
        alone, beside = (_Caller(parts, directory / each, backend, prefixes) for each in ("alone", "beside"))
        began = side_by_side(1, {"alone": alone.sample, "beside": beside.sample})
        _make_up_paths(beside.app, unknown, prefixes)
        taken = side_by_side(repeats, {"alone": alone.sample, "beside": beside.sample})
    report.table(
        "another caller's GET of a task, ms",
        ["", "median before", "median then", "longest then"],
        [
            (
                each,
                with_spread([sample.median_ms for sample in began[each]], 2),
                with_spread([sample.median_ms for sample in samples], 2),
                with_spread([sample.longest_ms for sample in samples]),
            )
            for each, samples in taken.items()
        ],
    )
    report.note(f"{paths:,} paths were taken, and {EXCESS} more refused")
    report.figure(
        Figure.of("paths", ratios(*([sample.median_ms for sample in taken[each]] for each in ("beside", "alone"))))
    )
    report.figure(Figure.of("paths_longest", [sample.longest_ms for sample in taken["beside"]]))
    return report.finish()


@dataclass(frozen=True, slots=True)
class _Sample:
    """How long calls take."""

    median_ms: float
    longest_ms: float


class _Caller:
    """Somebody with one task, in an app that is started for it."""

    def __init__(self, parts: ExitStack, directory: Path, backend: BackendProcess, prefixes: Sequence[str]) -> None:
        stack = Stack(
            directory,
            backends={"/v1/own": backend.address, **dict.fromkeys(prefixes, backend.address)},
            with_model=False,
            settings={"RECONCILER_INTERVAL_S": str(INTERVAL_S)},
        )
        self.app = parts.enter_context(parts.enter_context(stack).client())
        submitted = self.app.post("/api/v1/submit/v1/own", content=b"{}")
        self._task = f"/api/v1/tasks/{submitted.raise_for_status().json()['TaskId']}"

    def sample(self) -> _Sample:
        calls_ms = [*self._calls_ms()]
        return _Sample(statistics.median(calls_ms), max(calls_ms))

    def _calls_ms(self) -> Iterator[float]:
        end_s = time.perf_counter() + SAMPLE_S
        while (began_s := time.perf_counter()) < end_s:
            self.app.get(self._task).raise_for_status()
            yield (time.perf_counter() - began_s) * 1000


def _make_up_paths(app: httpx.Client, unknown: int, prefixes: Sequence[str]) -> None:
    with ThreadPoolExecutor(CALLERS) as pool:
        asked = pool.map(app.get, (f"/api/v1/queues/{number}/unregistered/path" for number in range(unknown)))
        require({answer.status_code for answer in asked} == {404}, "each of these queues is unknown")
        paths = (f"{prefix}/{number}" for number in range(MOST_ENDPOINTS) for prefix in prefixes)
        submitted = [*pool.map(lambda path: app.post(f"/api/v1/submit{path}", content=b"{}"), paths)]
        require({answer.status_code for answer in submitted} == {202}, "a backend has so many endpoints")
        more = pool.map(lambda number: app.post(f"/api/v1/submit{prefixes[0]}/more/{number}"), range(EXCESS))
        require({answer.status_code for answer in more} == {429}, "it has no more")
        end_s = time.perf_counter() + PATIENCE_S
        ended = pool.map(lambda answer: _has_ended(app, answer.json()["TaskId"], end_s), submitted)
        require(all(ended), "all of their tasks end")


def _has_ended(app: httpx.Client, task_id: str, end_s: float) -> bool:
    while time.perf_counter() < end_s:
        task = app.get(f"/api/v1/tasks/{task_id}", headers={"Prefer": "wait=20"}).raise_for_status().json()
        if task["BackendStatus"] in ("completed", "failed"):
            return True
    return False
