"""A file of 2 GiB up, through a model of the SDK and down again: how much memory the app, the service and the caller
need for it, above what they have when idle. ``sdk/bench/large.py`` makes the way, with the SDK and on the command
line; a quick run takes 96 MiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.harness import Figure, Report, Unmeasured
from sdk.bench import large


def run(quick: bool) -> list[Figure]:
    if sys.platform != "linux":
        raise Unmeasured("Only Linux tells the peak of a process's memory from some moment on.")
    mib = 96 if quick else 2048
    report = Report("large", quick=quick, settings={"MiB": mib})
    ways = large.measure(mib * 1024 * 1024, Path(sys.executable))
    rows = [
        (
            name,
            f"{way.seconds:.1f}",
            f"{mib / way.seconds:.0f}",
            *(f"{each:.0f}" for each in (way.app_mib, way.service_mib, way.caller_mib)),
        )
        for name, way in ways.items()
    ]
    report.table(f"{mib:,} MiB there and back", ("", "s", "MiB/s", "app", "service", "caller MiB"), rows)
    for name in ("app", "service", "caller"):  # the way that needs more of it
        report.figure(Figure.of(f"large_{name}", [max(getattr(way, f"{name}_mib") for way in ways.values())]))
    return report.finish(ways={name: vars(way) for name, way in ways.items()})
