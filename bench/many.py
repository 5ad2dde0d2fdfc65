"""A thousand small tasks in one request, beside a thousand submits, on the same development host.

The figure compares with single submits eight at a time: through as many connections as the SDK's ``map`` has had,
each with one request in flight. Other numbers of connections are shown beside it, and do not count. A request with a
thousand lines goes alone, the next one once it is answered.

What is measured is the taking of tasks. So the backend has one slot, and the delivery of the event is lost on purpose
for the task that gets it: all others wait. With more slots, the process that takes tasks would dispatch some of them
at the same time, which costs several times as much, and how many those are depends on when the queue looks for slots.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

import httpx

from bench.backend import BackendProcess
from bench.harness import Figure, Report, ratios, side_by_side, with_spread
from bench.load import Load, hammer, request
from bench.plausibility import require
from local.stack import Stack

PREFIX: Final = "/v1/bench"
TASKS: Final = 1_000
BODY: Final = "x" * 500
CONNECTIONS: Final = (8, 1, 32)
"""The first is that of the figure."""
SETTINGS: Final = {
    # Nothing is published again while tasks are taken.
    "REPUBLISH_S": "3600",
    "RECONCILER_SCHEDULE": "0 0 3 * * *",
    "RECONCILER_INTERVAL_S": "86400",
}
MANY: Final = "one request"


class _Bench:
    def __init__(self, stack: Stack, seconds: float) -> None:
        self._stack = stack
        self._seconds = seconds
        headers = {"x-functions-key": stack.key, "Content-Type": "text/plain; charset=utf-8"}
        self._single = request("POST", f"/api/v1/submit{PREFIX}/model", headers, BODY.encode())
        lines = (b'{"Body": "%b"}\n' % BODY.encode()) * TASKS
        headers["Content-Type"] = "application/x-ndjson"
        self._many = request("POST", f"/api/v1/submit-many{PREFIX}/model", headers, lines)
        # Once first: opening and loading on first use is not the cost of a request.
        for sent in (self._single, self._many):
            hammer(stack.host.url, lambda sent=sent: sent, connections=1, seconds=0.3)

    def singles(self, connections: int) -> float:
        """Tasks a second."""
        self._begin()
        load = self._load(self._single, connections)
        self._check_stored(len(load.latencies_s), connections)
        return load.rate

    def many(self) -> float:
        """Tasks a second."""
        self._begin()
        load = self._load(self._many, 1)
        self._check_stored(len(load.latencies_s) * TASKS, TASKS)
        return len(load.latencies_s) * TASKS / sum(load.latencies_s)

    def _load(self, sent: bytes, connections: int) -> Load:
        load = hammer(self._stack.host.url, lambda: sent, connections=connections, seconds=self._seconds)
        load.require(202)
        load.require_plausible(connections)
        return load

    def _begin(self) -> None:
        """Begin with an empty store, once nothing of the previous load is left."""
        grid = self._stack.event_grid_url
        httpx.post(f"{grid}/control/drain", json={"timeoutSeconds": 30}, timeout=40).raise_for_status()
        self._stack.redis.flush()
        self._stack.set_faults({"loseDelivery": {}})

    def _check_stored(self, answered: int, late: int) -> None:
        """What was answered is there, and no more than that and what was answered too late to count. None of it was
        dispatched."""
        with self._stack.client() as app:
            queue = app.get(f"/api/v1/queues{PREFIX}/model", timeout=60).raise_for_status().json()
        require(queue["Waiting"] == queue["Demand"], f"of {queue['Demand']:,} tasks, {queue['Waiting']:,} wait")
        stored = sum(queue[state] for state in ("Demand", "Completed", "Failed", "Cancelled"))
        require(
            answered <= stored <= answered + late, f"{answered:,} tasks were taken, and {stored:,} of them are stored"
        )


def run(quick: bool) -> list[Figure]:
    repeats, seconds = (2, 1.0) if quick else (5, 3.0)
    report = Report(
        "many",
        quick=quick,
        settings={"repeats": repeats, "seconds each": seconds, "tasks": TASKS, "body bytes": len(BODY), **SETTINGS},
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (
            BackendProcess(directory, reports=False) as backend,
            Stack(
                directory,
                backends={PREFIX: {"url": backend.address, "limit": 1}},
                with_model=False,
                settings=SETTINGS,
            ) as stack,
        ):
            bench = _Bench(stack, seconds)
            singles = {
                f"single submits, {each} at a time": lambda each=each: bench.singles(each) for each in CONNECTIONS
            }
            taken = side_by_side(repeats, {MANY: bench.many, **singles})
    report.table(
        f"tasks of {len(BODY)} bytes",
        ["", "tasks/s", f"{MANY} of {TASKS:,} ÷ this"],
        [
            (name, with_spread(rates), with_spread(ratios(taken[MANY], rates), 2) if name != MANY else "")
            for name, rates in taken.items()
        ],
    )
    report.figure(Figure.of("many", ratios(taken[MANY], taken[f"single submits, {CONNECTIONS[0]} at a time"])))
    return report.finish(samples=taken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
