"""What a whole run of the SDK's benchmark writes into the page on performance."""

from __future__ import annotations

from bench.harness import Figure
from bench.sdk import PAGE, figures_of, servers_of, table, written
from sdk.bench.foreign import Measured


def test_the_figures_are_shown_with_their_verdicts() -> None:
    figures = [Figure.of("sdk_ready", [0.2, 0.1, 0.4]), Figure.of("sdk_wheel", [120.0])]
    assert figures_of(figures) == [
        ("hello: from its start to its first answer", "0.2", "0.1 … 0.4", "≤ 1 s", "met"),
        ("SDK: its wheel", "120", "", "≤ 100 KB", "falls short"),
    ]


def test_the_servers_are_shown_with_their_medians() -> None:
    runs = [Measured(0.1, 2, 25.2, 0.7, 0.6, 1.9, 0), Measured(0.3, 2, 25.4, 0.9, 0.6, 2.1, 0)]
    assert servers_of({"ours": runs}) == [
        (
            "ours",
            "0.20 (0.10 … 0.30)",
            "2",
            "25",
            "0.80 (0.70 … 0.90)",
            "0.60 (0.60 … 0.60)",
            "2.0 (1.9 … 2.1)",
            "0 (0 … 0)",
        )
    ]


def test_a_table_replaces_what_was_between_its_markers() -> None:
    page = PAGE.read_text()
    lines = table(("figure", "value"), [("six", "6")])
    once = written(page, "figures", lines)
    assert "| figure | value |\n| --- | --: |\n| six | 6 |" in once
    assert written(once, "figures", lines) == once
    assert written(once, "servers", lines).count("| six | 6 |") == 2
