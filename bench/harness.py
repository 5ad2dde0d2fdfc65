"""The common parts of the benchmarks: alternating measures, figures with their spread, and result files.

A whole run leaves its summary and its pictures in ``bench/results``, which is tracked, since the documentation shows
them. Raw results and everything from a quick run go to ``.local/bench/results``, which is not tracked.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rich.console import Console
from rich.table import Table

from bench.plausibility import repeated_if_implausible
from local.redis_server import find_redis_server

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture  # pyright: ignore[reportMissingImports]

RESULTS: Final = Path(__file__).parent / "results"
RAW: Final = Path(__file__).parent.parent / ".local" / "bench" / "results"
SUMMARY: Final = "summary.json"
CONFIDENCE: Final = 0.99
NARROW: Final = 0.015
"""An interval that is no further from its middle than this tells something."""

T = TypeVar("T")


class Unmeasured(Exception):
    """Raised by a benchmark that cannot run here. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of the project, with the bound that it must meet and the one that it aims at."""

    name: str
    must: str
    aim: str
    unit: str = ""


TARGETS: Final[Mapping[str, Target]] = {
    "store": Target(
        "store steps/s at 128 callers, one process ÷ redis-benchmark unpipelined, same scripts", "≥ 1.0", "≥ 1.5"
    ),
    "child": Target("Redis' time for a batch's child ÷ for a task on its own, 8 callers", "≤ 1.5", "≤ 1.25"),
    "lone child": Target("the same, one caller: each shares its scripts with nobody", "≤ 1.5", "≤ 1.25"),
    "submit": Target("submit req/s ÷ constant handler on the same host", "≥ 0.4", "≥ 0.6"),
    "many": Target("1,000 tasks of 500 bytes in one request ÷ single submits, 8 at a time: tasks/s", "≥ 5", "≥ 8"),
    "makespan": Target("makespan at saturation ÷ ideal, all service-time laws, fleet changing", "≤ 1.05", "≤ 1.01"),
    "outage": Target("makespan with an outage of the backend, 12 minutes or 6 hours ÷ ideal", "≤ 1.05", "≤ 1.02"),
    "outage_attempts": Target("attempts that such an outage costs", "≤ 0", "≤ 0"),
    "owners": Target(
        "a task beside 10,000 of another owner: its wait beyond that alone ÷ the service time, the worst",
        "≤ 1",
        "≤ 1",
    ),
    "owners_busy": Target(
        "the same: busy slots while tasks wait with a bound that is not hard ÷ without", "≥ 0.99", "≥ 1.0"
    ),
    "idle": Target(
        "slot idle time after a completion while tasks wait, median, local stack", "≤ 20 ms", "≤ 5 ms", "ms"
    ),
    "peers": Target("enqueue and end-to-end rate of store + queue ÷ the best peer", "≥ 1.0", "≥ 1.5"),
    "peers_far": Target("the same with 2 ms to Redis ÷ the best peer", "≥ 1.5", "≥ 3"),
    "round_trips": Target("Redis round trips per task, create to completed, store + queue", "≤ 5", "≤ 3"),
    "bytes": Target(
        "bytes per task (500-byte body, waiting / finished with history) ÷ the leanest peer that keeps as much",
        "≤ 1.5",
        "≤ 1.0",
    ),
    "paths": Target(
        "another call's median beside 12,000 unknown queues and 10,000 paths of a caller ÷ without", "≤ 1.1", "≤ 1.0"
    ),
    "bombs_memory": Target("100 MB of JSON made to hurt: the app's peak memory", "≤ 400 MB", "≤ 250 MB", "MB"),
    "bombs_health": Target("the same: another caller's longest GET of health", "≤ 1 s", "≤ 0.2 s", "s"),
    "paths_longest": Target("the same: the longest call in 6 s, median", "≤ 200 ms", "≤ 50 ms", "ms"),
    "floods": Target("another caller's median beside 16 services of endless 100 Continue ÷ idle", "≤ 2.0", "≤ 1.2"),
    "floods_worst": Target("the same beside the worst of the other floods", "≤ 2.0", "≤ 1.5"),
    "floods_slow": Target(
        "a task beside 240 of a service that takes one after 20 s: until it has ended, p95",
        "≤ 0.5 s",
        "≤ 0.1 s",
        "s",
    ),
    "durability_replica": Target("steps/s at 128 callers with `DURABILITY=replica` ÷ `none`", "≥ 0.3", "≥ 0.6"),
    "durability_fsync": Target("the same with `fsync` and `appendfsync always`", "≥ 0.05", "≥ 0.2"),
    "crowds_lists": Target(
        "another caller's median while four list 1,600 statuses of 65,000 characters ÷ short ones", "≤ 3.0", "≤ 1.5"
    ),
    "crowds_refused": Target("the same: calls that are refused", "≤ 0", "≤ 0"),
    "crowds_memory": Target("the same: the app's peak memory", "≤ 300 MB", "≤ 200 MB", "MB"),
    "crowds_report": Target(
        "Redis' time for a report beside 40,000 instances that want to be counted ÷ beside ten", "≤ 2.0", "≤ 1.5"
    ),
    "crowds_series": Target("200,000 series told to a gauge: growth of the process", "≤ 50 MB", "≤ 20 MB", "MB"),
    "delays_commands": Target(
        "100,000 delayed tasks, none due: Redis commands a second ÷ without them", "≤ 1.05", "≤ 1.0"
    ),
    "delays_round": Target("the same: a run of the reconciler ÷ without them", "≤ 1.1", "≤ 1.0"),
    "delays_late": Target("10,000 delayed tasks: from the start to the model service, p99", "≤ 1 s", "≤ 0.3 s", "s"),
    "delays_early": Target("the same: dispatched before their start", "≤ 0", "≤ 0"),
    "browser_rows": Target("the console with a CPU four times as slow: until its first rows", "≤ 2 s", "≤ 1 s", "s"),
    "browser_bytes": Target("the console's page, packed", "≤ 60 KB", "≤ 60 KB", "KB"),
    "waits_commands": Target("Redis commands in 20 s for 10,000 waits in one process, without changes", "≤ 0", "≤ 0"),
    "waits_delay": Target("a change until one of 10,000 waits has ended with it, median", "≤ 20 ms", "≤ 5 ms", "ms"),
    "callbacks_lost": Target(
        "callbacks, receiver down for an hour, slow, 500, resets: ends that it was not told", "≤ 0", "≤ 0"
    ),
    "callbacks_forged": Target("the same: forged messages that were taken", "≤ 0", "≤ 0"),
    "callbacks_rate": Target(
        "dispatches a CPU second beside 10,000 tasks that wait for a dead destination ÷ without", "≥ 0.98", "≥ 0.99"
    ),
    "schedules_missing": Target(
        "schedules, 200 a minute, two hosts and Redis killed again and again, and a virtual year: missing tasks",
        "≤ 0",
        "≤ 0",
    ),
    "schedules_doubled": Target("the same: tasks beyond one a due time", "≤ 0", "≤ 0"),
    "rate_over": Target("50 tasks a second at most, 4 processes, kills: windows with more", "≤ 0", "≤ 0"),
    "rate_used": Target("the same: use of what the rate allows", "≥ 0.98", "≥ 0.99"),
    "growth": Target("cost of any step or timer at 1M tasks ÷ at 1k", "≤ 1.3", "≤ 1.1"),
    "memory": Target("host peak memory for a 100 MB body", "≤ 250 MB", "≤ 150 MB", "MB"),
    "large_app": Target("2 GiB through a model: the app's peak memory above idle", "≤ 64 MiB", "≤ 32 MiB", "MiB"),
    "large_service": Target("the same: the service's", "≤ 64 MiB", "≤ 32 MiB", "MiB"),
    "large_caller": Target("the same: that of the SDK or the command line", "≤ 64 MiB", "≤ 32 MiB", "MiB"),
    "sdk_packages": Target("SDK: packages that it brings along", "≤ 8", "≤ 8"),
    "sdk_wheel": Target("SDK: its wheel", "≤ 100 KB", "≤ 100 KB", "KB"),
    "sdk_install": Target("SDK: to install it", "≤ 10 s", "≤ 10 s", "s"),
    "sdk_import": Target("SDK: CPU time to import the client", "≤ 40 ms", "≤ 40 ms", "ms"),
    "sdk_ready": Target("hello: from its start to its first answer", "≤ 1 s", "≤ 1 s", "s"),
    "sdk_processes": Target("hello: processes", "≤ 2", "≤ 2"),
    "sdk_pss": Target("hello: memory, as its share (PSS)", "≤ 60 MiB", "≤ 60 MiB", "MiB"),
    "sdk_call": Target("direct call, 500 B: median beyond that of a bare handler", "≤ 1.5 ms", "≤ 1.5 ms", "ms"),
    "sdk_call_cpu": Target("direct call, 500 B: CPU beyond that of a bare handler", "≤ 1.5 ms", "≤ 1.5 ms", "ms"),
    "sdk_call_large": Target("direct call, 500 KB: median beyond that of a bare handler", "≤ 5 ms", "≤ 5 ms", "ms"),
    "sdk_calls": Target("calls to the backbone for a task under 1 s", "≤ 1", "≤ 1"),
    "sdk_gil_lost": Target("the GIL held for 30 s at a lease of 5 s: leases lost", "≤ 0", "≤ 0"),
    "sdk_gil_gap": Target("the same: longest gap between heartbeats", "≤ 2.5 s", "≤ 2.5 s", "s"),
    "sdk_cancel": Target("from the 409 to the end of the work: Python code", "≤ 0.5 s", "≤ 0.5 s", "s"),
    "sdk_cancel_c": Target("the same after the grace: a call into C", "≤ 1 s", "≤ 1 s", "s"),
    "sdk_kill": Target("from kill -9 of a worker until its task waits again", "≤ 1 s", "≤ 1 s", "s"),
    "sdk_kill_next": Target("until its next attempt begins, beyond setup and backoff", "≤ 1 s", "≤ 1 s", "s"),
    "sdk_stop": Target("from SIGTERM to exit 0, 4 tasks of 60 s, drain_s=5", "≤ 7 s", "≤ 7 s", "s"),
    "sdk_stop_next": Target("from their release to their start on a second pod, the last one", "≤ 1 s", "≤ 1 s", "s"),
    "sdk_stop_failures": Target("failures that this counts", "≤ 0", "≤ 0"),
    "sdk_refused": Target("1,000 tasks back to back: refused for a slot told free", "≤ 0", "≤ 0"),
    "sdk_heap": Target("growth of the heap over 10,000 tasks", "≤ 5 MiB", "≤ 5 MiB", "MiB"),
}
"""The targets in the order of the tables. Benchmarks name them by key."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The result for a target: the median of the repeats, and their spread.

    Attributes:
        is_of_pairs: the samples are ratios of many short measures, each pair of which was taken within a second. One
            of them says next to nothing. What counts is the interval that has their median.
    """

    target: Target
    samples: tuple[float, ...]
    is_of_pairs: bool = False

    @classmethod
    def of(cls, key: str, samples: Iterable[float], *, is_of_pairs: bool = False) -> Figure:
        return cls(TARGETS[key], tuple(samples), is_of_pairs)

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        return interval_of_median(self.samples) if self.is_of_pairs else (min(self.samples), max(self.samples))

    @property
    def verdict(self) -> str:
        """The better bound that is met, ``aim`` or ``must``; ``short`` if neither is. Of pairs, the whole interval
        must meet it; ``unclear`` if that is wide, or only a part of it meets any."""
        if not self.is_of_pairs:
            return self._judged(self.value)
        verdicts = {self._judged(end) for end in self.spread}
        if not is_narrow(self.spread) or ("short" in verdicts and len(verdicts) > 1):
            return "unclear"
        return "must" if len(verdicts) > 1 else verdicts.pop()

    def _judged(self, value: float) -> str:
        for name, bound in (("aim", self.target.aim), ("must", self.target.must)):
            if meets(value, bound):
                return name
        return "short"

    def document(self) -> dict[str, Any]:
        return {
            "name": self.target.name,
            "value": _rounded(self.value),
            "spread": [_rounded(end) for end in self.spread],
            "repeats": len(self.samples),
            "unit": self.target.unit,
            "must": self.target.must,
            "aim": self.target.aim,
            "verdict": self.verdict,
        }


def meets(value: float, bound: str) -> bool:
    """Whether *value* meets a bound such as ``≥ 1.0`` or ``≤ 20 ms``; it is in the bound's unit."""
    match = re.fullmatch(r"([≥≤]) (\d+(?:\.\d+)?)(?: \w+)?", bound)
    if match is None:
        raise ValueError(f"{bound!r} is not a bound")
    limit = float(match[2])
    return value >= limit if match[1] == "≥" else value <= limit


def interval_of_median(samples: Sequence[float]) -> tuple[float, float]:
    """The interval that contains the true median with 99 % confidence; the range of the samples if there are few.

    The true median is below the kth smallest sample with the probability that a coin shows heads less than k times.
    """
    ordered, count = sorted(samples), len(samples)
    below, kth = 0.0, 0
    while (below := below + math.comb(count, kth) * 0.5**count) <= (1 - CONFIDENCE) / 2:
        kth += 1
    kth = max(kth, 1)
    return ordered[kth - 1], ordered[count - kth]


def is_narrow(interval: tuple[float, float]) -> bool:
    return (interval[1] - interval[0]) / 2 <= NARROW


def side_by_side(repeats: int, measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Take every measure *repeats* times, alternately, so that a slowdown of the machine affects all of them.

    Every other round runs backwards, so that no measure always follows the same other one. A measure with an
    impossible figure is taken again at once.
    """
    taken: dict[str, list[T]] = {name: [] for name in measures}
    for repeat in range(repeats):
        for name in list(measures) if repeat % 2 == 0 else list(measures)[::-1]:
            taken[name].append(repeated_if_implausible(name, measures[name]))
    return taken


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratios of two measures that were taken side by side, round by round."""
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]


def with_spread(samples: Sequence[float], digits: int = 0) -> str:
    """``median (min … max)``, for a table."""
    middle, low, high = statistics.median(samples), min(samples), max(samples)
    if len(samples) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({low:,.{digits}f} … {high:,.{digits}f})"


class Report:
    """The output of one benchmark: tables and figures, printed and in one JSON file, and perhaps a picture.

    Parameters:
        name: the name of the benchmark and its files.
        settings: the conditions of the measurement.
        raw: the folder of the JSON file, and of the picture of a quick run.
        pictures: the folder of the picture of a whole run.
    """

    def __init__(
        self,
        name: str,
        *,
        quick: bool,
        settings: Mapping[str, object],
        raw: Path = RAW,
        pictures: Path = RESULTS,
    ) -> None:
        self._name = name
        self._raw = raw
        self._pictures = raw if quick else pictures
        self._console = Console(width=118, highlight=False)
        self._tables: list[dict[str, Any]] = []
        self._figures: list[Figure] = []
        self._notes: list[str] = []
        self._frame: dict[str, Any] = {
            "benchmark": name,
            "at": now(),
            "quick": quick,
            "versions": versions(),
            "settings": dict(settings),
        }

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        kept = [[str(cell) for cell in row] for row in rows]
        self._tables.append({"title": title, "columns": list(columns), "rows": kept})
        shown = Table(title=title, title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            shown.add_column(column, justify="right" if index else "left")
        for row in kept:
            shown.add_row(*row)
        self._console.print(shown)

    def note(self, sentence: str) -> None:
        """Add a sentence that readers of the numbers have to know."""
        self._notes.append(sentence)
        self._console.print(f"Note: {sentence}", style="dim")

    def figure(self, figure: Figure) -> None:
        self._figures.append(figure)
        print_figures([figure], self._console)

    @contextmanager
    def picture(self, width: float = 8, height: float = 4.5) -> Iterator[Picture]:
        """An empty picture, saved as SVG at the end."""
        # Only dev.py bench installs it.
        import matplotlib as mpl  # pyright: ignore[reportMissingImports]
        from matplotlib.figure import Figure as NewPicture  # pyright: ignore[reportMissingImports]

        mpl.rcParams["svg.hashsalt"] = self._name  # the same data make the same file
        picture = NewPicture(figsize=(width, height), layout="constrained")
        yield picture
        self._pictures.mkdir(parents=True, exist_ok=True)
        picture.savefig(self._pictures / f"{self._name}.svg", metadata={"Date": None})

    def finish(self, **data: object) -> list[Figure]:
        """Write everything, with *data* beside the tables, and return the figures."""
        document = {
            **self._frame,
            "figures": [figure.document() for figure in self._figures],
            "tables": self._tables,
            "notes": self._notes,
            **data,
        }
        write_json(self._raw / f"{self._name}.json", document)
        return self._figures


def print_figures(figures: Iterable[Figure], console: Console | None = None) -> None:
    table = Table("figure", "value", "spread", "must", "aim", "", title_justify="left")
    for figure in figures:
        unit = f" {figure.target.unit}" if figure.target.unit else ""
        low, high = figure.spread
        table.add_row(
            figure.target.name,
            f"{_rounded(figure.value)}{unit}",
            f"{_rounded(low)} … {_rounded(high)}",
            figure.target.must,
            figure.target.aim,
            {"aim": "aim met", "must": "must met", "short": "FALLS SHORT", "unclear": "unclear"}[figure.verdict],
        )
    (console or Console(width=118, highlight=False)).print(table)


def keep_summary(figures: Iterable[Figure], *, quick: bool, results: Path | None = None) -> Path:
    """Put the figures into ``summary.json``; figures of benchmarks that did not run stay unchanged.

    Those of a quick run go to a summary of their own, unless *results* names the folder.

    Returns: the file.
    """
    file = (results or (RAW if quick else RESULTS)) / SUMMARY
    kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    by_name = {entry["name"]: entry for entry in kept}
    stamp = {"versions": versions(), "at": now(), "quick": quick}
    by_name |= {figure.target.name: {**figure.document(), **stamp} for figure in figures}
    order = [target.name for target in TARGETS.values()]
    write_json(file, [by_name[name] for name in order if name in by_name])
    return file


def write_json(file: Path, document: object) -> None:
    """Replace *file* atomically: an interrupted run leaves the old file intact."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    new.replace(file)


def versions() -> dict[str, object]:
    """The versions of everything that the numbers depend on."""
    return {
        "python": platform.python_version(),
        "redis-py": version("redis"),
        "redis server": _redis_server_version(),
        "app": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _redis_server_version() -> str:
    program = find_redis_server()
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    said = dict(re.findall(r"\b(v|malloc)=(\S+)", printed))
    kind = "Valkey" if "valkey" in program.name else "Redis"
    return f"{kind} {said.get('v', 'unknown')}, memory by {said.get('malloc', 'unknown')}"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent.parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        # The results themselves do not count as a change.
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
