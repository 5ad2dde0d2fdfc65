"""Benchmarks: ``python3 dev.py bench [NAME…] [--quick]`` runs those that are named, or all
but ``sdk``, ``large``, ``paths``, ``bombs``, ``durability``, ``crowds``, ``delays``, ``floods``, ``browser``,
``owners``, ``callbacks``, ``schedules``, ``many`` and ``rate``.

Each prints its tables and writes ``.local/bench/results/NAME.json``. A whole run also puts its figures into
``bench/results/summary.json`` and its pictures beside it; it takes less than 30 minutes. A quick run takes less than
3 minutes: it shows that everything works and gives rough figures, and it changes no tracked file.

``--against REV`` compares this working tree with another revision instead: see ``bench/against.py``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from bench import against
from bench.harness import RAW, Figure, Unmeasured, keep_summary, print_figures
from bench.plausibility import ImplausibleFigure

BUDGETS_S: Final = {
    "store": (150, 22),
    "http": (120, 20),
    "lifecycle": (120, 22),
    "growth": (380, 23),
    "bodies": (60, 16),
    "saturation": (300, 25),
    "outage": (110, 10),
    "waits": (45, 5),
    "peers": (515, 37),
}
"""The time limit of each benchmark in seconds: whole, quick. They run in this order. In all 30 minutes, and 3."""
IF_NAMED_S: Final = {
    "sdk": (900, 240),
    "large": (900, 120),
    "paths": (300, 60),
    "bombs": (180, 60),
    "durability": (180, 60),
    "crowds": (240, 60),
    "delays": (300, 60),
    "floods": (600, 150),
    "browser": (180, 60),
    "owners": (600, 60),
    "callbacks": (300, 60),
    "schedules": (600, 150),
    "many": (120, 30),
    "rate": (240, 60),
}
"""Those that run only if they are named, likewise: what they measure is no part of the app, or is known once."""
ALL_S: Final = {**BUDGETS_S, **IF_NAMED_S}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 dev.py bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL_S))
    parser.add_argument("--quick", action="store_true", help="smaller numbers, fewer repeats")
    parser.add_argument("--against", metavar="REV", help="compare the working tree with a revision")
    parser.add_argument("--repeats", type=int, metavar="N", help="with --against: of each benchmark, on each side")
    options = parser.parse_args()
    known = (*BUDGETS_S, against.STEPS) if options.against else tuple(ALL_S)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no benchmark {unknown[0]!r}, only {', '.join(known)}")
    if options.repeats is not None and (options.repeats < 1 or not options.against):
        parser.error("--repeats takes a number from 1 on, and belongs to --against")
    if options.against:
        return against.run(options.against, options.names, quick=options.quick, repeats=options.repeats)
    figures: list[Figure] = []
    failed: list[str] = []
    summary: Path | None = None
    for name in (name for name in ALL_S if name in (options.names or BUDGETS_S)):
        print(f"\n── {name} " + "─" * (100 - len(name)), flush=True)
        started_s = time.monotonic()
        try:
            found = importlib.import_module(f"bench.{name}").run(options.quick)
        except (Unmeasured, ImplausibleFigure) as reason:
            print(f"{name} was not measured: {reason}", file=sys.stderr)
            failed.append(name)
            continue
        except Exception:  # keep the results of the others
            traceback.print_exc()
            failed.append(name)
            continue
        took_s, budget_s = time.monotonic() - started_s, ALL_S[name][options.quick]
        over = f", more than its limit of {budget_s} s" if took_s > budget_s else ""
        print(f"{name} took {took_s:.0f} s{over}.", flush=True)
        summary = keep_summary(found, quick=options.quick)
        figures += found
    if figures:
        print()
        print_figures(figures)
        print(f"Kept in {summary}; the raw results in {RAW}.")
    if failed:
        print(f"Not measured: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
