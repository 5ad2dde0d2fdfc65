"""This working tree beside another revision: ``python3 dev.py bench --against REV [NAME…] [--quick] [--repeats N]``.

Both are checked out into temporary git worktrees, the working tree as it is at the start. They are measured
alternately: A B, B A, A B, … A temporary slowdown of the machine thus affects both. A name is that of a benchmark or
``steps``; the default is ``steps store http peers growth``. On two cores without other load a comparison takes less
than half an hour, a quick one less than 5.

Each side is measured by its own tree's code. The revisions share few names, since any of them may change:

- A benchmark runs as ``python -m bench NAME --quick`` in its tree, and leaves ``NAME.json``.
- ``peers`` runs only ours, with this tree's bench: ``python -m bench.peers.ours`` is a process that speaks JSON lines
  (``bench/peers/side.py``), and both sides' processes are measured by the same clock.
- This tree's ``bench/step_driver.py`` runs the ``steps``, once with each tree's ``bench/steps.py``.

The exit code is 1 if anything is worse, and 2 if the comparison could not be made.

**When a figure is worse.** The median of its repeats is worse than before by more than 1 %, and beyond the spread of
the repeats: each side's median lies outside of the range of the other side. If nothing has changed, seven repeats a
side give this verdict once in 170 figures, and three repeats once in 10. With fewer than four, a figure must
therefore also be a quarter worse: such a comparison finds only gross regressions.

**When a step is worse.** Its cost has risen by more than 3 %, and we have 99 % confidence that it has risen at all.

- A step's two costs are Redis' own time for it (``INFO commandstats``) and our process's CPU time. Other processes
  can only add to both, and the speed of a machine drifts. So the two sides of a pair are measured within a second,
  and only their ratio counts: the next pair has another drift.
- Medians are compared, not minima. A step's cost depends on how many others happen to share its pipeline, so the
  cheapest round is one of lucky pipelines, not the undisturbed one. The median ignores disturbed rounds.
- A process may be a percent slower than its twin because of its memory layout. Each batch therefore starts new
  processes, and the median of its pairs is one sample, however many pairs it has.
- The interval assumes nothing about the noise's distribution: its ends are two of the sorted batches, chosen by the
  binomial distribution. Batches are added until every interval is within 1.5 % of its middle, or the maximum number
  is reached. The width decides when to stop, never the result.
- If an increase of 3 % is still possible then, the verdict is ``unclear``, and the interval shows the possible range.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console
from rich.table import Table

from bench.harness import CONFIDENCE, RAW, interval_of_median, is_narrow, now, versions, with_spread, write_json
from local.redis_server import RedisServer

ROOT: Final = Path(__file__).parent.parent
STEPS: Final = "steps"
DEFAULT: Final = (STEPS, "store", "http", "peers", "growth")
BEFORE, AFTER = "before", "after"
SIDES: Final = (BEFORE, AFTER)

LEAST_CHANGE: Final = 0.01
FEW_REPEATS: Final = 4
LEAST_CHANGE_OF_FEW: Final = 0.25
STEP_CHANGE: Final = 0.03
_PATIENCE_S: Final = 600
_GRACE_S: Final = 20

WORSE, BETTER, SAME, UNCLEAR = "worse", "better", "same", "unclear"


class ComparisonFailed(Exception):
    """Raised when a side cannot be checked out or measured. The message says why."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of a comparison."""

    repeats: int
    """Runs of each benchmark on each side."""
    least_batches: int
    most_batches: int
    pairs: int
    """Pairs of rounds in a batch of steps."""
    tasks: int
    """Tasks of a round; each takes all steps."""


FULL: Final = Extent(repeats=7, least_batches=10, most_batches=20, pairs=8, tasks=1_000)
QUICK: Final = Extent(repeats=2, least_batches=8, most_batches=8, pairs=2, tasks=500)


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure of one run."""

    value: float
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of both sides."""

    name: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    ratio: float
    interval: tuple[float, float] | None
    """The interval of the ratio, if there is one."""
    verdict: str


def run(revision: str, names: Sequence[str], *, quick: bool, repeats: int | None = None) -> int:
    """Compare, print, and write ``against.json`` beside the other raw results; return the exit code."""
    for ending in (signal.SIGTERM, signal.SIGHUP):  # so that these remove the worktrees too
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    extent = QUICK if quick else FULL
    names = names or DEFAULT
    began_s = time.monotonic()
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="bench-against-", ignore_cleanup_errors=True) as place:
            directory = Path(place)
            with checked_out(revision, directory) as trees:
                # The benchmarks first: their first run shows whether this machine lacks anything.
                benchmarks = [name for name in names if name != STEPS]
                figures, alone = compare_benchmarks(trees, directory, benchmarks, repeats or extent.repeats)
                steps = compare_steps(trees, directory, extent) if STEPS in names else []
    except ComparisonFailed as reason:
        print(f"There is no comparison: {reason}", file=sys.stderr)
        return 2
    rows = [*figures, *steps]
    document = {
        "at": now(),
        "against": revision,
        "quick": quick,
        "extent": asdict(extent),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
        "figures of one side alone": alone,
    }
    write_json(RAW / "against.json", document)
    _print(revision, figures, steps, alone)
    if load > (os.cpu_count() or 1) / 2:
        print(f"The machine had other load at the start ({load:.1f}): spreads are wider than necessary.")
    print(f"It took {time.monotonic() - began_s:.0f} s. Kept in {RAW / 'against.json'}.")
    return 1 if any(row.verdict == WORSE for row in rows) else 0


def _print(revision: str, figures: Sequence[Row], steps: Sequence[Row], alone: Sequence[str]) -> None:
    console = Console(width=118, highlight=False)
    for title, rows in (
        (f"The working tree against {revision}: median (spread)", figures),
        (
            f"µs a step against {revision}: median (spread) of batches, ratio with its {CONFIDENCE:.0%} interval",
            steps,
        ),
    ):
        if not rows:
            continue
        table = Table(title=title, title_justify="left", title_style="bold")
        for index, column in enumerate(("figure", BEFORE, AFTER, "after ÷ before", "verdict")):
            table.add_column(column, justify="right" if 0 < index < 4 else "left")
        for row in rows:
            low_and_high = f" ({row.interval[0]:.3f} … {row.interval[1]:.3f})" if row.interval else ""
            shown = {WORSE: "WORSE"}.get(row.verdict, row.verdict)
            cells = [with_spread(side, _digits(side)) for side in (row.before, row.after)]
            table.add_row(row.name, *cells, f"{row.ratio:.3f}{low_and_high}", shown)
        console.print(table)
    if alone:
        print(f"Not compared, since only one side has them: {'; '.join(alone)}.")
    for verdict, sentence in (
        (UNCLEAR, f"Unclear, since the noise leaves room for more than {STEP_CHANGE:.0%}"),
        (WORSE, "Worse"),
    ):
        if named := [row.name for row in (*figures, *steps) if row.verdict == verdict]:
            print(f"{sentence}: {'; '.join(named)}.")


def _digits(samples: Sequence[float]) -> int:
    return max(0, 2 - math.floor(math.log10(abs(statistics.median(samples)) or 1)))


# The two trees


@contextmanager
def checked_out(revision: str, directory: Path) -> Iterator[Mapping[str, Path]]:
    """The trees of both sides, in git worktrees within the directory that are removed at the end."""
    commit = _git(ROOT, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    trees = {side: directory / side for side in SIDES}
    try:
        _git(ROOT, "worktree", "add", "--quiet", "--detach", str(trees[BEFORE]), commit)
        _git(ROOT, "worktree", "add", "--quiet", "--detach", str(trees[AFTER]), "HEAD")
        _git(trees[AFTER], "read-tree", "-u", "--reset", _snapshot(directory / "index"))
        for tree in trees.values():
            _share_npm_packages(tree)
        yield trees
    finally:
        for tree in trees.values():
            with suppress(ComparisonFailed):
                _git(ROOT, "worktree", "remove", "--force", str(tree))


def _snapshot(index: Path) -> str:
    """The working tree as a git tree, with its new files and without ignored ones."""
    own_index = {"GIT_INDEX_FILE": str(index)}
    _git(ROOT, "read-tree", "HEAD", **own_index)
    _git(ROOT, "add", "--all", **own_index)
    return _git(ROOT, "write-tree", **own_index)


def _share_npm_packages(tree: Path) -> None:
    """Link the installed Azurite into *tree*, instead of a second installation."""
    installed = ROOT / ".local" / "npm"
    installed.mkdir(parents=True, exist_ok=True)
    (tree / ".local").mkdir(exist_ok=True)
    (tree / ".local" / "npm").symlink_to(installed.resolve())


def _git(tree: Path, *arguments: str, **environment: str) -> str:
    command = ["git", "-C", str(tree), *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except OSError as error:
        raise ComparisonFailed(f"git cannot be run ({error.strerror})") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ComparisonFailed(f"git {arguments[0]} failed: {last[0]}")
    return done.stdout.strip()


# The benchmarks' figures


def compare_benchmarks(
    trees: Mapping[str, Path], directory: Path, names: Sequence[str], repeats: int
) -> tuple[list[Row], list[str]]:
    """The rows of figures that both sides have, and the names of those that only one side has."""
    found: dict[str, dict[str, list[Sample]]] = {side: {} for side in SIDES}
    for repeat in range(repeats):
        for name in names:
            for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
                began_s = time.monotonic()
                document = _measure(name, trees, side, directory)
                for figure, sample in figures_of(name, document).items():
                    found[side].setdefault(figure, []).append(sample)
                _print_progress(f"{name}, {side}, {repeat + 1} of {repeats}", began_s)
    both = [name for name in found[BEFORE] if name in found[AFTER]]
    alone = sorted(found[BEFORE].keys() ^ found[AFTER].keys())
    return [figure_row(name, found[BEFORE][name], found[AFTER][name]) for name in both], alone


def _measure(name: str, trees: Mapping[str, Path], side: str, directory: Path) -> dict[str, Any]:
    tree = trees[side]
    if name == "peers":
        files = [directory / "peers.json"]
        command = ["bench.peers", "--quick", "--only", "ours", "--tree", str(tree), "--results", str(files[0])]
        cwd = trees[AFTER]
    else:
        # Older revisions keep raw results beside the summary.
        files = [tree / place / f"{name}.json" for place in (".local/bench/results", "bench/results")]
        command, cwd = ["bench", name, "--quick"], tree
    for file in files:
        file.unlink(missing_ok=True)
    _run(f"{name} of {side}", [sys.executable, "-m", *command], cwd, directory / f"{name}-{side}.log")
    written = next((file for file in files if file.exists()), None)
    if written is None:
        raise ComparisonFailed(f"{name} of {side} has left no {files[0].name}")
    return json.loads(written.read_text())


def figures_of(name: str, document: Mapping[str, Any]) -> dict[str, Sample]:
    """The samples of our own part in a benchmark's file: the project's figures and their components."""
    if name == "peers":
        # A quick run has too few tasks for the 95th percentile of the latency.
        return {
            f"ours: {figure}": Sample(summary["median"], figure.endswith("_per_s"))
            for figure, summary in document["figures"]["ours"].items()
            if "p95" not in figure
        }
    found = {
        figure["name"]: Sample(figure["value"], figure["must"].startswith("≥")) for figure in document["figures"]
    }
    samples: Mapping[str, Any] = document.get("samples", {})
    if name == "store":
        for row, phases in samples.items():
            if row.startswith("store,"):
                rates = [
                    sum(cost["steps"] for cost in each.values())
                    / sum(cost["steps"] / cost["steps_per_s"] for cost in each.values())
                    for each in phases
                ]
                found[f"{row}: steps/s"] = Sample(statistics.median(rates), True)
    elif name == "http":
        base = samples["constant handler"]
        for row, rates in samples.items():
            if row not in ("constant handler", "submit") and len(rates) == len(base):
                ratios = [rate / constant for rate, constant in zip(rates, base, strict=True)]
                found[f"{row}: req/s ÷ constant handler"] = Sample(statistics.median(ratios), True)
    elif name == "growth":
        for kind, by_size in document["bytes_per_task"].items():
            found[f"bytes of a {kind} task"] = Sample(list(by_size.values())[-1], False)
    return found


def figure_row(name: str, before: Sequence[Sample], after: Sequence[Sample]) -> Row:
    were, are = (tuple(sample.value for sample in side) for side in (before, after))
    ratio = statistics.median(are) / statistics.median(were)
    return Row(name, were, are, ratio, None, figure_verdict(were, are, before[0].higher_is_better))


def figure_verdict(before: Sequence[float], after: Sequence[float], higher_is_better: bool) -> str:
    """See this module's description."""
    if higher_is_better:
        before, after = [-value for value in before], [-value for value in after]
    middle_before, middle_after = statistics.median(before), statistics.median(after)
    few = min(len(before), len(after)) < FEW_REPEATS
    changed = abs(middle_after - middle_before) / abs(middle_before)
    if changed <= (LEAST_CHANGE_OF_FEW if few else LEAST_CHANGE):
        return SAME
    if middle_after > max(before) and middle_before < min(after):
        return WORSE
    if middle_after < min(before) and middle_before > max(after):
        return BETTER
    return SAME


# The steps' costs

Costs = Mapping[str, Mapping[str, float]]


def compare_steps(trees: Mapping[str, Path], directory: Path, extent: Extent) -> list[Row]:
    """The rows of all steps: Redis' time and our CPU time."""
    batches: list[list[dict[str, Costs]]] = []
    # One server for both, so that both meet the same memory layout. Nothing is written to disk.
    with RedisServer(directory / "redis", extra_arguments=["--appendonly", "no"]) as server:
        while len(batches) < extent.most_batches:
            began_s = time.monotonic()
            batches.append(_batch(trees, directory, server.port, extent))
            _print_progress(f"steps, batch {len(batches)} of {extent.most_batches} at most", began_s)
            rows = step_rows(batches)
            if len(batches) >= extent.least_batches and all(row.interval and is_narrow(row.interval) for row in rows):
                break
    return step_rows(batches)


def _batch(trees: Mapping[str, Path], directory: Path, port: int, extent: Extent) -> list[dict[str, Costs]]:
    with ExitStack() as drivers:
        driver = {
            side: drivers.enter_context(
                Driver(trees[side], trees[AFTER] / "bench", port, directory / f"steps-{side}.log")
            )
            for side in SIDES
        }
        for side in SIDES:  # loading on first use is not the cost of a step
            driver[side].measure(extent.tasks)
        return [
            {side: driver[side].measure(extent.tasks) for side in (SIDES if pair % 2 == 0 else SIDES[::-1])}
            for pair in range(extent.pairs)
        ]


def step_rows(batches: Sequence[Sequence[Mapping[str, Costs]]]) -> list[Row]:
    """
    Parameters:
        batches: lists of pairs; a pair has both sides' costs by step.
    """
    kinds = {"redis_us": "Redis µs", "client_us": "our CPU µs"}
    steps = batches[0][0][BEFORE]
    return [
        step_row(
            f"{step}, {label}",
            [[(pair[BEFORE][step][kind], pair[AFTER][step][kind]) for pair in batch] for batch in batches],
        )
        for kind, label in kinds.items()
        for step in steps
    ]


def step_row(name: str, batches: Sequence[Sequence[tuple[float, float]]]) -> Row:
    before, after = (tuple(statistics.median(pair[side] for pair in batch) for batch in batches) for side in (0, 1))
    ratios = [statistics.median(second / first for first, second in batch) for batch in batches]
    ratio, interval = statistics.median(ratios), interval_of_median(ratios)
    return Row(name, before, after, ratio, interval, step_verdict(ratio, interval))


def step_verdict(ratio: float, interval: tuple[float, float]) -> str:
    """See this module's description."""
    low, high = interval
    if ratio > 1 + STEP_CHANGE and low > 1:
        return WORSE
    if ratio < 1 - STEP_CHANGE and high < 1:
        return BETTER
    return UNCLEAR if high > 1 + STEP_CHANGE else SAME


class Driver:
    """A process of ``step_driver.py`` for one tree.

    Parameters:
        bench: the folder of the driver, and of ``former_steps.py`` for a tree that has no ``bench/steps.py``.
    """

    def __init__(self, tree: Path, bench: Path, port: int, log: Path) -> None:
        own = tree / "bench" / "steps.py"
        steps = own if own.exists() else bench / "former_steps.py"
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                # Without the driver's folder on the path, since that has a module named http.
                [sys.executable, "-P", str(bench / "step_driver.py"), str(steps), str(port)],
                cwd=tree,
                env=_environment(tree) | {"PYTHONHASHSEED": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def measure(self, tasks: int) -> Costs:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # its log says why it has ended
            self._process.stdin.write(json.dumps({"tasks": tasks}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ComparisonFailed(_with_tail("a step driver has ended", self._log))
        return json.loads(line)

    def __enter__(self) -> Self:
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


# Processes


def _run(what: str, command: Sequence[str], cwd: Path, log: Path) -> None:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=_environment(cwd),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise ComparisonFailed(_with_tail(f"{what} has not ended within {_PATIENCE_S} s", log)) from None
        finally:
            _end(process)
    if code:
        raise ComparisonFailed(_with_tail(f"{what} has failed", log))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End *process* and all its children: like Ctrl-C at first, then by SIGKILL."""

    def to_all(sent: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sent)

    if process.poll() is None:
        to_all(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    to_all(signal.SIGKILL)
    process.wait()


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


def _with_tail(sentence: str, log: Path) -> str:
    return "\n  ".join([f"{sentence}. Its log ends with:", *log.read_text(errors="replace").splitlines()[-12:]])


def _print_progress(what: str, began_s: float) -> None:
    print(f"{what}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
