"""The SDK: what it weighs, what a service costs beside other servers of models, and what it does in trouble.

``sdk/bench/foreign.py`` asks the servers, ``sdk/bench/services.py`` makes the trouble. A whole run writes the tables
of the page on performance.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench.harness import TARGETS, Figure, Report, Unmeasured, now, side_by_side, with_spread
from bench.plausibility import repeated_if_implausible, require
from sdk.bench import foreign, services
from tests.sdk import package
from tests.sdk.environments import Failure

PAGE: Final = Path(__file__).parent.parent / "docs" / "performance.md"
_KB: Final = 1024
_FIGURES: Final = ("figure", "measured", "spread", "must", "")
_SERVERS: Final = ("", "ready s", "processes", "PSS MiB", "500 B: ms", "CPU ms", "500 KB: ms", "refused")

Taken = Mapping[str, Sequence[foreign.Measured]]


def run(quick: bool) -> list[Figure]:
    repeats, calls = (1, 200) if quick else (5, 2000)
    load = os.getloadavg()[0]
    report = Report(
        "sdk",
        quick=quick,
        settings={
            "repeats": repeats,
            "calls": calls,
            "small bytes": foreign.SMALL_BYTES,
            "large bytes": foreign.LARGE_BYTES,
            "load at the start": load,
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
    report.table("a hello: counts the characters of a text", _SERVERS, servers_of(taken))
    ours, bare = taken[foreign.OURS], taken[foreign.BARE]
    report.figure(Figure.of("sdk_ready", [each.ready_s for each in ours]))
    report.figure(Figure.of("sdk_processes", [each.processes for each in ours]))
    report.figure(Figure.of("sdk_pss", [each.pss_mib for each in ours]))
    report.figure(Figure.of("sdk_call", _more([e.small_ms for e in ours], [e.small_ms for e in bare])))
    report.figure(Figure.of("sdk_call_cpu", _more([e.small_cpu_ms for e in ours], [e.small_cpu_ms for e in bare])))
    report.figure(Figure.of("sdk_call_large", _more([e.large_ms for e in ours], [e.large_ms for e in bare])))
    troubles = _troubles(pythons[foreign.OURS], quick, 1 if quick else 3)
    for key, samples in troubles.items():
        if key in TARGETS:
            report.figure(Figure.of(key, samples))
    runs = {name: [vars(each) for each in measured] for name, measured in taken.items()}
    figures = report.finish(troubles=troubles, servers=runs)
    if not quick:
        where = f"{now()[:10]}, {os.cpu_count()} cores with a load of {load:.1f}, Python {platform.python_version()}."
        page = written(PAGE.read_text(), "figures", [f"{where}\n", *table(_FIGURES, figures_of(figures))])
        PAGE.write_text(written(page, "servers", table(_SERVERS, servers_of(taken))))
    return figures


def _troubles(python: Path, quick: bool, repeats: int) -> dict[str, list[float]]:
    """The figures of a service in trouble, by their keys."""
    found: dict[str, list[float]] = {}
    for name, take in services.rows(quick=quick).items():
        for _ in range(repeats):
            for key, value in repeated_if_implausible(name, partial(take, python)).items():
                found.setdefault(key, []).append(value)
    return found


def _more(ours: Sequence[float], bare: Sequence[float]) -> list[float]:
    """By how much ours takes longer than a bare handler, round by round."""
    more = [our - their for our, their in zip(ours, bare, strict=True)]
    require(statistics.median(more) > 0, "ours is faster than a handler that does nothing")
    return more


def servers_of(taken: Taken) -> list[tuple[str, ...]]:
    """The rows of the table of servers."""
    return [
        (
            name,
            with_spread([each.ready_s for each in runs], 2),
            f"{statistics.median(each.processes for each in runs):.0f}",
            f"{statistics.median(each.pss_mib for each in runs):.0f}",
            with_spread([each.small_ms for each in runs], 2),
            with_spread([each.small_cpu_ms for each in runs], 2),
            with_spread([each.large_ms for each in runs], 1),
            with_spread([each.refused for each in runs]),
        )
        for name, runs in taken.items()
    ]


def figures_of(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The rows of the table of figures."""
    return [
        (
            figure.target.name,
            f"{figure.value:.3g}",
            " … ".join(f"{end:.3g}" for end in figure.spread) if figure.spread[0] != figure.spread[1] else "",
            figure.target.must,
            "falls short" if figure.verdict == "short" else "met",
        )
        for figure in figures
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def written(page: str, part: str, lines: Sequence[str]) -> str:
    """The *page* with other lines between the markers of one of its parts."""
    begin, end = f"<!-- begin: the {part} of bench/sdk.py -->", f"<!-- end: the {part} of bench/sdk.py -->"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no place for the {part}")
    return page.replace(found[0], "\n".join([begin, "", *lines, "", end]))
