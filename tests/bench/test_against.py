"""The comparison with another revision: its measurements and its verdicts."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import against
from bench.against import (
    BETTER,
    SAME,
    UNCLEAR,
    WORSE,
    ComparisonFailed,
    Driver,
    Row,
    Sample,
    figure_row,
    figure_verdict,
    figures_of,
    step_row,
    step_rows,
    step_verdict,
)
from local.redis_server import RedisServer
from local.stack import ROOT
from tests.waiting import eventually

STEPS = ["create", "claim", "heartbeat", "complete", "create + enqueue", "complete + grant + claim"]
CHILD_STEPS = ["child: create + enqueue", "child: complete + grant + claim"]
FORMER = "c4e703370188f787282b5198c2f8eed3ff7e4677"
"""The last revision without ``bench/steps.py``."""


# The verdicts


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        pytest.param([10, 11, 12, 13], [14, 15, 16, 17], WORSE, id="all are worse"),
        pytest.param([10, 11, 12, 18], [13, 19, 20, 21], WORSE, id="each median is beyond the other's spread"),
        pytest.param([10, 11, 12, 30], [14, 15, 16, 17], SAME, id="within the spread of before"),
        pytest.param([10, 11, 12, 13], [9, 15, 16, 17], SAME, id="within the spread of after"),
        pytest.param([14, 15, 16, 17], [10, 11, 12, 13], BETTER, id="all are better"),
        pytest.param([1000, 1000, 1000, 1000], [1009, 1009, 1009, 1009], SAME, id="by less than a hundredth"),
        pytest.param([1000, 1000, 1000, 1000], [1011, 1011, 1011, 1011], WORSE, id="by more than a hundredth"),
        pytest.param([10, 10], [12, 12], SAME, id="a fifth, of few repeats"),
        pytest.param([10, 10], [13, 13], WORSE, id="a third, of few repeats"),
    ],
)
def test_cost_is_worse_beyond_the_spread_of_its_repeats(
    before: list[float], after: list[float], verdict: str
) -> None:
    assert figure_verdict(before, after, higher_is_better=False) == verdict


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([10, 11, 12, 13], [14, 15, 16, 17], BETTER),
        ([14, 15, 16, 17], [10, 11, 12, 13], WORSE),
        ([14, 15, 16, 17], [14, 15, 16, 17], SAME),
    ],
)
def test_a_rate_is_worse_when_it_is_lower(before: list[float], after: list[float], verdict: str) -> None:
    assert figure_verdict(before, after, higher_is_better=True) == verdict


@pytest.mark.parametrize(("repeats", "once_in"), [(7, 171.6), (3, 10)])
def test_false_alarms_are_as_rare_as_documented(repeats: int, once_in: float) -> None:
    """Two equal sides: count the verdicts over all possible orders of their repeats."""
    ranks = range(1_000, 1_000 + 300 * 2 * repeats, 300)
    found = [
        figure_verdict([rank for rank in ranks if rank not in after], after, higher_is_better=False)
        for after in itertools.combinations(ranks, repeats)
    ]
    if repeats >= against.FEW_REPEATS:
        assert len(found) / found.count(WORSE) == pytest.approx(once_in, rel=0.01)
    else:
        assert len(found) / found.count(WORSE) >= once_in


@pytest.mark.parametrize(
    ("ratio", "interval", "verdict"),
    [
        (1.04, (1.01, 1.07), WORSE),
        (1.04, (0.99, 1.09), UNCLEAR),
        (1.02, (1.01, 1.029), SAME),
        (1.00, (0.95, 1.05), UNCLEAR),
        (1.00, (0.98, 1.02), SAME),
        (0.96, (0.94, 0.98), BETTER),
        (0.96, (0.90, 1.02), SAME),
    ],
)
def test_step_is_worse_if_its_whole_interval_is_beyond_three_percent(
    ratio: float, interval: tuple[float, float], verdict: str
) -> None:
    assert step_verdict(ratio, interval) == verdict


def batches(ratio: float, count: int = 12) -> list[list[tuple[float, float]]]:
    """Batches from a machine that gradually becomes four times as slow; each tenth round is disturbed."""
    chance = random.Random(2)
    pairs: list[tuple[float, float]] = []
    for number in range(count * 8):
        speed = 10 * (1 + 3 * number / (count * 8))
        pairs.append(
            (
                speed * chance.gauss(1, 0.01) * (10 if chance.random() < 0.1 else 1),
                ratio * speed * chance.gauss(1, 0.01) * (10 if chance.random() < 0.1 else 1),
            )
        )
    return [pairs[start : start + 8] for start in range(0, len(pairs), 8)]


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, SAME), (1.01, SAME), (1.05, WORSE), (0.94, BETTER)],
    ids=["1", "1.01", "1.05", "0.94"],
)
def test_drift_and_disturbed_rounds_do_not_affect_the_verdict(ratio: float, verdict: str) -> None:
    row = step_row("create, Redis µs", batches(ratio))
    assert row.verdict == verdict
    assert row.ratio == pytest.approx(ratio, abs=0.01)
    assert row.interval
    assert row.interval[0] < ratio < row.interval[1]
    assert len(row.before) == 12


def test_each_step_has_a_row_for_redis_and_one_for_the_app() -> None:
    cost = {"create": {"redis_us": 16.0, "client_us": 15.0}}
    dearer = {"create": {"redis_us": 32.0, "client_us": 15.0}}
    rows = step_rows([[{"before": cost, "after": dearer}] * 2] * 12)
    assert [(row.name, row.ratio, row.verdict) for row in rows] == [
        ("create, Redis µs", 2.0, WORSE),
        ("create, our CPU µs", 1.0, SAME),
    ]


# The benchmarks' files


def test_store_run_yields_its_figure_and_our_own_rates() -> None:
    phases = {"create": {"steps": 100, "steps_per_s": 50.0}, "claim": {"steps": 100, "steps_per_s": 25.0}}
    document = {
        "figures": [{"name": "store ÷ redis-benchmark", "value": 1.5, "must": "≥ 1.0"}],
        "samples": {"store, 128 callers": [phases, phases], "redis-benchmark": [phases, phases]},
    }
    assert figures_of("store", document) == {
        "store ÷ redis-benchmark": Sample(1.5, True),
        "store, 128 callers: steps/s": Sample(pytest.approx(200 / 6), True),
    }


def test_http_rates_are_relative_to_the_constant_handler_of_the_same_round() -> None:
    document = {
        "figures": [{"name": "submit ÷ constant", "value": 0.5, "must": "≥ 0.4"}],
        "samples": {
            "constant handler": [100.0, 200.0],
            "submit": [50.0, 100.0],
            "status": [60.0, 100.0],
            "other": [],
        },
    }
    assert figures_of("http", document) == {
        "submit ÷ constant": Sample(0.5, True),
        "status: req/s ÷ constant handler": Sample(pytest.approx(0.55), True),
    }


def test_growth_run_yields_its_figure_and_the_bytes_of_the_largest_store() -> None:
    document = {
        "figures": [{"name": "growth", "value": 1.2, "must": "≤ 1.3"}],
        "bytes_per_task": {"waiting": {"1000": 1300.0, "30000": 1250.0}},
    }
    assert figures_of("growth", document) == {
        "growth": Sample(1.2, False),
        "bytes of a waiting task": Sample(1250.0, False),
    }


def test_peers_run_yields_only_our_own_figures() -> None:
    document = {
        "figures": {
            "ours": {
                "near_drain_per_s": {"median": 25_000.0},
                "far_latency_median_ms": {"median": 5.5},
                "far_latency_p95_ms": {"median": 6.5},
            },
            "RQ": {"near_drain_per_s": {"median": 470.0}},
        }
    }
    assert figures_of("peers", document) == {
        "ours: near_drain_per_s": Sample(25_000.0, True),
        "ours: far_latency_median_ms": Sample(5.5, False),
    }


def test_a_row_has_the_samples_of_both_sides_and_the_ratio_of_their_medians() -> None:
    row = figure_row("rate", [Sample(value, True) for value in (9, 10, 11)], [Sample(20.0, True)] * 3)
    assert (row.before, row.after, row.ratio, row.verdict) == ((9, 10, 11), (20, 20, 20), 2.0, BETTER)


def test_sides_alternate_and_figures_of_only_one_side_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []

    def measure(name: str, trees: Mapping[str, Path], side: str, directory: Path) -> dict[str, Any]:
        order.append(f"{name} {side}")
        figures = [{"name": "rate", "value": 10.0 if side == "before" else 5.0, "must": "≥ 1"}]
        if side == "after":
            figures.append({"name": "new", "value": 1.0, "must": "≥ 1"})
        return {"figures": figures}

    monkeypatch.setattr(against, "_measure", measure)
    rows, alone = against.compare_benchmarks({}, tmp_path, ["bodies", "saturation"], 4)
    assert order[:4] == ["bodies before", "bodies after", "saturation before", "saturation after"]
    assert order[4:8] == ["bodies after", "bodies before", "saturation after", "saturation before"]
    assert [(row.name, row.ratio, row.verdict) for row in rows] == [("rate", 0.5, WORSE)]
    assert alone == ["new"]


# The exit code


def row(verdict: str) -> Row:
    return Row("create, Redis µs", (16.0,), (17.0,), 1.06, (1.04, 1.08), verdict)


@pytest.mark.parametrize(("verdict", "code"), [(WORSE, 1), (UNCLEAR, 0), (SAME, 0), (BETTER, 0)])
def test_only_a_worse_row_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, verdict: str, code: int
) -> None:
    @contextmanager
    def checked_out(revision: str, directory: Path) -> Iterator[Mapping[str, Path]]:
        yield {}

    def steps(*_: object) -> Sequence[Row]:
        return [row(verdict)]

    monkeypatch.setattr(against, "checked_out", checked_out)
    monkeypatch.setattr(against, "compare_steps", steps)
    monkeypatch.setattr(against, "RAW", tmp_path)
    monkeypatch.setattr(against.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", "--against", "HEAD", "steps", "--quick"])
    assert command.main() == code
    said = capsys.readouterr().out
    assert "1.060 (1.040 … 1.080)" in said
    assert ("Worse: create, Redis µs." in said) is (verdict == WORSE)
    assert ("more than 3%: create, Redis µs." in said) is (verdict == UNCLEAR)
    assert (tmp_path / "against.json").exists()


def test_unknown_revision_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(against.signal, "signal", lambda *_: None)
    assert against.run("no-such-revision", ["steps"], quick=True) == 2
    said = capsys.readouterr().err
    assert said.startswith("There is no comparison: git rev-parse failed: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["--repeats", "3"], ["--against", "HEAD", "--repeats", "0"], ["steps"]])
def test_invalid_options_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2


# The trees


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
    done = subprocess.run(
        ["git", "-C", str(repository), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / ".gitignore").write_text(".local/\n")
    (root / "app.py").write_text("first")
    (root / "gone.py").write_text("gone")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    (root / "app.py").write_text("second")
    git(root, "commit", "--quiet", "--all", "--message", "second")
    monkeypatch.setattr(against, "ROOT", root)
    return root


def test_working_tree_is_compared_unchanged_and_stays_unchanged(repository: Path, tmp_path: Path) -> None:
    (repository / "app.py").write_text("changed")
    (repository / "new.py").write_text("new")
    (repository / "gone.py").unlink()
    before = git(repository, "status", "--porcelain")
    place = tmp_path / "place"
    place.mkdir()
    with against.checked_out("HEAD~1", place) as trees:
        assert (trees["before"] / "app.py").read_text() == "first"
        assert (trees["before"] / "gone.py").exists()
        assert (trees["after"] / "app.py").read_text() == "changed"
        assert (trees["after"] / "new.py").read_text() == "new"
        assert not (trees["after"] / "gone.py").exists()
        for tree in trees.values():
            assert (tree / ".local" / "npm").resolve() == repository / ".local" / "npm"
    assert git(repository, "status", "--porcelain") == before
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert not any(tree.exists() for tree in trees.values())


def test_the_worktrees_are_removed_when_a_side_cannot_be_measured(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ComparisonFailed, match="it broke"), against.checked_out("HEAD", tmp_path):
        raise ComparisonFailed("it broke")
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1


def test_processes_of_a_failed_benchmark_are_ended(tmp_path: Path) -> None:
    seconds = f"60.{os.getpid()}"  # unique among the sleeps on this machine
    program = f"import subprocess, sys; subprocess.Popen(['sleep', '{seconds}']); sys.exit('broken')"
    with pytest.raises(ComparisonFailed, match=r"(?s)store of before has failed\. Its log ends with:.*broken"):
        against._run("store of before", [sys.executable, "-c", program], tmp_path, tmp_path / "log")

    def has_ended() -> bool:  # which a loaded machine does a moment after the signal
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return f"sleep {seconds}" not in listed

    eventually(has_ended)


# The steps


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), extra_arguments=["--appendonly", "no"]) as server:
        yield server


def test_all_steps_of_this_tree_are_measured(server: RedisServer, tmp_path: Path) -> None:
    with Driver(ROOT, ROOT / "bench", server.port, tmp_path / "log") as driver:
        costs = driver.measure(300)
    assert list(costs) == [*STEPS, *CHILD_STEPS]
    for cost in costs.values():
        assert 1 < cost["redis_us"] < 10_000
        assert 1 < cost["client_us"] < 10_000


def test_steps_of_a_revision_without_a_steps_file_are_measured(server: RedisServer, tmp_path: Path) -> None:
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", FORMER], capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("this clone does not have that revision")
    tree = tmp_path / "former"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    assert not (tree / "bench" / "steps.py").exists()
    with Driver(tree, ROOT / "bench", server.port, tmp_path / "log") as driver:
        assert list(driver.measure(300)) == STEPS


def test_the_steps_of_former_revisions_are_frozen() -> None:
    """The file uses the names of a revision that never changes again. If this fails, revert the change to it."""
    digest = hashlib.sha256((ROOT / "bench" / "former_steps.py").read_bytes()).hexdigest()
    assert digest == "d0a2866c3fb468ec3d4e938334bdc2b11563a22f190fb764ae3801e740c99f3f"


def test_steps_that_complete_no_task_fail_the_comparison(server: RedisServer, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bench").mkdir(parents=True)
    steps = (ROOT / "bench" / "steps.py").read_text()
    broken = steps.replace(
        "_expect(await complete(self._apart, task_id), Applied)", "await claim(self._apart, task_id)"
    )
    assert broken != steps
    (tree / "bench" / "steps.py").write_text(broken)
    for name in ("shared", "local", "bench/commands.py"):
        (tree / name).symlink_to(ROOT / name)
    with (
        pytest.raises(ComparisonFailed, match="0 tasks are completed, not 100: some steps had no effect"),
        Driver(tree, ROOT / "bench", server.port, tmp_path / "log") as driver,
    ):
        driver.measure(100)
