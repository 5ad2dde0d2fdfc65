"""What a deployment costs a month on Azure, by its elements: ``python -m bench.month``.

Like ``bench.cost`` it is a model and no bill. What exists it takes from the snapshots of the presets, so a figure
that is changed in ``infra/presets.bicep`` is changed here. The prices are below, each with where it is from: in US
dollars, for East US, without discounts and free grants, unless said otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cost import (
    CASES,
    EVENT_OPERATIONS_PER_MILLION,
    EXECUTIONS_PER_MILLION,
    GB_SECOND,
    HOST_SPAN_BYTES,
    LEAST_S,
    MONTH_S,
    TASK_BYTES,
    TASK_REQUESTS,
    TELEMETRY_GB,
    TIMER_RUNS_PER_MINUTE,
    Executions,
    Operations,
    answered_at_once,
    awake_s,
    ours,
)

INFRA = Path(__file__).resolve().parents[1] / "infra"
CHART = INFRA.parent / "charts" / "model-service"
HOURS = 730
SEEN = "seen on 2026-11-30 in a public page or repository of 2026, which is not Microsoft's"
REMEMBERED = "as remembered in 2026, not looked up"
FLEX_SEEN = "seen on 2026-11-30 in a public repository, which asked Azure's price list on 2026-09-26 (East US 2)"


@dataclass(frozen=True)
class Price:
    dollars: float
    unit: str
    source: str


PRICES = {
    "Redis Balanced_B0": Price(0.016 * HOURS, "node and month", SEEN),
    "Redis Balanced_B1": Price(46.08 / 2, "node and month", SEEN),
    "Redis Balanced_B5": Price(570.86 / 4, "node and month", f"half of a B10, {SEEN}"),
    "Redis Balanced_B10": Price(570.86 / 2, "node and month", SEEN),
    "API Management Consumption": Price(3.50, "million calls", SEEN),
    "API Management BasicV2": Price(210.0, "unit and month, with 10 million calls", SEEN),
    "API Management StandardV2": Price(734.0, "unit and month, with 50 million calls", SEEN),
    "API Management StandardV2, more calls": Price(2.50, "million calls", REMEMBERED),
    "AKS Free": Price(0.0, "month", REMEMBERED),
    "AKS Standard": Price(0.10 * HOURS, "month", SEEN),
    "Standard_B2s_v2": Price(0.0832 * HOURS, "machine and month", REMEMBERED),
    "Standard_D4s_v5": Price(0.192 * HOURS, "machine and month", "0.38 an hour for two, " + SEEN),
    "disk of a node": Price(19.71, "128 GB and month", REMEMBERED),
    "load balancer": Price(0.025 * HOURS + 0.005 * HOURS, "month, with one address", REMEMBERED),
    "registry Basic": Price(0.167 * HOURS / 24, "month", REMEMBERED),
    "registry Standard": Price(0.667 * HOURS / 24, "month", REMEMBERED),
    "registry Premium": Price(1.667 * HOURS / 24, "month", REMEMBERED),
    "private endpoint": Price(0.01 * HOURS, "month, and 0.01 a GB", SEEN),
    "private DNS zone": Price(0.50, "month", SEEN),
    "telemetry": Price(TELEMETRY_GB, "GB", SEEN),
    "alert rule, PT1M": Price(3.00, "month, evaluated every minute", REMEMBERED),
    "alert rule, PT5M": Price(1.50, "month, every 5 minutes", REMEMBERED),
    "alert rule, PT10M": Price(1.00, "month, every 10 minutes", REMEMBERED),
    "alert rule, PT15M": Price(0.50, "month, every 15 minutes", REMEMBERED),
    "function app, on demand": Price(GB_SECOND, "GB and second", FLEX_SEEN),
    "function app, always ready": Price(0.000004, "GB and second", FLEX_SEEN),
    "function app, always ready and at work": Price(0.000016, "GB and second", FLEX_SEEN),
    "executions": Price(EXECUTIONS_PER_MILLION, "million", REMEMBERED),
    "Event Grid": Price(EVENT_OPERATIONS_PER_MILLION, "million operations", SEEN),
}

CALLS_INCLUDED = {"BasicV2": 10e6, "StandardV2": 50e6}
IDLE_GB = 1.0
"""Telemetry of an idle app and its host a month: docs/telemetry.md counts 20 KB a minute."""
NODE_GB = 2.0
"""What Container Insights tells of a node a month: an assumption."""
POLLED_ENDPOINTS = 4
"""As many as the examples have."""
MODEL_CPU_S = 1.0
"""CPU time of a model for a task: an assumption, as every model differs."""
NODE_USE = 0.7
"""How much of its CPUs a node gives to models on average: an assumption."""
CPUS = {"Standard_B2s_v2": 2, "Standard_D4s_v5": 4}
GATEWAY_CALLS = 3
"""What a caller sends for a task: the submit, one wait for its end, and the result."""
TASK_KB = 1.2
"""What Redis keeps of a task of 500 bytes (docs/performance.md)."""
KEPT_DAYS = 7
"""RETENTION_S of both presets."""
REDIS_GB = {"Balanced_B0": 0.5, "Balanced_B1": 1.0, "Balanced_B5": 6.0, "Balanced_B10": 12.0}
USABLE = 0.8
"""The share of its memory that Azure Managed Redis gives to data."""

FREE = {
    "Microsoft.ApiManagement/service/diagnostics",
    "Microsoft.ApiManagement/service/loggers",
    "Microsoft.Authorization/roleAssignments",
    "Microsoft.Cache/redisEnterprise/databases",
    "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments",
    "Microsoft.Insights/actionGroups",  # a thousand mails a month
    "Microsoft.Insights/components",
    "Microsoft.Insights/dataCollectionRuleAssociations",
    "Microsoft.Insights/dataCollectionRules",
    "Microsoft.Insights/diagnosticSettings",
    "Microsoft.Insights/workbooks",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials",
    "Microsoft.Network/networkSecurityGroups",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups",
    "Microsoft.Network/virtualNetworks",
    "Microsoft.Resources/resourceGroups",
    "Microsoft.Storage/storageAccounts/blobServices",
    "Microsoft.Storage/storageAccounts/blobServices/containers",
    "Microsoft.Storage/storageAccounts/managementPolicies",
    "Microsoft.Web/serverfarms",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies",
}
"""What costs nothing by itself."""
BY_USE = {
    "Microsoft.EventGrid/topics",
    "Microsoft.KeyVault/vaults",  # 3 cents for 10,000 secrets read, which a deployment never reaches
    "Microsoft.Storage/storageAccounts",
    "Microsoft.OperationalInsights/workspaces",
}
"""What costs nothing until it is used."""


@dataclass(frozen=True)
class Line:
    """A line of the bill."""

    element: str
    tier: str
    dollars: float


@dataclass(frozen=True)
class App:
    """What the snapshot says of the function app."""

    memory_gb: float
    concurrency: int
    always_ready: int


class Deployment:
    """A preset, by the resources that its snapshot predicts."""

    def __init__(self, preset: str, resources: Iterable[dict[str, Any]]) -> None:
        self.preset = preset
        self._resources = list(resources)
        self.redis_size: str = self._one("Microsoft.Cache/redisEnterprise")["sku"]["name"]
        self.gateway: str = self._one("Microsoft.ApiManagement/service")["sku"]["name"]
        [self._pool] = self._one("Microsoft.ContainerService/managedClusters")["properties"]["agentPoolProfiles"]
        scale = self._one("Microsoft.Web/sites")["properties"]["functionAppConfig"]["scaleAndConcurrency"]
        self.app = App(
            memory_gb=scale["instanceMemoryMB"] / 1024,
            concurrency=scale["triggers"]["http"]["perInstanceConcurrency"],
            always_ready=sum(each["instanceCount"] for each in scale["alwaysReady"]),
        )

    @classmethod
    def of(cls, preset: str) -> Deployment:
        snapshot = json.loads((INFRA / f"{preset}.snapshot.json").read_text())
        return cls(preset, snapshot["predictedResources"])

    def _one(self, kind: str) -> dict[str, Any]:
        [found] = [each for each in self._resources if each["type"] == kind]
        return found

    def standing(self) -> list[Line]:
        """What is paid without a single task.

        Raises:
            KeyError: nobody has said what a type of resource, or a size of it, costs.
        """
        lines = [line for each in self._resources for line in self._lines_of(each)]
        lines += self._nodes(self._pool["minCount"])
        polls = polls_at_a_time()
        number = polls / LEAST_S * MONTH_S
        idle_gb = IDLE_GB + number * HOST_SPAN_BYTES / 1e9
        lines.append(Line("telemetry, idle", f"{idle_gb:.1f} GB", idle_gb * PRICES["telemetry"].dollars))
        timers = TIMER_RUNS_PER_MINUTE * MONTH_S / 60
        timer_dollars = timers * (LEAST_S * self.app.memory_gb * GB_SECOND + EXECUTIONS_PER_MILLION / 1e6)
        lines.append(Line("function app, timers", f"{self.app.memory_gb:g} GB, a second at least", timer_dollars))
        dollars = self._instances_dollars(polls) + number / 1e6 * EXECUTIONS_PER_MILLION
        lines.append(Line("function app, polls of KEDA", f"{polls / LEAST_S * 60:g} a minute", dollars))
        if self.app.always_ready:
            gb_s = self.app.always_ready * self.app.memory_gb * MONTH_S
            tier = f"{self.app.always_ready} x {self.app.memory_gb:g} GB"
            lines.append(
                Line("function app, always ready", tier, gb_s * PRICES["function app, always ready"].dollars)
            )
        return merged(lines)

    def _lines_of(self, resource: dict[str, Any]) -> list[Line]:
        kind = resource["type"]
        if kind in FREE or kind in BY_USE:
            return []
        return _PRICED[kind](resource)

    def _nodes(self, count: int) -> list[Line]:
        size: str = self._pool["vmSize"]
        disks, insights = PRICES["disk of a node"].dollars, NODE_GB * PRICES["telemetry"].dollars
        return [
            Line("AKS, nodes", f"{count} x {size}", count * PRICES[size].dollars),
            Line("AKS, their disks and telemetry", f"{count} x 128 GB, {NODE_GB:g} GB", count * (disks + insights)),
        ]

    def by_use(self, tasks: float, task: Operations) -> list[Line]:
        """What so many tasks a month add."""
        polls = polls_at_a_time()
        both = polls + task.at_a_time(tasks)  # a poll that comes while a task keeps the instance awake costs nothing
        work = self._instances_dollars(both) - self._instances_dollars(polls)
        millions = tasks / 1e6
        telemetry_gb = tasks * (TASK_BYTES + TASK_REQUESTS * HOST_SPAN_BYTES) / 1e9
        more_nodes = self._nodes_for(tasks) - self._pool["minCount"]
        return [
            Line("function app, instances", f"{self._awake_s(both) / MONTH_S:.2f}", work),
            Line(
                "function app, executions", f"{task.count:g} a task", millions * task.count * EXECUTIONS_PER_MILLION
            ),
            Line("Event Grid", f"{task.events:g} a task", millions * task.events * EVENT_OPERATIONS_PER_MILLION),
            Line("API Management, calls", f"{GATEWAY_CALLS} a task", self._calls(GATEWAY_CALLS * tasks)),
            Line("telemetry", f"{telemetry_gb:,.1f} GB, nothing sampled", telemetry_gb * PRICES["telemetry"].dollars),
            Line("AKS, more nodes", f"{more_nodes}", sum(line.dollars for line in self._nodes(more_nodes))),
        ]

    def _awake_s(self, at_a_time: float) -> float:
        return awake_s(at_a_time, concurrency=self.app.concurrency, at_least=self.app.always_ready)

    def _instances_dollars(self, at_a_time: float) -> float:
        """What instances cost while they are at work. Those beyond the ones that are always ready cost more."""
        awake = self._awake_s(at_a_time)
        ready = min(awake, self.app.always_ready * MONTH_S)
        dollars = ready * PRICES["function app, always ready and at work"].dollars + (awake - ready) * GB_SECOND
        return self.app.memory_gb * dollars

    def _nodes_for(self, tasks: float) -> int:
        needed = tasks * MODEL_CPU_S / MONTH_S / (CPUS[self._pool["vmSize"]] * NODE_USE)
        return max(self._pool["minCount"], math.ceil(needed))

    def _calls(self, calls: float) -> float:
        if self.gateway == "Consumption":
            return calls / 1e6 * PRICES["API Management Consumption"].dollars
        more = max(0.0, calls - CALLS_INCLUDED[self.gateway])
        return more / 1e6 * PRICES["API Management StandardV2, more calls"].dollars

    def redis_share(self, tasks: float) -> float:
        """How full Redis is of finished tasks of 500 bytes, at so many a month."""
        kept = tasks / (HOURS / 24) * KEPT_DAYS
        return kept * TASK_KB / 1e6 / (REDIS_GB[self.redis_size] * USABLE)


def _redis(resource: dict[str, Any]) -> list[Line]:
    size, nodes = resource["sku"]["name"], 2 if resource["properties"]["highAvailability"] == "Enabled" else 1
    return [Line("Redis", f"{size}, {nodes} node{'s' * (nodes - 1)}", nodes * PRICES[f"Redis {size}"].dollars)]


def _gateway(resource: dict[str, Any]) -> list[Line]:
    tier, units = resource["sku"]["name"], resource["sku"]["capacity"]
    return [Line("API Management", f"{tier}, {units} unit", units * PRICES[f"API Management {tier}"].dollars)] * bool(
        units
    )


def _cluster(resource: dict[str, Any]) -> list[Line]:
    tier = resource["sku"]["tier"]
    return [
        Line("AKS, control plane", tier, PRICES[f"AKS {tier}"].dollars),
        Line("AKS, load balancer", "Standard", PRICES["load balancer"].dollars),
    ]


def _registry(resource: dict[str, Any]) -> list[Line]:
    tier = resource["sku"]["name"]
    return [Line("container registry", tier, PRICES[f"registry {tier}"].dollars)]


def _one_of(name: str) -> list[Line]:
    return [Line(f"{name}s", "", PRICES[name].dollars)]


def polls_at_a_time() -> float:
    """How many of KEDA's polls are under way: it asks about each endpoint of a model service, at all times."""
    [seconds] = re.findall(r"^ +pollingSeconds: (\d+)$", (CHART / "values.yaml").read_text(), re.MULTILINE)
    return POLLED_ENDPOINTS * LEAST_S / int(seconds)


_PRICED: dict[str, Callable[[dict[str, Any]], list[Line]]] = {
    "Microsoft.ApiManagement/service": _gateway,
    "Microsoft.Cache/redisEnterprise": _redis,
    "Microsoft.ContainerRegistry/registries": _registry,
    "Microsoft.ContainerService/managedClusters": _cluster,
    "Microsoft.Insights/scheduledQueryRules": lambda rule: [
        Line("alert rules", "", PRICES[f"alert rule, {rule['properties']['evaluationFrequency']}"].dollars)
    ],
    "Microsoft.Network/privateDnsZones": lambda _: [
        Line("private DNS zones", "", PRICES["private DNS zone"].dollars)
    ],
    "Microsoft.Network/privateEndpoints": lambda _: [
        Line("private endpoints", "", PRICES["private endpoint"].dollars)
    ],
    "Microsoft.Web/sites": lambda _: [],  # by what it is awake
}


def merged(lines: Iterable[Line]) -> list[Line]:
    """Lines of the same element and tier as one."""
    groups: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        groups.setdefault((line.element, line.tier), []).append(line.dollars)
    sums = [(element, tier or str(len(each)), sum(each)) for (element, tier), each in groups.items()]
    return [Line(element, tier, dollars) for element, tier, dollars in sums if dollars]


def with_result(task: Operations) -> Operations:
    """The same task, whose caller also fetches the result."""
    return Operations((*task.executions, Executions(1, 0.03)), task.events, task.blob_writes, task.blob_reads)


TASK = with_result(ours(CASES[0], new_client=True))
"""500 bytes of JSON for a service that is never full. The caller submits, waits 15 s for the end by one long poll and
fetches the result; the service reports its start and its end."""
QUICK = with_result(answered_at_once(CASES[0]))
"""The same, of a quick model that answers its dispatch with the result, while the submit waits."""
EXAMPLES = (("dev", 10_000), ("prod", 10_000), ("prod", 1_000_000), ("prod", 100_000_000))


def standing_table() -> list[str]:
    presets = [Deployment.of(name) for name in ("dev", "prod")]
    bills = [{line.element: line for line in preset.standing()} for preset in presets]
    rows = ["| every month | dev | | prod | |", "| --- | --- | --: | --- | --: |"]
    for element in dict.fromkeys(element for bill in bills for element in bill):
        cells = [
            (bill[element].tier, f"${bill[element].dollars:,.2f}") if element in bill else ("", "") for bill in bills
        ]
        rows.append(f"| {element} | " + " | ".join(f"{tier} | {dollars}" for tier, dollars in cells) + " |")
    totals = [f"**${sum(line.dollars for line in bill.values()):,.0f}**" for bill in bills]
    rows.append(f"| **without a task** | | {totals[0]} | | {totals[1]} |")
    return rows


def tasks_table(task: Operations) -> list[str]:
    bills = [(Deployment.of(preset), tasks) for preset, tasks in EXAMPLES]
    head = " | ".join(f"{preset}: {tasks:,}" for preset, tasks in EXAMPLES)
    rows = [f"| tasks a month | {head} |", "| --- " + "| --: " * len(EXAMPLES) + "|"]
    standing = [sum(line.dollars for line in each.standing()) for each, _ in bills]
    rows.append("| without a task | " + " | ".join(f"${each:,.0f}" for each in standing) + " |")
    columns = [each.by_use(tasks, task) for each, tasks in bills]
    for lines in zip(*columns, strict=True):
        rows.append(f"| {lines[0].element} | " + " | ".join(f"${line.dollars:,.2f}" for line in lines) + " |")
    totals = [begun + sum(line.dollars for line in lines) for begun, lines in zip(standing, columns, strict=True)]
    rows.append("| **a month** | " + " | ".join(f"**${total:,.0f}**" for total in totals) + " |")
    each = [total / tasks * 1000 for total, (_, tasks) in zip(totals, EXAMPLES, strict=True)]
    rows.append("| a thousand tasks | " + " | ".join(f"${dollars:,.2f}" for dollars in each) + " |")
    rows.append("| instances awake | " + " | ".join(lines[0].tier.removesuffix(" awake") for lines in columns) + " |")
    shares = [deployment.redis_share(tasks) for deployment, tasks in bills]
    rows.append(
        f"| Redis, with {KEPT_DAYS} days kept | " + " | ".join(f"{share:.1%} full" for share in shares) + " |"
    )
    return rows


def prices_table() -> list[str]:
    rows = ["| what | $ | for a | where the price is from |", "| --- | --: | --- | --- |"]
    for name, price in PRICES.items():
        rows.append(f"| {name} | {price.dollars:.6g} | {price.unit} | {price.source} |")
    return rows


def main() -> None:
    tables = (standing_table(), tasks_table(TASK), tasks_table(QUICK), prices_table())
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
