"""Outages in simulated time. Of the backend: how soon the waiting tasks go on, and how many attempts it costs. Of
Event Grid: how long slots stand idle for which tasks wait.

The service is away with all the tasks that it had: it refuses connections, or accepts them and never answers. The
reference is an ideal queue, which knows at once that the service is back, and which tasks were lost.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Final

from bench.harness import Figure, Report
from bench.plausibility import require
from bench.saturation import Outcome
from bench.simulation import RECONCILER_S, Backbone, Behaviour, Outage, Silence, Wire, Work, ideal, simulate
from local.redis_server import RedisServer

SLOTS: Final = 4
SERVICE_S: Final = 20.0
BEGINS_S: Final = 100.0
MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
OUTAGES_S: Final = {"12 minutes": 12 * MINUTE_S, "6 hours": 360 * MINUTE_S}
TASKS: Final = 200
REPUBLISH_S: Final = 30.0
"""The default of the setting."""


def work_of(outage_s: float, *, hangs: bool, tasks: int = TASKS) -> Work:
    outage = Outage(BEGINS_S, outage_s, SLOTS, hangs)
    return Work((SERVICE_S,) * tasks, 100, SLOTS, outage.changes, (outage,))


def outcome_of(url: str, work: Work) -> Outcome:
    record, of_ideal = (simulate(run(work, Behaviour(), Wire())) for run in (Backbone(url), ideal))
    require(record.makespan_s >= of_ideal.makespan_s, "no queue is faster than the ideal one")
    require(len(record.probes) > 0, "the outage was not met by any dispatch")
    return Outcome(record, of_ideal)


def idle_without_events_s(url: str, *, refuses: bool, seconds: float = HOUR_S) -> tuple[float, float]:
    """The longest that a slot stands idle for which a task waits, if Event Grid is away from the beginning on: at
    first, and once the app knows it."""
    work = Work((SERVICE_S,) * round(seconds / 50), 1 / 50, SLOTS, silences=(Silence(0, seconds, refuses),))
    record = simulate(Backbone(url)(work, Behaviour(), Wire()))
    require(len(record.ended) == len(work.services_s), "all tasks end without Event Grid")
    return record.longest_idle_s(), record.longest_idle_s(REPUBLISH_S + 2 * RECONCILER_S)


def run(quick: bool) -> list[Figure]:
    report = Report(
        "outage",
        quick=quick,
        settings={"tasks": TASKS, "slots": SLOTS, "service time s": SERVICE_S, "outage begins s": BEGINS_S},
    )
    lengths = {"12 minutes": OUTAGES_S["12 minutes"]} if quick else OUTAGES_S
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        for (name, seconds), hangs in product(lengths.items(), (False, True)):
            if hangs and seconds > HOUR_S:
                continue  # takes the longest, and shows the same
            kind = "accepts and never answers" if hangs else "refuses connections"
            outcomes[f"{name}, {kind}"] = outcome_of(server.url, work_of(seconds, hangs=hangs))
        idle_s = {
            kind: idle_without_events_s(server.url, refuses=refuses)
            for kind, refuses in (("delivers nothing", False), ("refuses events", True))
        }
    report.table(
        "An outage of a service of 4 slots, in simulated time",
        ["outage", "makespan ÷ ideal", "attempts lost", "dispatches meanwhile"],
        [
            [name, f"{each.makespan:.3f}", str(each.record.attempts_lost), str(len(each.record.probes))]
            for name, each in outcomes.items()
        ],
    )
    report.table(
        "An hour without Event Grid: the longest that a slot stood idle for which a task waited, in simulated time",
        ["Event Grid", "at first, s", "from then on, s"],
        [[kind, f"{first_s:.1f}", f"{later_s:.1f}"] for kind, (first_s, later_s) in idle_s.items()],
    )
    report.figure(Figure.of("outage", [max(each.makespan for each in outcomes.values())]))
    report.figure(Figure.of("outage_attempts", [sum(each.record.attempts_lost for each in outcomes.values())]))
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
