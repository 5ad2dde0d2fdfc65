"""Crowds: what many long statuses, reporters and series of metrics cost others, Redis and the app.

Somebody keeps 1,600 tasks with statuses of 65,000 characters, which four list page by page, again and again. Another
caller asks for a task: in this app, and by turns in one whose tasks have short statuses, which four list as well.

Then 40,000 instances report requests in flight to one counter: Redis' time for a report of a known one is compared
with that at a counter of ten. Last, a process with an exporter is told of 200,000 series of a gauge.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import httpx

from bench.commands import open_redis
from bench.harness import Figure, Report, Unmeasured, ratios, side_by_side, with_spread
from bench.plausibility import require
from local.redis_server import RedisServer
from local.stack import NO_TLS, Stack
from shared.store.request_counts import RequestCounts, RequestReport, TooManyReporters

MB: Final = 1_000_000
TASKS: Final = 1_600
STATUS_CHARS: Final = 65_000
LISTERS: Final = 4
PAGE: Final = 100
SAMPLE_S: Final = 6.0
INSTANCES: Final = 40_000
FEW_INSTANCES: Final = 10
REPORTS: Final = 2_000
KEEP_S: Final = 600.0
SERIES: Final = 200_000
TIMEOUT_S: Final = 60.0
CALLERS: Final = 8
BACKEND: Final = "http://127.0.0.1:9"
"""Nothing is dispatched."""


def run(quick: bool) -> list[Figure]:
    if sys.platform != "linux":
        raise Unmeasured("the peak of a process's memory is read from /proc, which only Linux has")
    tasks, instances, series, repeats = (200, 4_000, 20_000, 2) if quick else (TASKS, INSTANCES, SERIES, 5)
    settings = {"tasks": tasks, "listers": LISTERS, "instances": instances, "series": series, "repeats": repeats}
    report = Report("crowds", quick=quick, settings=settings)
    _lists(report, tasks, repeats)
    _reports(report, instances, repeats)
    grown_mb = [_in_its_own_process(series) for _ in range(repeats)]
    report.note(f"{series:,} series told to a gauge: the process grows by {with_spread(grown_mb, 1)} MB")
    report.figure(Figure.of("crowds_series", grown_mb))
    return report.finish()


@dataclass(frozen=True, slots=True)
class _Sample:
    """How long another caller's calls take while four list, what the lists answer, and the app's peak memory."""

    median_ms: float
    p99_ms: float
    pages: int
    refused: int
    peak_mb: float


class _Listed:
    """An app with so many tasks that have statuses of that length."""

    def __init__(self, parts: ExitStack, directory: Path, tasks: int, status: str) -> None:
        self._stack = parts.enter_context(Stack(directory, backends={"/v1/own": BACKEND}, with_model=False))
        self._app = parts.enter_context(self._stack.client())
        body = {"Endpoint": f"{BACKEND}/v1/own", "BackendStatus": "running", "Status": status}

        def create(_: int) -> str:
            return self._app.post("/api/CacheConnectorUpsert", json=body).raise_for_status().json()["TaskId"]

        with ThreadPoolExecutor(CALLERS) as pool:
            self._task, *_ = pool.map(create, range(tasks))

    def sample(self) -> _Sample:
        process = Path(f"/proc/{self._stack.host.pid}")
        (process / "clear_refs").write_text("5")  # the peak from here
        ended, statuses, waits_ms = threading.Event(), list[int](), list[float]()
        listers = [threading.Thread(target=self._list, args=(ended, statuses)) for _ in range(LISTERS)]
        for lister in listers:
            lister.start()
        end_s = time.perf_counter() + SAMPLE_S
        while (began_s := time.perf_counter()) < end_s:
            statuses.append(self._app.get(f"/api/v1/tasks/{self._task}").status_code)
            waits_ms.append((time.perf_counter() - began_s) * 1000)
        ended.set()
        for lister in listers:
            lister.join()
        peak_mb = int((process / "status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / MB
        p99_ms = sorted(waits_ms)[math.ceil(0.99 * len(waits_ms)) - 1]
        refused = sum(status != 200 for status in statuses)
        return _Sample(statistics.median(waits_ms), p99_ms, len(statuses) - len(waits_ms), refused, peak_mb)

    def _list(self, ended: threading.Event, statuses: list[int]) -> None:
        headers = {"x-functions-key": self._stack.key}
        with httpx.Client(base_url=self._stack.url, headers=headers, verify=NO_TLS, timeout=TIMEOUT_S) as app:
            parameters: dict[str, str | int] = {"limit": PAGE}
            while not ended.is_set():
                answer = app.get("/api/v1/tasks", params=parameters)
                statuses.append(answer.status_code)
                cursor = answer.json().get("NextCursor") if answer.is_success else None
                parameters = {"limit": PAGE, "cursor": cursor} if cursor else {"limit": PAGE}


def _lists(report: Report, tasks: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as parts:
        short = _Listed(parts, Path(name) / "short", tasks, "running")
        long = _Listed(parts, Path(name) / "long", tasks, "x" * STATUS_CHARS)
        taken = side_by_side(repeats, {"short statuses": short.sample, "long statuses": long.sample})
    report.table(
        f"another caller's GET of a task while {LISTERS} list {tasks:,}",
        ["", "median, ms", "p99, ms", "pages listed", "refused", "peak MB"],
        [
            (
                name,
                with_spread([sample.median_ms for sample in samples], 1),
                with_spread([sample.p99_ms for sample in samples], 1),
                with_spread([sample.pages for sample in samples]),
                sum(sample.refused for sample in samples),
                with_spread([sample.peak_mb for sample in samples]),
            )
            for name, samples in taken.items()
        ],
    )
    longs, shorts = taken["long statuses"], taken["short statuses"]
    by_turns = ratios([sample.median_ms for sample in longs], [sample.median_ms for sample in shorts])
    report.figure(Figure.of("crowds_lists", by_turns))
    report.figure(Figure.of("crowds_refused", [sum(sample.refused for sample in longs)]))
    report.figure(Figure.of("crowds_memory", [max(sample.peak_mb for sample in longs)]))


def _reports(report: Report, instances: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, RedisServer(Path(name)) as server:
        kept = asyncio.run(_join(server, instances))
        taken = side_by_side(
            repeats, {path: lambda path=path: asyncio.run(_report_us(server, path)) for path in ("few", "many")}
        )
    report.table(
        "Redis' time for a report of a known instance, µs",
        ["", "instances", "µs"],
        [("few", FEW_INSTANCES, with_spread(taken["few"], 1)), ("many", kept, with_spread(taken["many"], 1))],
    )
    report.note(f"of {instances:,} instances {kept:,} have a share, and the others are refused")
    report.figure(Figure.of("crowds_report", ratios(taken["many"], taken["few"])))


async def _join(server: RedisServer, instances: int) -> int:
    """Have so many instances report at one counter, and ten at another; how many of them have a share there."""
    redis = open_redis(server.url)
    counts = RequestCounts(redis.link)

    async def join(path: str, number: int) -> bool:
        try:
            await counts.report_all([RequestReport("crowd", path, 1, f"pod-{number}", KEEP_S)])
        except TooManyReporters:
            return False
        return True

    try:
        for number in range(FEW_INSTANCES):
            require(await join("few", number), "ten instances have room")
        joined = 0
        for first in range(0, instances, REPORTS):
            joined += sum(await asyncio.gather(*(join("many", first + number) for number in range(REPORTS))))
        return joined
    finally:
        await redis.aclose()


async def _report_us(server: RedisServer, path: str) -> float:
    """Redis' time for a report of an instance that has a share, in µs."""
    redis = open_redis(server.url)
    counts = RequestCounts(redis.link)
    try:
        await counts.report("crowd", path, 0, instance="pod-0", keep_s=KEEP_S)  # opens the connection
        began = _scripts_us(server)
        for number in range(REPORTS):
            await counts.report("crowd", path, 1 - number % 2 * 2, instance="pod-7", keep_s=KEEP_S)
        return (_scripts_us(server) - began) / REPORTS
    finally:
        await redis.aclose()


def _scripts_us(server: RedisServer) -> float:
    with server.connect() as client:
        stats: Any = client.info("commandstats")
    return stats["cmdstat_evalsha"]["usec"]


def _in_its_own_process(series: int) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grown_mb, series).result()


def _grown_mb(series: int) -> float:
    """How much a process grows that is told of so many series and exports them, in MB."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from shared import gauges

    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    gauges.DEPTH.set(1, path="/v1/first", state="created")
    reader.get_metrics_data()
    began_mb = _resident_mb()
    for number in range(series):
        gauges.DEPTH.set(number, path=f"/v1/made-up/{number}", state="created")
        if number % 1_000 == 0:
            reader.get_metrics_data()
    reader.get_metrics_data()
    return _resident_mb() - began_mb


def _resident_mb() -> float:
    pages: Sequence[str] = Path("/proc/self/statm").read_text().split()
    return int(pages[1]) * 4096 / MB
