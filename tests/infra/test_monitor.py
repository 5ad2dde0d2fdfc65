"""The alerts and the workbook that each preset would deploy: severities, times, runbooks, thresholds.

What their queries find is judged by ``dev.py judges``.
"""

from __future__ import annotations

import json
import re

import pytest

from local.stack import ROOT
from tests.infra.test_snapshots import MAIN, PRESETS, Predict, Resource, one, predict, resources
from tests.judges.monitor.queries import seconds

__all__ = ["predict"]

RULE = "Microsoft.Insights/scheduledQueryRules"
SEVERITIES = {
    "unavailable": 1,
    "no-metrics": 1,
    "nothing-ends": 1,
    "nothing-is-dispatched": 1,
    "tasks-wait": 2,
    "tasks-fail": 2,
    "leases-end": 3,
    "many-dispatches": 3,
    "limit-reached": 3,
    "callbacks-fail": 2,
}
# What Azure takes, in minutes.
WINDOWS = {1, 5, 10, 15, 30, 45, 60, 120, 180, 240, 300, 360, 1440, 2880}
FREQUENCIES = {1, 5, 10, 15, 30, 45, 60}
PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def name_of(rule: Resource) -> str:
    return rule["name"].rpartition("-")[0]


def query_of(rule: Resource) -> str:
    return rule["properties"]["criteria"]["allOf"][0]["query"]


def quiet_minutes(found: list[Resource]) -> set[float]:
    return {
        seconds(each["properties"]["windowSize"]) / 60
        for each in found
        if each["type"] == RULE and name_of(each) in ("nothing-ends", "nothing-is-dispatched")
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_each_alert_is_there_with_its_severity_its_runbook_and_somebody_to_tell(preset: str) -> None:
    rules = {name_of(each): each["properties"] for each in resources(preset, RULE)}
    expected = {**SEVERITIES}
    if preset == "dev":  # no instance is always awake, so silence is no fault
        del expected["no-metrics"]
    assert {name: rule["severity"] for name, rule in rules.items()} == expected
    group, insights = one(preset, "Microsoft.Insights/actionGroups"), one(preset, "Microsoft.Insights/components")
    assert [each["emailAddress"] for each in group["properties"]["emailReceivers"]] == ["nobody@example.org"]
    for name, rule in rules.items():
        assert rule["actions"]["actionGroups"] == [group["id"]]
        assert rule["scopes"] == [insights["id"]]
        assert rule["enabled"]
        assert rule["autoMitigate"]
        assert rule["description"] == rule["actions"]["customProperties"]["runbook"] == f"docs/monitoring.md#{name}"
        assert f"\n### {name}\n" in PAGE
        assert re.search(rf"^\| \[`{name}`\]\(#{name}\) \| {rule['severity']} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("preset", PRESETS)
def test_azure_takes_the_times_and_each_endpoint_has_an_alert_of_its_own(preset: str) -> None:
    for each in resources(preset, RULE):
        properties = each["properties"]
        window, frequency = (seconds(properties[name]) / 60 for name in ("windowSize", "evaluationFrequency"))
        assert window in WINDOWS
        assert frequency in FREQUENCIES
        assert frequency <= window
        [criterion] = properties["criteria"]["allOf"]
        by = re.findall(r"\bby (path|destination)\b", criterion["query"])
        assert [each["name"] for each in criterion["dimensions"]] == by[-1:]
        assert not re.search(r"[{}]", criterion["query"]), "nothing is left to fill in"


def test_the_time_without_a_word_is_the_longer_of_a_fixed_one_and_some_leases() -> None:
    [rule] = [each for each in resources("prod", RULE) if name_of(each) == "nothing-ends"]
    services = json.loads((ROOT / "infra" / "services.json").read_text())["services"]
    leases = "".join(f', "{each["path"]}", {each["lease_s"]}' for each in services if "lease_s" in each)
    assert f'let leases = datatable(prefix: string, lease_s: long)["", 600{leases}];\n' in query_of(rule)
    assert quiet_minutes(resources("prod")) == {45}  # 30 minutes or 3 leases of 10, and ten minutes more


def test_without_an_address_there_are_no_alerts_and_the_workbook_is_there(predict: Predict) -> None:
    found = {each["type"] for each in predict("main.bicep", **MAIN)}
    assert "Microsoft.Insights/workbooks" in found
    assert not found & {RULE, "Microsoft.Insights/actionGroups"}


@pytest.mark.parametrize(("lease_s", "minutes"), [(600, 45), (3600, 240), (36_000, 2880), (90_000, 2880)])
def test_thresholds_and_leases_are_parameters(predict: Predict, lease_s: int, minutes: int) -> None:
    presets = (ROOT / "infra" / "presets.bicep").read_text()
    [block] = re.findall(r"^var alerts Thresholds = \{\n(.*?)^\}", presets, re.MULTILINE | re.DOTALL)
    thresholds = {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", block)}
    changed = {**thresholds, "longestWaitS": 60, "failedPercent": 50, "failedTasks": 7, "dispatchesPerTask": 9}
    found = predict(
        "monitor/alerts.bicep",
        location="westeurope",
        tags={"a": "b"},
        insightsName="appi-1",
        groupName="ag-1",
        token="t",
        email="you@example.org",
        runbooks="https://docs.example.org/monitoring",
        isAlwaysAwake=False,
        leases=[{"prefix": "", "leaseS": lease_s}],
        thresholds=changed,
    )
    rules = {name_of(each): each for each in found if each["type"] == RULE}
    assert "let longest_wait_s = 60;\n" in query_of(rules["tasks-wait"])
    assert "let failed_percent = 50;\nlet failed_tasks = 7;\n" in query_of(rules["tasks-fail"])
    assert "let most_dispatches = 9;\n" in query_of(rules["many-dispatches"])
    assert rules["tasks-wait"]["properties"]["description"] == "https://docs.example.org/monitoring#tasks-wait"
    assert quiet_minutes(found) == {minutes}


def test_each_threshold_is_used() -> None:
    presets = (ROOT / "infra" / "presets.bicep").read_text()
    [block] = re.findall(r"^var alerts Thresholds = \{\n(.*?)^\}", presets, re.MULTILINE | re.DOTALL)
    alerts = (ROOT / "infra" / "monitor" / "alerts.bicep").read_text()
    assert [name for name in re.findall(r"(\w+):", block) if f"thresholds.{name}" not in alerts] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_the_workbook_is_the_one_of_the_repository_and_belongs_to_application_insights(preset: str) -> None:
    workbook = one(preset, "Microsoft.Insights/workbooks")
    committed = json.loads((ROOT / "infra" / "monitor" / "workbook.json").read_text())
    assert json.loads(workbook["properties"]["serializedData"]) == committed
    assert workbook["properties"]["sourceId"] == one(preset, "Microsoft.Insights/components")["id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", workbook["name"])
