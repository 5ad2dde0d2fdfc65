"""A full backend in simulated time: how well four dispatchers keep its slots busy while tasks wait.

The fleet grows and shrinks meanwhile. All dispatchers get the same tasks with the same service times. The reference
is an ideal queue, which knows of each slot at once and has no network.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench.harness import Figure, Report, with_spread
from bench.plausibility import require
from bench.simulation import (
    EVENT_GRID_DELAYS_S,
    Backbone,
    Behaviour,
    Change,
    Dispatching,
    Record,
    Retrying,
    Wire,
    Work,
    ideal,
    simulate,
)
from local.redis_server import RedisServer

MEAN_S: Final = 10.0
SLOTS: Final = 16
RATE_PER_S: Final = 200.0
GROWTH: Final = ((0.20, 16), (0.45, -20), (0.60, 24), (0.80, -8))
"""The times at which slots are added and removed, as shares of the time that the work would take on average."""
MEAN_SLOTS: Final = 24
LEASE_S: Final = 60.0
"""The lease in runs with killed tasks; a model service reports three times as often."""
SIGMA: Final = 1.5
LONGEST: Final = 20
"""The heavy tail is cut off at this multiple of the mean, so that no single task determines the makespan."""

LAWS: Final[Mapping[str, Callable[[random.Random], float]]] = {
    "constant": lambda chance: 1.0,
    "exponential": lambda chance: chance.expovariate(1.0),
    "heavy-tailed": lambda chance: min(chance.lognormvariate(-(SIGMA**2) / 2, SIGMA), LONGEST),
}

OURS: Final = "ours"
LEGACY: Final = "Event Grid's retries, as it was"
UNLIMITED: Final = "Event Grid's retries, without end"
FIXED: Final = "every 60 s"
MODELS: Final[Mapping[str, Dispatching]] = {
    LEGACY: Retrying(EVENT_GRID_DELAYS_S, attempts=3, ttl_s=300),
    UNLIMITED: Retrying(EVENT_GRID_DELAYS_S),
    FIXED: Retrying((60,), lease_s=LEASE_S),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A deviation from the main comparison."""

    name: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    killed: bool = False
    mean_s: float = MEAN_S


VARIANTS: Final = (
    Variant("a slot is free 40 ms after the report", Behaviour(frees_late_s=0.040)),
    Variant("a slot is free 250 ms after the report", Behaviour(frees_late_s=0.250)),
    Variant("503 with Retry-After: 10", Behaviour(retry_after_s=10)),
    Variant(f"slots are killed with their tasks, lease {LEASE_S:.0f} s", killed=True),
)
OTHER_TIMES: Final = (Variant("tasks of 1 s", mean_s=1.0), Variant("tasks of 60 s", mean_s=60.0))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, and that of the ideal queue."""

    record: Record
    of_ideal: Record

    @property
    def makespan(self) -> float:
        return self.record.makespan_s / self.of_ideal.makespan_s


def run(quick: bool) -> list[Figure]:
    tasks, seeds = (1000, (1,)) if quick else (1500, (1, 2, 3, 4, 5, 6))
    wire = Wire()
    report = Report(
        "saturation",
        quick=quick,
        settings={
            "tasks": tasks,
            "mean service time s": MEAN_S,
            "heavy-tailed": f"lognormal, sigma {SIGMA}, at most {LONGEST} times the mean",
            "slots": f"{SLOTS}, then by shares of the expected time: {GROWTH}",
            "submitted per s": RATE_PER_S,
            "one way, s": {
                "POST": wire.post_s,
                "report": wire.report_s,
                "event": wire.event_s,
                "Redis": wire.redis_s,
            },
            "seeds": seeds,
        },
    )
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        ours = Backbone(server.url, sample_every_s=MEAN_S / 2)
        main = {
            law: [
                _outcomes({OURS: ours, **MODELS}, work_of(law, tasks, seed), Behaviour(), wire)
                for seed in _seeds(law, seeds)
            ]
            for law in LAWS
        }
        steady = {
            f"{law}, the fleet stays": [
                simulate(ours(work_of(law, tasks, seed, growth=()), Behaviour(), wire))
                for seed in _seeds(law, seeds)[:3]
            ]
            for law in (() if quick else LAWS)
        }
        ours = replace(ours, lease_s=LEASE_S, sample_every_s=None)
        others = {
            (variant.name, law): _outcomes(
                {OURS: ours}, _work(law, tasks, seeds[0], variant), variant.behaviour, wire
            )[OURS]
            for variant in (VARIANTS if quick else VARIANTS + OTHER_TIMES)
            for law in (("exponential",) if quick or variant in OTHER_TIMES else LAWS)
        }
    _add_table_of_dispatchers(report, main)
    _add_table_of_variants(report, others)
    changing = {f"{law}, it changes": [outcomes[OURS].record for outcomes in runs] for law, runs in main.items()}
    _add_table_of_waits(report, steady | changing)
    _draw(report, main["exponential"][0])
    report.note(
        "Event Grid would also delay new events to an endpoint that refuses, up to hours; that is left out, in its "
        "favour. Where tasks are lost, the makespan is that of the others."
    )
    report.note(
        "What is lost is lost when the fleet changes: with fewer tasks between two changes the figure is larger. The "
        "ideal queue's slots are free at once, also where the fleet's are late."
    )
    report.figure(
        Figure.of(
            "makespan",
            [
                max(runs[min(repeat, len(runs) - 1)][OURS].makespan for runs in main.values())
                for repeat in range(len(seeds))
            ],
        )
    )
    return report.finish()


def _seeds(law: str, seeds: Sequence[int]) -> Sequence[int]:
    return seeds[:1] if law == "constant" else seeds


def work_of(
    law: str,
    tasks: int,
    seed: int,
    *,
    mean_s: float = MEAN_S,
    growth: Sequence[tuple[float, int]] = GROWTH,
    killed: bool = False,
) -> Work:
    """Tasks whose service times follow a *law*, for a changing fleet."""
    chance = random.Random(f"{law} {seed}")
    drawn = [LAWS[law](chance) for _ in range(tasks)]
    scale = mean_s * tasks / math.fsum(drawn)
    expected_s = tasks * mean_s / MEAN_SLOTS
    changes = tuple(Change(share * expected_s, slots, killed and slots < 0) for share, slots in growth)
    return Work(tuple(scale * share for share in drawn), RATE_PER_S, SLOTS if growth else MEAN_SLOTS, changes)


def _work(law: str, tasks: int, seed: int, variant: Variant) -> Work:
    return work_of(law, tasks, seed, mean_s=variant.mean_s, killed=variant.killed)


def _outcomes(
    dispatchers: Mapping[str, Dispatching], work: Work, behaviour: Behaviour, wire: Wire
) -> dict[str, Outcome]:
    of_ideal = _plausible("the ideal queue", simulate(ideal(work, behaviour, wire)))
    return {
        name: Outcome(_plausible(name, simulate(dispatch(work, behaviour, wire))), of_ideal)
        for name, dispatch in dispatchers.items()
    }


def _plausible(name: str, record: Record) -> Record:
    """A run in simulated time repeats exactly, so an implausible one is not repeated.

    Raises:
        ImplausibleFigure: the slots completed more work than they can.
    """
    most_slots = max(slots for _, slots, *_ in record.steps)
    worked_s = math.fsum(record.work.services_s[number] for number in record.ended)
    require(
        worked_s <= record.makespan_s * most_slots * (1 + 1e-9),
        f"{name}: {worked_s:,.3f} s of work ended within {record.makespan_s:,.3f} s on at most {most_slots} slots",
    )
    return record


def _add_table_of_dispatchers(report: Report, main: Mapping[str, Sequence[Mapping[str, Outcome]]]) -> None:
    for law, runs in main.items():
        rows: list[tuple[object, ...]] = []
        for name in runs[0]:
            outcomes = [outcomes[name] for outcomes in runs]
            records = [outcome.record for outcome in outcomes]
            rows.append(
                (
                    name,
                    with_spread([outcome.makespan for outcome in outcomes], 4 if name == OURS else 2),
                    f"{statistics.median(record.utilisation for record in records):.1%}",
                    f"{statistics.median(_per_task(record.refused, record) for record in records):.2f}",
                    f"{_worst_fill_s(records):.1f}",
                    f"{statistics.median(len(record.lost) / len(record.arrived) for record in records):.0%}",
                )
            )
        report.table(
            f"{law} service times, the fleet changes",
            ["", "makespan ÷ ideal", "busy while tasks wait", "refusals a task", "slowest fill, s", "tasks lost"],
            rows,
        )


def _add_table_of_variants(report: Report, others: Mapping[tuple[str, str], Outcome]) -> None:
    report.table(
        "ours, with one deviation each",
        [
            "",
            "makespan ÷ ideal",
            "busy while tasks wait",
            "refused: probes",
            "others",
            "slots removed",
            "slowest fill, s",
        ],
        [
            (
                f"{name}; {law}",
                f"{outcome.makespan:.4f}",
                f"{outcome.record.utilisation:.1%}",
                len(outcome.record.refused_probes),
                len(outcome.record.refused_grants),
                -sum(change.slots for change in outcome.record.work.changes if change.slots < 0),
                f"{_worst_fill_s([outcome.record]):.1f}",
            )
            for (name, law), outcome in others.items()
        ],
    )


def _add_table_of_waits(report: Report, records: Mapping[str, Sequence[Record]]) -> None:
    rows: list[tuple[object, ...]] = []
    for law, of_law in records.items():
        shares = [estimated_s / true_s for record in of_law for estimated_s, true_s in record.waits if true_s >= 1]
        errors = sorted(abs(share - 1) for share in shares)
        if errors:
            ninth = errors[int(0.9 * len(errors))]
            rows.append(
                (
                    law,
                    len(shares),
                    f"{statistics.median(errors):.2f}",
                    f"{ninth:.2f}",
                    f"{statistics.median(shares):.2f}",
                )
            )
    report.table(
        "ours: the estimated wait of a task ÷ the true one (for waits of a second or more)",
        ["", "asked", "median error", "90 % are within", "median"],
        rows,
    )


def _draw(report: Report, outcomes: Mapping[str, Outcome]) -> None:
    of_ideal = outcomes[OURS].of_ideal
    until_s = 2 * of_ideal.makespan_s
    shown = {"ideal": of_ideal, **{name: outcome.record for name, outcome in outcomes.items()}}
    with report.picture(9, 5) as picture:
        axes = picture.add_subplot()
        times, slots = _curve(((at_s, slots) for at_s, slots, *_ in shown[OURS].steps), until_s)
        axes.fill_between(times, slots, step="post", color="0.9", label="slots")
        for name, record in shown.items():
            times, busy = _curve(((at_s, busy) for at_s, _, busy, _ in record.steps), until_s)
            axes.step(times, busy, where="post", label=name, linewidth=2.2 if name == OURS else 1)
        axes.set(xlabel="simulated seconds", ylabel="busy slots", xlim=(0, until_s), ylim=(0, None))
        axes.legend(loc="upper right", fontsize="small")


def _curve(steps: Iterable[tuple[float, int]], until_s: float) -> tuple[list[float], list[int]]:
    """The last value in each of 500 intervals: no more points than the picture can show."""
    last = {int(500 * at_s / until_s): value for at_s, value in steps if at_s <= until_s}
    value, values = 0, []
    for interval in range(501):
        value = last.get(interval, value)
        values.append(value)
    return [interval * until_s / 500 for interval in range(501)], values


def _per_task(refused: Sequence[float], record: Record) -> float:
    return len(refused) / len(record.arrived)


def _worst_fill_s(records: Iterable[Record]) -> float:
    return max((fill_s for record in records for fill_s in record.fills_s), default=math.nan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
