"""The store and its queue beside other task queues on the same Redis; see README.md.

This module imports nothing of the project, since it also runs in the peers' own environments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.harness import Figure


def run(quick: bool) -> list[Figure]:
    """Measure, print, and write ``peers.json`` beside the other raw results; return the figures of the summary.

    Raises:
        ImplausibleFigure: a peer's figure is impossible. Without this peer, the best one may not be the best.
    """
    from bench.harness import Figure, Unmeasured
    from bench.peers import bench
    from bench.plausibility import ImplausibleFigure
    from local.processes import LocalStackError

    try:
        result = bench.run(quick)
    except LocalStackError as reason:
        raise Unmeasured(str(reason)) from reason
    print(bench.report(result))
    if result["implausible"]:
        raise ImplausibleFigure("\n".join(result["implausible"]))
    samples = bench.samples(result)
    if not all(samples.values()):
        raise Unmeasured("\n".join(result["failures"].values()))
    return [Figure.of(key, each) for key, each in samples.items()]
