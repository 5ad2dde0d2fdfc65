"""The SDK: what it weighs, what a service costs beside other servers of models, and what it does in trouble.

``sdk/bench/foreign.py`` asks the servers, ``sdk/bench/services.py`` makes the trouble.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from bench.harness import TARGETS, Figure, Report, Unmeasured, side_by_side, with_spread
from bench.plausibility import require
from sdk.bench import foreign, services
from tests.sdk import package
from tests.sdk.environments import Failure

_KB: Final = 1024


def run(quick: bool) -> list[Figure]:
    repeats, calls = (1, 200) if quick else (5, 2000)
    report = Report(
        "sdk",
        quick=quick,
        settings={
            "repeats": repeats,
            "calls": calls,
            "small bytes": foreign.SMALL_BYTES,
            "large bytes": foreign.LARGE_BYTES,
        },
    )
    try:
        wheel = package.build()
        weight = package.footprint(wheel)
        pythons = foreign.pythons(wheel)
    except Failure as failure:
        raise Unmeasured(str(failure)) from None
    report.figure(Figure.of("sdk_packages", [len(weight.packages)]))
    report.figure(Figure.of("sdk_wheel", [wheel.stat().st_size / _KB]))
    report.figure(Figure.of("sdk_install", [weight.install_s]))
    report.figure(Figure.of("sdk_import", [weight.client_cpu_ms]))
    measures: Mapping[str, Callable[[], foreign.Measured]] = {
        name: partial(foreign.measure, name, pythons[name], calls) for name in foreign.CATALOGUE
    }
    taken = side_by_side(repeats, measures)
    _show_servers(report, taken)
    ours, bare = taken[foreign.OURS], taken[foreign.BARE]
    report.figure(Figure.of("sdk_ready", [each.ready_s for each in ours]))
    report.figure(Figure.of("sdk_processes", [each.processes for each in ours]))
    report.figure(Figure.of("sdk_pss", [each.pss_mib for each in ours]))
    report.figure(Figure.of("sdk_call", _more([e.small_ms for e in ours], [e.small_ms for e in bare])))
    report.figure(Figure.of("sdk_call_cpu", _more([e.small_cpu_ms for e in ours], [e.small_cpu_ms for e in bare])))
    report.figure(Figure.of("sdk_call_large", _more([e.large_ms for e in ours], [e.large_ms for e in bare])))
    troubles = services.measure(pythons[foreign.OURS], quick=quick, repeats=1 if quick else 3)
    for key, samples in troubles.items():
        if key in TARGETS:
            report.figure(Figure.of(key, samples))
    return report.finish(
        troubles=troubles, servers={name: [vars(each) for each in runs] for name, runs in taken.items()}
    )


def _more(ours: Sequence[float], bare: Sequence[float]) -> list[float]:
    """By how much ours takes longer than a bare handler, round by round."""
    more = [our - their for our, their in zip(ours, bare, strict=True)]
    require(statistics.median(more) > 0, "ours is faster than a handler that does nothing")
    return more


def _show_servers(report: Report, taken: Mapping[str, Sequence[foreign.Measured]]) -> None:
    report.table(
        "a hello: counts the characters of a text",
        ["", "ready s", "processes", "PSS MiB", "500 B: ms", "CPU ms", "500 KB: ms", "refused"],
        [
            (
                name,
                with_spread([each.ready_s for each in runs], 2),
                with_spread([each.processes for each in runs]),
                with_spread([each.pss_mib for each in runs]),
                with_spread([each.small_ms for each in runs], 2),
                with_spread([each.small_cpu_ms for each in runs], 2),
                with_spread([each.large_ms for each in runs], 1),
                with_spread([each.refused for each in runs]),
            )
            for name, runs in taken.items()
        ],
    )
