"""Two owners at one endpoint, one of whom has 10,000 tasks waiting: how long each task of the other waits beyond what
it would wait alone, and whether slots that only one of them wants are idle.

In simulated time, with the app itself and a real Redis; so a run repeats exactly.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.harness import Figure, Report
from bench.plausibility import require
from bench.simulation import Backbone, Behaviour, Record, Wire, Work, simulate
from local.redis_server import RedisServer

SERVICE_S: Final = 1.0
FEW: Final = 40
"""How many tasks the other owner submits, one by one."""
SLOTS: Final = (1, 4, 32)
NAMES: Final = (("many", "a-few"), ("many", "z-few"))
"""Ties are broken by the owners' names, so that both orders are shown."""


def run(quick: bool) -> list[Figure]:
    many = 1_200 if quick else 10_000
    slots = SLOTS[1:2] if quick else SLOTS
    report = Report(
        "owners",
        quick=quick,
        settings={"tasks of the one": many, "of the other": FEW, "service time s": SERVICE_S, "slots": slots},
    )
    rows: list[tuple[object, ...]] = []
    worst: list[float] = []
    busy: list[float] = []
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        for count in slots:
            without = 1.0
            for name, per_owner in _bounds(count).items():
                beyond, utilisation = _beyond(server.url, many, count, per_owner)
                rows.append(
                    (count, name, f"{max(beyond):.2f}", f"{sum(beyond) / len(beyond):.2f}", f"{utilisation:.2%}")
                )
                worst.append(max(beyond))
                if not per_owner:
                    without = utilisation
                elif "hard" not in per_owner:
                    busy.append(utilisation / without)
    report.table(
        "the wait of a task of the other owner beyond that alone ÷ the service time",
        ["slots", "of an owner in flight", "worst", "mean", "busy while tasks wait"],
        rows,
    )
    report.note("A hard bound leaves slots idle on purpose while only one owner wants them.")
    report.figure(Figure.of("owners", [max(worst)]))
    report.figure(Figure.of("owners_busy", [min(busy)]))
    return report.finish()


def _bounds(slots: int) -> Mapping[str, Mapping[str, Any]]:
    half = max(1, slots // 2)
    return {
        "any number": {},
        f"{half} while others want more": {"in_flight": half},
        f"{half}, hard": {"in_flight": half, "hard": True},
    }


def _beyond(url: str, many: int, slots: int, per_owner: Mapping[str, Any]) -> tuple[Sequence[float], float]:
    """How much longer each task of the other owner waited than alone, in service times; the share of busy slots."""
    beyond: list[float] = []
    utilisation = 1.0
    for owners in NAMES:
        work = _work(many, slots, owners)
        beside = _run(url, work, per_owner)
        numbers = [number for number in range(len(work.services_s)) if work.owner(number) == owners[1]]
        alone_work = Work(
            tuple(SERVICE_S for _ in numbers), 1, slots, arrive_s=tuple(work.arrive_s[number] for number in numbers)
        )
        alone = _run(url, alone_work, per_owner)
        for at, number in enumerate(numbers):
            wait_s = beside.started[number] - beside.arrived[number]
            alone_s = alone.started[at] - alone.arrived[at]
            require(0 < alone_s < SERVICE_S, f"a task waited {alone_s:.3f} s alone")
            require(wait_s > 0, f"a task waited {wait_s:.3f} s")
            beyond.append((wait_s - alone_s) / SERVICE_S)
        utilisation = min(utilisation, beside.utilisation)
    require(0 < utilisation <= 1, f"{utilisation:.1%} of the slots were busy")
    return beyond, utilisation


def _work(many: int, slots: int, owners: tuple[str, str]) -> Work:
    """All of the one at once; then the other's, each when the one before has ended for sure, and at another moment of
    the service time."""
    first_s, between_s = 5 * SERVICE_S, 4.013 * SERVICE_S
    arrive_s = [*(number * 1e-4 for number in range(many)), *(first_s + nth * between_s for nth in range(FEW))]
    assert many * SERVICE_S / slots > 1.5 * arrive_s[-1], "the one has tasks waiting all the while"
    named = [owners[0]] * many + [owners[1]] * FEW
    order = sorted(range(len(named)), key=arrive_s.__getitem__)
    return Work(
        tuple(SERVICE_S for _ in named),
        1,
        slots,
        owners=tuple(named[number] for number in order),
        arrive_s=tuple(arrive_s[number] for number in order),
        awaited=owners[1],
    )


def _run(url: str, work: Work, per_owner: Mapping[str, Any]) -> Record:
    backends = json.dumps({"/v1/sim": {"url": "https://backend.example.org", "per_owner": dict(per_owner)}})
    record = simulate(Backbone(url, settings=(("BACKENDS", backends),))(work, Behaviour(), Wire()))
    worked_s = SERVICE_S * len(record.ended)
    require(
        worked_s <= record.makespan_s * work.slots, f"{worked_s} s of work ended within {record.makespan_s:.1f} s"
    )
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
