"""The harness of the benchmarks: figures, bounds, tables and files."""

from __future__ import annotations

import json
import random
import re
import statistics
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import against, harness
from bench.harness import (
    CONFIDENCE,
    RAW,
    RESULTS,
    SUMMARY,
    TARGETS,
    Figure,
    Report,
    interval_of_median,
    keep_summary,
    meets,
    ratios,
    side_by_side,
    with_spread,
)
from local.stack import ROOT

OUR_PEERS_S = 6
A_BATCH_S = 6

MUST_AND_AIM = {
    "≥ 1.0": (1.0, 0.99),
    "≥ 3": (3.0, 2.9),
    "≤ 1.05": (1.05, 1.051),
    "≤ 20 ms": (20, 20.1),
    "≤ 250 MB": (249, 251),
}


def test_figure_is_the_median_of_its_repeats_with_their_spread() -> None:
    figure = Figure.of("store", [1.9, 0.9, 1.2])
    assert figure.value == 1.2
    assert figure.spread == (0.9, 1.9)
    assert figure.verdict == "must"


@pytest.mark.parametrize(("bound", "inside", "outside"), [(bound, *ends) for bound, ends in MUST_AND_AIM.items()])
def test_bound_includes_its_limit(bound: str, inside: float, outside: float) -> None:
    assert meets(inside, bound)
    assert not meets(outside, bound)


def test_invalid_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="about 3"):
        meets(3, "about 3")


def test_every_target_has_valid_bounds_and_its_aim_is_no_easier_than_its_must() -> None:
    for target in TARGETS.values():
        for value in (0, 1e9):
            if meets(value, target.aim):
                assert meets(value, target.must)
        assert any(meets(value, target.aim) for value in (0, 1e9))
        assert not all(meets(value, target.must) for value in (0, 1e9))


@pytest.mark.parametrize(("value", "verdict"), [(0.99, "short"), (1.0, "must"), (1.5, "aim")])
def test_a_figure_says_which_of_its_bounds_it_meets(value: float, verdict: str) -> None:
    assert Figure.of("store", [value]).verdict == verdict


@pytest.mark.parametrize(
    ("middle", "half", "verdict"),
    [
        (1.0, 0.009, "aim"),
        (0.99, 0.009, "must"),
        (0.985, 0.002, "must"),
        (0.985, 0.009, "unclear"),
        (0.975, 0.009, "unclear"),
        (0.95, 0.014, "short"),
        (1.0, 0.016, "unclear"),
        (0.5, 0.016, "unclear"),
    ],
)
def test_a_figure_of_pairs_is_judged_by_its_interval(middle: float, half: float, verdict: str) -> None:
    # Of twelve, the second smallest and the second largest; what lies beyond them says nothing.
    samples = [0.1, *([middle - half] * 4), middle, middle, *([middle + half] * 4), 9.0]
    figure = Figure.of("callbacks_rate", samples, is_of_pairs=True)
    assert figure.spread == (middle - half, middle + half)
    assert figure.verdict == verdict


def test_interval_ends_follow_the_binomial_distribution() -> None:
    # At most 1 of 12 samples lies below the true median with a probability of 13 in 4,096; at most 2 with one of 79.
    assert interval_of_median(range(12, 0, -1)) == (2, 11)
    assert interval_of_median(range(20)) == (3, 16)
    assert interval_of_median([3, 1, 2]) == (1, 3)
    assert interval_of_median([1]) == (1, 1)


def test_interval_contains_the_true_median_as_often_as_promised() -> None:
    chance = random.Random(1)
    held = [
        low <= 1 <= high
        for low, high in (
            interval_of_median([chance.lognormvariate(0, 0.1) for _ in range(12)]) for _ in range(2_000)
        )
    ]
    assert statistics.mean(held) >= CONFIDENCE


def test_measures_alternate_and_every_other_round_runs_backwards() -> None:
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    taken = side_by_side(3, {"a": lambda: measure("a"), "b": lambda: measure("b")})

    assert "".join(order) == "abbaab"
    assert taken == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_ratios_are_those_of_the_same_round() -> None:
    assert ratios([10, 30], [5, 10]) == [2, 3]


def test_table_shows_the_median_before_the_spread() -> None:
    assert with_spread([3000, 1000, 2000]) == "2,000 (1,000 … 3,000)"
    assert with_spread([1.25], 2) == "1.25"


def test_partial_run_keeps_earlier_figures_in_the_order_of_the_targets(tmp_path: Path) -> None:
    keep_summary([Figure.of("memory", [200]), Figure.of("store", [1, 2, 3])], quick=False, results=tmp_path)
    keep_summary([Figure.of("submit", [0.5]), Figure.of("store", [4])], quick=True, results=tmp_path)

    entries = json.loads((tmp_path / SUMMARY).read_text())
    assert [entry["name"] for entry in entries] == [TARGETS[key].name for key in ("store", "submit", "memory")]
    assert [entry["value"] for entry in entries] == [4, 0.5, 200]
    assert [entry["quick"] for entry in entries] == [True, True, False]
    for entry, key in zip(entries, ("store", "submit", "memory"), strict=True):
        assert (entry["must"], entry["aim"]) == (TARGETS[key].must, TARGETS[key].aim)
        assert {"python", "redis-py", "redis server", "app", "cores"} <= set(entry["versions"])
        assert entry["at"].endswith("+00:00")


def test_report_writes_tables_figures_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="only dev.py bench installs it")
    raw, pictures = tmp_path / "raw", tmp_path / "pictures"
    report = Report("example", quick=False, settings={"callers": 3}, raw=raw, pictures=pictures)
    report.table("Rates", ["", "steps/s"], [("store", 1234)])
    report.figure(Figure.of("store", [1.0]))
    with report.picture() as picture:
        picture.subplots().plot([1, 2], [3, 4])

    assert [figure.value for figure in report.finish(samples=[1.0])] == [1.0]

    document = json.loads((raw / "example.json").read_text())
    assert document["tables"] == [{"title": "Rates", "columns": ["", "steps/s"], "rows": [["store", "1234"]]}]
    assert document["figures"][0]["verdict"] == "must"
    assert (document["settings"], document["samples"], document["quick"]) == ({"callers": 3}, [1.0], False)
    assert "<svg" in (pictures / "example.svg").read_text()
    assert "1234" in capsys.readouterr().out


def test_a_quick_run_changes_no_tracked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="only dev.py bench installs it")
    raw, tracked = tmp_path / "raw", tmp_path / "tracked"
    report = Report("example", quick=True, settings={}, raw=raw, pictures=tracked)
    with report.picture() as picture:
        picture.subplots().plot([1, 2], [3, 4])
    report.finish()
    monkeypatch.setattr(harness, "RAW", raw)
    monkeypatch.setattr(harness, "RESULTS", tracked)
    keep_summary([Figure.of("store", [1.0])], quick=True)
    assert {file.name for file in raw.iterdir()} == {"example.svg", "example.json", SUMMARY}
    assert not tracked.exists()

    keep_summary([Figure.of("store", [1.0])], quick=False)
    assert {file.name for file in tracked.iterdir()} == {SUMMARY}


def test_git_tracks_only_the_summary_and_the_pictures_in_the_documentation() -> None:
    kept = {file.name for file in RESULTS.iterdir()}
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    shown = set(re.findall(r"\]\(\.\./bench/results/([^)]+)\)", pages))
    assert kept == {SUMMARY, *shown}
    assert RAW.relative_to(ROOT).parts[0] == ".local"
    assert ".local/" in (ROOT / ".gitignore").read_text().splitlines()


def test_all_benchmarks_together_stay_within_their_time_limit() -> None:
    whole_s, quick_s = (sum(budget[index] for budget in command.BUDGETS_S.values()) for index in (0, 1))
    assert whole_s <= 30 * 60
    assert quick_s <= 3 * 60


def test_comparison_stays_within_its_time_limit() -> None:
    """Both sides run the quick benchmarks, and only our own part of the peers."""
    a_repeat_s = 2 * sum(command.BUDGETS_S[name][1] for name in ("store", "http", "growth")) + 2 * OUR_PEERS_S
    assert against.FULL.repeats * a_repeat_s + against.FULL.most_batches * A_BATCH_S <= 20 * 60
