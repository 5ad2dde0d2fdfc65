"""An outage of the backend in simulated time: how soon the waiting tasks go on, and how many attempts it costs.

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
from bench.simulation import Backbone, Behaviour, Outage, Wire, Work, ideal, simulate
from local.redis_server import RedisServer

SLOTS: Final = 4
SERVICE_S: Final = 20.0
BEGINS_S: Final = 100.0
MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
OUTAGES_S: Final = {"12 minutes": 12 * MINUTE_S, "6 hours": 360 * MINUTE_S}
TASKS: Final = 200


def work_of(outage_s: float, *, hangs: bool, tasks: int = TASKS) -> Work:
    outage = Outage(BEGINS_S, outage_s, SLOTS, hangs)
    return Work((SERVICE_S,) * tasks, 100, SLOTS, outage.changes, (outage,))


def outcome_of(url: str, work: Work) -> Outcome:
    record, of_ideal = (simulate(run(work, Behaviour(), Wire())) for run in (Backbone(url), ideal))
    require(record.makespan_s >= of_ideal.makespan_s, "no queue is faster than the ideal one")
    require(len(record.probes) > 0, "the outage was not met by any dispatch")
    return Outcome(record, of_ideal)


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
    report.table(
        "An outage of a service of 4 slots, in simulated time",
        ["outage", "makespan ÷ ideal", "attempts lost", "dispatches meanwhile"],
        [
            [name, f"{each.makespan:.3f}", str(each.record.attempts_lost), str(len(each.record.probes))]
            for name, each in outcomes.items()
        ],
    )
    report.figure(Figure.of("outage", [max(each.makespan for each in outcomes.values())]))
    report.figure(Figure.of("outage_attempts", [sum(each.record.attempts_lost for each in outcomes.values())]))
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
