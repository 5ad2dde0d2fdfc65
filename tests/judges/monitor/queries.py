"""Every query that is shipped: of the alerts, as they would be deployed, of the workbook, and of the pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
_BLOCK = re.compile(r"^```kusto\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?")


@dataclass(frozen=True)
class Query:
    """A query, and where it stands."""

    name: str
    text: str

    def filled(self, path: str, task_id: str) -> str:
        """The query as it is run: a workbook puts its parameters in, and a reader of a page the id of a task."""
        text = self.text.replace("{Path}", path).replace("{TaskId}", task_id)
        return re.sub(r"\bTASK_ID\b", task_id, text)


@dataclass(frozen=True)
class Alert(Query):
    """A rule that fires if its query finds a row within the window before its evaluation."""

    severity: int
    window_s: int
    frequency_s: int


def alerts(preset: str = "prod") -> list[Alert]:
    snapshot = json.loads((ROOT / "infra" / f"{preset}.snapshot.json").read_text())
    found = []
    for each in snapshot["predictedResources"]:
        if each["type"] != "Microsoft.Insights/scheduledQueryRules":
            continue
        properties = each["properties"]
        [criterion] = properties["criteria"]["allOf"]
        name = properties["description"].rpartition("#")[2]
        window_s, frequency_s = seconds(properties["windowSize"]), seconds(properties["evaluationFrequency"])
        found.append(Alert(name, criterion["query"], properties["severity"], window_s, frequency_s))
    return found


def workbook() -> list[Query]:
    document = json.loads((ROOT / "infra" / "monitor" / "workbook.json").read_text())
    return list(_of_items(document["items"]))


def _of_items(items: list[dict[str, Any]]) -> Iterator[Query]:
    for item in items:
        content = item["content"]
        if item["type"] == 3:
            yield Query(f"workbook: {item['name']}", content["query"])
        for parameter in content.get("parameters", []):
            if "query" in parameter:
                yield Query(f"workbook: parameter {parameter['name']}", parameter["query"])


def pages() -> list[Query]:
    found = []
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        for number, text in enumerate(_BLOCK.findall(page.read_text()), start=1):
            found.append(Query(f"{page.relative_to(ROOT)} {number}", text))
    return found


def everything() -> list[Query]:
    of_dev = [Query(f"dev: {each.name}", each.text) for each in alerts("dev")]
    return [*alerts(), *of_dev, *workbook(), *pages()]


def seconds(duration: str) -> int:
    """``P1D``, ``PT1H``, ``PT5M``"""
    match = _DURATION.fullmatch(duration)
    assert match, duration
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60
