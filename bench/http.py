"""Submit and status beside a handler that returns a constant, on the same development host.

A submit is parsed, validated and stored in Redis by one script. The app then publishes its event to the Event Grid
emulator, waits for the answer, and answers the caller. Deliveries of the event are further requests. One load loses
them on purpose, to measure submits alone; another one lets them arrive, and the same process dispatches the tasks.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

from bench.backend import BackendProcess
from bench.harness import Figure, Report, ratios, side_by_side, with_spread
from bench.load import Load, hammer, request
from local.processes import ChildProcess
from local.stack import ROOT, Stack

PREFIX: Final = "/v1/bench"
BODY: Final = b"x" * 500
CONNECTIONS: Final = 32
SETTINGS: Final = {
    # Nothing is published again while submits are measured.
    "REPUBLISH_S": "3600",
    "RECONCILER_SCHEDULE": "0 0 3 * * *",
    "RECONCILER_INTERVAL_S": "86400",
}


def run(quick: bool) -> list[Figure]:
    repeats, seconds = (2, 1.0) if quick else (5, 3.0)
    report = Report(
        "http",
        quick=quick,
        settings={
            "repeats": repeats,
            "seconds each": seconds,
            "connections": CONNECTIONS,
            "body bytes": len(BODY),
            **SETTINGS,
        },
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (
            BackendProcess(directory, reports=False) as backend,
            Stack(directory, backends={PREFIX: backend.address}, with_model=False, settings=SETTINGS) as stack,
            _constant_host(directory, stack.key) as constant,
        ):
            bench = _Bench(stack, constant, seconds)
            taken = side_by_side(
                repeats,
                {
                    "constant handler": bench.constant_handler,
                    "status": bench.status,
                    "submit": bench.submit,
                    "submit, nothing published (queue paused)": bench.submit_to_paused,
                    "submit, delivered and dispatched": bench.submit_dispatched,
                },
            )
    base = [load.rate for load in taken["constant handler"] if load]
    loads = {name: [load for load in samples if load] for name, samples in taken.items()}
    report.table(
        f"requests through {CONNECTIONS} connections",
        ["", "req/s", "÷ constant", "median ms", "p99 ms", "published", "client CPU"],
        [
            (
                name,
                with_spread([load.rate for load in samples]),
                with_spread(ratios([load.rate for load in samples], base), 2),
                f"{_percentile(samples, 50) * 1000:.1f}",
                f"{_percentile(samples, 99) * 1000:.1f}",
                f"{bench.published[name]:.2f}" if name in bench.published else "",
                f"{sum(load.client_cpu_s for load in samples) / sum(load.seconds for load in samples):.0%}",
            )
            for name, samples in loads.items()
            if samples
        ],
    )
    if not loads["submit, nothing published (queue paused)"]:
        report.note("queues cannot be paused in this app, so submits without a publish were not measured")
    report.note("published: events a submit; client CPU: of one core, by the load's own process")
    report.figure(Figure.of("submit", ratios([load.rate for load in loads["submit"]], base)))
    return report.finish(samples={name: [load.rate for load in samples] for name, samples in loads.items()})


class _Bench:
    """The loads, each for some seconds."""

    def __init__(self, stack: Stack, constant: ChildProcess, seconds: float) -> None:
        self._stack = stack
        self._constant = constant
        self._seconds = seconds
        self.published: dict[str, float] = {}
        key = {"x-functions-key": stack.key}
        headers = {**key, "Content-Type": "application/octet-stream"}
        self._constant_request = request("POST", f"/api/constant{PREFIX}/model", headers, BODY)
        self._submit_request = request("POST", f"/api/v1/submit{PREFIX}/model", headers, BODY)
        self._key = key
        # One connection first: opening and loading on first use is not the cost of a request.
        for host, sent in ((constant, self._constant_request), (stack.host, self._submit_request)):
            hammer(host.url, lambda sent=sent: sent, connections=4, seconds=0.3)

    def constant_handler(self) -> Load:
        return self._load(self._constant, self._constant_request, 202)

    def status(self) -> Load:
        self._begin(deliver=False)
        with self._stack.client() as app:
            submitted = app.post(f"/api/v1/submit{PREFIX}/model", content=BODY).raise_for_status().json()
        return self._load(self._stack.host, request("GET", f"/api/v1/tasks/{submitted['TaskId']}", self._key), 200)

    def submit(self) -> Load:
        self._begin(deliver=False)
        return self._submits("submit")

    def submit_dispatched(self) -> Load:
        self._begin(deliver=True)
        return self._submits("submit, delivered and dispatched")

    def submit_to_paused(self) -> Load | None:
        self._begin(deliver=True)
        queue = f"/api/v1/queues{PREFIX}/model"
        with self._stack.client() as app:
            if app.patch(queue, json={"Paused": True}).status_code != 200:
                return None
            try:
                return self._submits("submit, nothing published (queue paused)")
            finally:
                app.patch(queue, json={"Paused": False}).raise_for_status()

    def _begin(self, *, deliver: bool) -> None:
        """Begin with an empty store, once nothing of the previous load is left."""
        grid = self._stack.event_grid_url
        httpx.post(f"{grid}/control/drain", json={"timeoutSeconds": 30}, timeout=40).raise_for_status()
        self._stack.redis.flush()
        self._stack.set_faults({} if deliver else {"loseDelivery": {}})

    def _submits(self, name: str) -> Load:
        before = self._events()
        load = self._load(self._stack.host, self._submit_request, 202)
        # Including the requests whose answers came too late to count.
        self.published[name] = (self._events() - before) / (len(load.latencies_s) + CONNECTIONS)
        return load

    def _load(self, host: ChildProcess, sent: bytes, status: int) -> Load:
        load = hammer(host.url, lambda: sent, connections=CONNECTIONS, seconds=self._seconds)
        load.require(status)
        load.require_plausible(CONNECTIONS)
        return load

    def _events(self) -> int:
        return httpx.get(f"{self._stack.event_grid_url}/control/stats").raise_for_status().json()["published"]


def _constant_host(directory: Path, key: str) -> ChildProcess:
    return ChildProcess(
        "the host of the constant handler",
        [
            *(sys.executable, "-m", "local.functions_host", "--port", "0"),
            *("--script-root", Path(__file__).parent / "constant_app"),
        ],
        log_path=directory / "constant.log",
        environment={"PYTHONPATH": str(ROOT), "LOCAL_HOST_KEY": key, "LOCAL_MASTER_KEY": key + "-master"},
    )


def _percentile(loads: Sequence[Load], percent: int) -> float:
    latencies_s = sorted(latency_s for load in loads for latency_s in load.latencies_s)
    return latencies_s[min(len(latencies_s) - 1, len(latencies_s) * percent // 100)]
