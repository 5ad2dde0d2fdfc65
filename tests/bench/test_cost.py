"""The cost of a million tasks, as the page shows it."""

from __future__ import annotations

import pytest

from bench import cost
from local.stack import ROOT


def test_the_page_shows_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    cost.main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 3
    page = (ROOT / "docs" / "performance.md").read_text()
    assert [table for table in tables if table not in page] == []


def test_each_timer_run_is_a_second_of_two_gigabytes() -> None:
    a_million_gb_s = 12 * 730 * 60 * 2
    assert a_million_gb_s == pytest.approx(1e6, rel=0.06)
    assert cost.timers(12) == pytest.approx(a_million_gb_s * 0.000026 + 12 * 730 * 60 * 0.40 / 1e6)


def test_a_month_never_costs_more_than_its_instances_always_awake() -> None:
    awake = 730 * 3600 * 2 * 0.000026
    once_a_second = cost.Operations((cost.Executions(2.628, 0.01),), events=0)
    paid = once_a_second.flex_evenly - 2.628 * 0.40
    assert paid == pytest.approx(awake * (1 - 2.718281828**-1))


def test_calls_that_share_an_instance_share_its_price() -> None:
    one = cost.Operations((cost.Executions(1, 16.0),), events=0)
    assert one.flex_in_bursts == pytest.approx(0.40 + 1e6 * 2 * 0.000026)
