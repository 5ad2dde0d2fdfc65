"""The bill of a month, as the page shows it, and what it is made of."""

from __future__ import annotations

import pytest

from bench import cost, month
from bench.month import BY_USE, FREE, PRICES, TASK, Deployment
from local.stack import ROOT

PAGE = (ROOT / "docs" / "elements-and-costs.md").read_text()
PRESETS = ("dev", "prod")


def standing(preset: str) -> dict[str, float]:
    return {line.element: line.dollars for line in Deployment.of(preset).standing()}


def by_use(preset: str, tasks: float) -> dict[str, float]:
    return {line.element: line.dollars for line in Deployment.of(preset).by_use(tasks, TASK)}


def test_the_page_shows_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    month.main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 4
    changed = [table for table in tables if f"-->\n{table}\n<!--" not in PAGE]
    assert changed == [], "put there what this prints: python -m bench.month"


@pytest.mark.parametrize("preset", PRESETS)
def test_everything_that_is_deployed_is_priced_or_known_to_be_free(preset: str) -> None:
    assert Deployment.of(preset).standing()
    assert not FREE & BY_USE


def test_what_nobody_has_priced_is_refused() -> None:
    resources = [*Deployment.of("dev")._resources, {"type": "Microsoft.Network/bastionHosts"}]
    with pytest.raises(KeyError, match="bastionHosts"):
        Deployment("dev", resources).standing()


def test_the_sums_that_the_page_begins_with_are_those_of_the_table() -> None:
    dev, prod = (sum(standing(preset).values()) for preset in PRESETS)
    assert f"`dev` costs about ${round(dev, -1):,.0f} a month and `prod` about ${round(prod, -1):,.0f}" in PAGE


def test_a_replica_doubles_redis() -> None:
    assert standing("dev")["Redis"] == pytest.approx(PRICES["Redis Balanced_B0"].dollars)
    assert standing("prod")["Redis"] == pytest.approx(2 * PRICES["Redis Balanced_B5"].dollars)


def test_an_instance_that_is_always_ready_is_paid_whether_it_works_or_not() -> None:
    assert standing("prod")["function app, always ready"] == pytest.approx(2 * 4 * 730 * 3600 * 0.000004)
    assert "function app, always ready" not in standing("dev")


def test_no_more_is_paid_for_two_instances_than_that_both_are_always_at_work() -> None:
    both = 2 * 4 * 730 * 3600 * 0.000016
    at_work = by_use("prod", 3e6)["function app, instances"] + standing("prod")["function app, polls of KEDA"]
    assert at_work == pytest.approx(both, rel=0.01)


def test_a_million_tasks_cost_dev_what_the_page_on_performance_says() -> None:
    task = cost.ours(cost.CASES[0], new_client=True)  # which fetches no result
    lines = {line.element: line.dollars for line in Deployment.of("dev").by_use(1e6, task)}
    # There no poll keeps an instance awake meanwhile.
    instances = lines["function app, instances"] + standing("dev")["function app, polls of KEDA"]
    whole = instances + lines["function app, executions"] + lines["Event Grid"]
    assert whole == pytest.approx(task.flex_evenly, rel=0.01)


def test_the_calls_that_a_unit_includes_are_not_paid_twice() -> None:
    assert by_use("prod", 50e6 / month.GATEWAY_CALLS)["API Management, calls"] == 0
    assert by_use("prod", 51e6 / month.GATEWAY_CALLS)["API Management, calls"] == pytest.approx(2.50)
    assert by_use("dev", 1e6 / month.GATEWAY_CALLS)["API Management, calls"] == pytest.approx(3.50)


def test_redis_is_full_of_what_it_keeps_and_not_of_more() -> None:
    a_day = 100e6 / (730 / 24)
    assert Deployment.of("prod").redis_share(100e6) == pytest.approx(7 * a_day * 1200 / (6e9 * 0.8))
    holds_days = month.KEPT_DAYS / Deployment.of("prod").redis_share(100e6)
    assert f"holds {holds_days:.1f} days of finished tasks" in PAGE
    presets = (month.INFRA / "presets.bicep").read_text()
    assert f"retentionS: {month.KEPT_DAYS} * days" in presets


def test_the_table_of_elements_has_the_sizes_of_the_presets() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    cells = {row[0]: row[2:4] for row in rows if len(row) == 6}
    tiers = {preset: {line.element: line.tier for line in Deployment.of(preset).standing()} for preset in PRESETS}
    for column, preset in enumerate(PRESETS):
        deployment = Deployment.of(preset)
        assert f"`{deployment.redis_size}`" in cells["Azure Managed Redis"][column]
        assert cells["Functions, Flex Consumption"][column].startswith(f"{deployment.app.memory_gb:g} GB, ")
        assert tiers[preset]["container registry"] in cells["Container registry"][column]
        assert deployment.gateway.replace("V", " v") in cells["API Management"][column]
    assert f"{Deployment.of('prod').app.always_ready} always ready" in cells["Functions, Flex Consumption"][1]
    counts = [tiers["prod"][each] for each in ("private endpoints", "private DNS zones")]
    assert (counts, cells["private endpoints and DNS zones"][1]) == (["9", "8"], "nine and eight")


def test_what_dominates_is_what_the_page_says() -> None:
    few, many = by_use("prod", 1e6), by_use("prod", 100e6)
    alone = sum(standing("prod").values())
    assert alone / (alone + sum(few.values())) == pytest.approx(5 / 6, rel=0.03)
    machines = standing("prod")["AKS, nodes"] + standing("prod")["AKS, their disks and telemetry"]
    assert (machines + standing("prod")["API Management"]) / alone == pytest.approx(2 / 3, rel=0.03)
    assert sorted(many, key=many.__getitem__, reverse=True)[:2] == ["function app, instances", "telemetry"]
    assert sum(by_use("dev", 10_000).values()) < sum(standing("dev").values()) / 9
