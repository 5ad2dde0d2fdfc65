"""``python -m tests.faults``: rounds over all faults until the time is up; the exit code is 0 without findings."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import redis

from local.processes import LocalStackError
from local.redis_server import find_redis_server
from tests.faults.rig import Rig
from tests.faults.table import FAULTS, ON_CLUSTER, Fault
from tests.faults.trial import LONG, Report, Trials

WARM_UP_S = 3.0
_NAME_WIDTH = max(map(len, FAULTS))
_COLUMNS = ("submitted", "acked", "completed", "failed", "duplicates", "lost", "stuck", "wrong", "recovery s")


@dataclass(slots=True)
class Campaign:
    """The results of all trials so far."""

    seed: int
    reports: list[Report] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Trials that were aborted, with the reason."""

    @property
    def is_good(self) -> bool:
        return (
            bool(self.reports)
            and not (self.leaks or self.broken)
            and not any(report.findings for report in self.reports)
        )

    def run(self, faults: Sequence[Fault], until_s: float) -> None:
        """Rounds over *faults*, at least one, until the monotonic clock is past *until_s*."""
        number = 0
        while number == 0 or time.monotonic() < until_s:
            number += 1
            chance = random.Random(f"{self.seed} {number}")
            order = chance.sample(faults, len(faults))
            for on_cluster in chance.sample((False, True), 2):
                mine = [each for each in order if (each.name in ON_CLUSTER if on_cluster else not each.wants_cluster)]
                # First the faults that restart processes, so that the final check for leaks covers many trials.
                mine.sort(key=lambda fault: not fault.renews)
                self._run_round(number, mine, cluster=on_cluster, until_s=0 if number == 1 else until_s)

    def _run_round(self, number: int, faults: list[Fault], *, cluster: bool, until_s: float) -> None:
        waiting = faults[::-1]
        reports: list[Report] = []
        while waiting and not (until_s and time.monotonic() > until_s):
            directory = Path(tempfile.mkdtemp(prefix="faults-"))
            fault = waiting[-1]
            is_good = False
            try:
                with Rig(directory, cluster=cluster) as rig:
                    trials = Trials(rig)
                    trials.warm_up(WARM_UP_S)
                    while waiting and not (until_s and time.monotonic() > until_s):
                        fault = waiting.pop()
                        report = trials.run(fault, f"{self.seed} {number} {fault.name}", LONG)
                        reports.append(report)
                        self.reports.append(report)
                        _say(_row(report.fault, _figures([report])))
                        for sentence in report.findings:
                            _say(f"  {sentence}")
                        if report.stuck:
                            break  # each of the next trials would find the stuck task again
                    leaks = trials.leaks()
                    for sentence in leaks:
                        _say(f"  leak: {sentence}")
                    self.leaks += leaks
                    is_good = not leaks and not any(report.findings for report in reports)
            except (LocalStackError, AssertionError, httpx.HTTPError, redis.RedisError) as error:
                self.broken.append(f"{fault.name}: {error}")
                _say(f"  {fault.name} was aborted: {error}")
                with suppress(ValueError):
                    waiting.remove(fault)
            finally:
                if is_good:
                    shutil.rmtree(directory, ignore_errors=True)
                else:
                    _say(f"  the logs are in {directory}")

    def document(self, minutes: float) -> dict[str, object]:
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "seed": self.seed,
            "minutes": round(minutes, 1),
            "on": _surroundings(),
            "good": self.is_good,
            "leaks": self.leaks,
            "broken": self.broken,
            "trials": [asdict(report) for report in self.reports],
        }

    def table(self) -> Iterator[str]:
        """The figures by fault, in Markdown."""
        yield "| fault | trials | " + " | ".join(_COLUMNS[:-1]) + " | recovery s, median and most |"
        yield "| --- |" + " --: |" * (len(_COLUMNS) + 1)
        for name in FAULTS:
            if mine := [report for report in self.reports if report.fault == name]:
                yield f"| `{name}` | {len(mine)} | " + " | ".join(_figures(mine)) + " |"
        yield f"| **all** | {len(self.reports)} | " + " | ".join(_figures(self.reports)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py faults",
        description=__doc__,
        epilog="faults: " + "; ".join(f"{fault.name}: {fault.what}" for fault in FAULTS.values()),
    )
    parser.add_argument("--minutes", type=float, default=0, metavar="N", help="run for this long, at least one round")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="+", choices=[*FAULTS], metavar="NAME", help="only these faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args()
    faults = [fault for name in dict.fromkeys(options.only or FAULTS) if _can_be_had(fault := FAULTS[name])]
    campaign = Campaign(options.seed)
    began_s = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _say(f"seed {campaign.seed} · {_surroundings()}")
    _say(_row("fault", _COLUMNS))
    try:
        campaign.run(faults, began_s + options.minutes * 60)
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    finally:
        minutes = (time.monotonic() - began_s) / 60
        _say(f"\n{minutes:.1f} minutes, seed {campaign.seed}\n")
        for line in campaign.table():
            _say(line)
        if options.json:
            options.json.write_text(json.dumps(campaign.document(minutes), indent=1) + "\n")
    findings = sum(len(report.findings) for report in campaign.reports)
    findings += len(campaign.leaks) + len(campaign.broken)
    _say("\nNothing was lost, stuck or wrong." if campaign.is_good else f"\n{findings} findings, see above.")
    return 0 if campaign.is_good else 1


def _can_be_had(fault: Fault) -> bool:
    if why_not := fault.why_not():
        _say(f"{fault.name} is skipped: {why_not}.")
    return not why_not


def _figures(reports: Sequence[Report]) -> list[str]:
    recoveries = [report.recovery_s for report in reports if report.recovery_s is not None]
    most = f"{max(recoveries):.1f}" if recoveries else "none"
    return [
        *(
            str(sum(getattr(r, name) for r in reports))
            for name in ("submitted", "acknowledged", "completed", "failed")
        ),
        str(sum(report.duplicates for report in reports)),
        *(str(sum(len(getattr(report, name)) for report in reports)) for name in ("lost", "stuck", "wrong")),
        most if len(reports) == 1 or not recoveries else f"{statistics.median(recoveries):.1f}, {most}",
    ]


def _row(name: str, figures: Iterable[str]) -> str:
    cells = (f"{figure:>{len(column)}}" for figure, column in zip(figures, _COLUMNS, strict=True))
    return f"{name:<{_NAME_WIDTH}}  " + "  ".join(cells)


def _surroundings() -> str:
    version = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    packages = ("azure-functions", "redis", "aiohttp", "azure-eventgrid")
    return " · ".join(
        (
            f"Python {platform.python_version()}",
            " ".join(version.split()[:3]),
            *(f"{name} {importlib.metadata.version(name)}" for name in packages),
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        )
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
