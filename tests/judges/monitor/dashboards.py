"""``python -m tests.judges.monitor.dashboards RECORDED``: reads the workbook by a schema, and Grafana's dashboard by
rules as Grafana's own linter has them, with each expression parsed, and each name looked up in what the app answers.

What it cannot know: how either looks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import promql_parser
from jsonschema import Draft202012Validator

from tests.judges.monitor.queries import ROOT

HERE = Path(__file__).resolve().parent
MONITOR = ROOT / "infra" / "monitor"
GRID_WIDTH = 24
_VARIABLE = re.compile(r"\$(?:__rate_interval|__range)")
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ", re.MULTILINE)


def problems_of_the_workbook() -> Iterable[str]:
    workbook = json.loads((MONITOR / "workbook.json").read_text())
    schema = json.loads((HERE / "workbook.schema.json").read_text())
    for error in Draft202012Validator(schema).iter_errors(workbook):
        yield f"workbook: {error.json_path}: {error.message}"
    items = workbook["items"]
    names = [item["name"] for item in items]
    yield from (f"workbook: {name} is the name of two items" for name in {*names} if names.count(name) > 1)
    parameters = {each["name"] for item in items for each in item["content"].get("parameters", [])}
    tabs = {link["subTarget"] for item in items for link in item["content"].get("links", [])}
    for item in items:
        shown = item.get("conditionalVisibility")
        if shown and (shown["parameterName"] not in parameters or shown["value"] not in tabs):
            yield f"workbook: {item['name']} is never shown"
        for used in re.findall(r"\{(\w+)\}", item["content"].get("query", "")):
            if used not in parameters:
                yield f"workbook: {item['name']} uses {used}, which is no parameter"
    seen = {item["conditionalVisibility"]["value"] for item in items if "conditionalVisibility" in item}
    yield from (f"workbook: the tab {tab} is empty" for tab in tabs - seen)


def problems_of_grafana(metrics: str) -> Iterable[str]:
    dashboard = json.loads((MONITOR / "grafana.json").read_text())
    labels: dict[str, set[str]] = {}
    for name, pairs in _SAMPLE.findall(metrics):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', pairs))
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    for name in re.findall(r"label_values\((\w+), (\w+)\)", variables["path"]["query"]):
        if name[1] not in labels.get(name[0], set()):
            yield f"Grafana: the variable looks for {name}"
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "Grafana: two panels have one id"
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        title, place = panel["title"], panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if own & cells or place["x"] + place["w"] > GRID_WIDTH:
            yield f"Grafana: {title} lies over another panel, or outside"
        cells |= own
        if not (title and panel["description"] and panel["fieldConfig"]["defaults"].get("unit")):
            yield f"Grafana: {title} has no title, description or unit"
        for target in panel["targets"]:
            for each in (panel, target):
                if each["datasource"]["uid"] != "${datasource}":
                    yield f"Grafana: {title} has a data source of its own"
            yield from (f"Grafana: {title}: {problem}" for problem in problems_of(target["expr"], labels, variables))


def problems_of(expression: str, labels: dict[str, set[str]], variables: dict[str, Any]) -> Iterable[str]:
    for name in re.findall(r"\$(\w+)", _VARIABLE.sub("", expression)):
        if name not in variables:
            yield f"no variable {name}"
    text = _VARIABLE.sub("5m", expression)
    try:
        parsed = promql_parser.parse(text)
    except ValueError as error:
        yield f"{text}: {error}"
        return
    for selector in selectors(parsed):
        if selector.name not in labels:
            yield f"the app answers no {selector.name}"
            continue
        used = {matcher.name for matcher in selector.matchers.matchers}
        if not used <= labels[selector.name]:
            yield f"{selector.name} has no {used - labels[selector.name]}"
        if selector.name.endswith("_total") and not re.search(rf"(rate|increase)\({selector.name}", text):
            yield f"the counter {selector.name} is shown without a rate"


def selectors(node: Any) -> Iterable[Any]:
    """The selectors of metrics in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "args", "vs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None:
                yield from selectors(each)


def main() -> int:
    metrics = json.loads(Path(sys.argv[1]).read_text())["metrics"]
    problems = [*problems_of_the_workbook(), *problems_of_grafana(metrics)]
    if not [*problems_of("sum(backbone_nothing)", {}, {})] or not [*problems_of("sum(", {}, {})]:
        problems.append("Grafana: the judge is blind")
    sys.stdout.write("".join(f"{problem}\n" for problem in problems) or "workbook and dashboard are in order\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
