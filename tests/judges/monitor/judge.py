"""``python -m tests.judges.monitor.judge RECORDED``: runs every query on what the app's exporter sent, and every
alert through an ordinary day and through faults. Runs in the judges' environment; prints what is wrong.

What it cannot know: whether Azure evaluates a rule when and as it is told. That an alert is quiet for the two minutes
until a number can be queried is part of the clock here, and Azure's rules for that are not.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.judges.monitor import day, queries
from tests.judges.monitor.insights import LAG, Insights
from tests.judges.monitor.tables import Row, rows_of

Found = list[dict[str, Any]]
SUBMIT = "POST /api/v1/submit/{*path}"
PATIENCE_S = 1200
"""How long after the time that its query looks back over an alert may take to fire."""


class Recording:
    """What was recorded, and what the queries have to say of it."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.path, self.brief, self.tasks = known["path"], known["brief"], known["tasks"]
        self.tables = rows_of(known["envelopes"])
        self.insights = Insights(self.tables)
        stamps = [datetime.fromisoformat(row["timestamp"]) for rows in self.tables.values() for row in rows]
        self.at = (max(stamps) + timedelta(seconds=1)).replace(tzinfo=None)
        attempts = [attempt for state, attempt in known["transitions"]["silent"] if state == "dispatched"]
        self.attempts = len(attempts)
        ends = {"completed": 2.0, "failed": 1.0, "cancelled": 1.0, "expired": 1.0}
        steps = {**ends, "dispatched": 4.0, "reported": 4.0}
        brief = {"dispatched": float(self.attempts), "silent": float(self.attempts), "failed": 1.0, "reported": 1.0}
        rejected, expired, paths = self.tasks["rejected"], self.tasks["expired"], {self.path, self.brief}
        requests = Counter(row["name"] for row in self.tables["requests"])
        transitions = [tuple(each) for each in known["transitions"]["rejected"]]
        self.answers: dict[str, Callable[[Found], bool]] = {
            "workbook: parameter Path": lambda rows: {row["path"] for row in rows} == paths,
            "workbook: queues now": lambda rows: (
                [(row["waiting"], row["in_flight"], row["paused"]) for row in rows if row["path"] == self.path]
                == [(1, 0, True)]
                and {row["path"] for row in rows} == paths
            ),
            "workbook: tasks ended": lambda rows: total(rows, "step", "tasks") == {**ends, "failed": 2.0},
            "workbook: tasks waiting": lambda rows: most(rows, "path", "waiting")[self.path] == 1,
            "workbook: endpoints": lambda rows: (
                {
                    (row["path"], row["dispatched"], row["silent"], row["failed_percent"], row["expired"])
                    for row in rows
                }
                == {(self.path, 4, 0, 25.0, 1), (self.brief, self.attempts, self.attempts, 100.0, 0)}
            ),
            "workbook: unavailable": lambda rows: rows == [],
            "workbook: queue": lambda rows: (
                {what: most(rows, "what", "tasks").get(what) for what in ("queue.waiting", "queue.limit")}
                == {"queue.waiting": 1, "queue.limit": 2}
            ),
            "workbook: oldest wait": lambda rows: most(rows, "path", "oldest_wait_s")[None] > 0,
            "workbook: throughput": lambda rows: total(rows, "step", "steps") == steps,
            "workbook: durations": lambda rows: sum(row["tasks"] for row in rows) == 5,
            "workbook: reasons": lambda rows: (
                {(row["state"], row["reason"], row["tasks"]) for row in rows}
                == {
                    *(("completed", "completed", 2), ("cancelled", "cancelled", 1)),
                    *(("failed", "rejected", 1), ("failed", "expired", 1)),
                }
            ),
            "workbook: failed tasks": lambda rows: (
                [(row["id"], row["reason"], row["attempt"]) for row in rows]
                == [(expired, "expired", 1), (rejected, "rejected", 1)]
            ),
            "workbook: transitions": lambda rows: [(row["state"], row["attempt"]) for row in rows] == transitions,
            "workbook: calls": lambda rows: {"dispatch", f"POST {self.path}"} <= names(rows),
            "workbook: log": lambda rows: len(rows) == 1 and rejected in rows[0]["message"],
            "workbook: executions": lambda rows: total(rows, "name", "executions")[SUBMIT] == len(self.tasks),
            "workbook: telemetry": lambda rows: (
                sum(row["items"] for row in rows) == sum(map(len, self.tables.values()))
            ),
            "workbook: retries": lambda rows: (
                {(row["path"], row["a_task"]) for row in rows} == {(self.path, 1.0), (self.brief, self.attempts)}
            ),
            "workbook: polling": lambda rows: (
                total(rows, "what", "reads") == Counter(map(kind_of_read, filter(is_read, requests.elements())))
            ),
            "docs/telemetry.md 1": lambda rows: (
                {"request", "dependency", "customEvent", "trace"} == {row["itemType"] for row in rows}
                and all(rejected in row["customDimensions"] for row in rows)
            ),
            "docs/telemetry.md 2": lambda rows: most(rows, "path", "waiting")[self.path] == 1,
            "docs/telemetry.md 3": lambda rows: rows == [],
            "docs/telemetry.md 4": lambda rows: (
                total(rows, "reason", "ended")
                == {"completed": 2, "rejected": 1, "cancelled": 1, "lease": 1, "expired": 1}
            ),
            "docs/telemetry.md 5": lambda rows: len(rows) == len(transitions),
            "docs/telemetry.md 6": lambda rows: (
                [next(action for action in ("cancel", "pause") if action in str(row)) for row in rows]
                == ["pause", "cancel"]
            ),
            "leases-end": lambda rows: (
                [(row["path"], row["silent"]) for row in rows] == [(self.brief, brief["silent"])]
            ),
            "many-dispatches": lambda rows: [(row["path"], row["tasks"]) for row in rows] == [(self.brief, 1)],
        }

    def problems(self) -> Iterable[str]:
        shipped = {each.name: each for each in [*queries.alerts(), *queries.workbook(), *queries.pages()]}
        # Of the others, nothing may be found: nothing that they look for was done.
        for name, query in shipped.items():
            if name not in self.answers and not isinstance(query, queries.Alert):
                yield f"{name}: it has no known answer"
                continue
            rows = self.insights.ask(query.filled(self.path, self.tasks["rejected"]), self.at)
            if not self.answers.get(name, lambda rows: rows == [])(rows):
                yield f"{name}: it answers {rows}"
        for name in self.answers.keys() - shipped.keys():
            yield f"{name}: it is not shipped"


def is_read(name: str) -> bool:
    return name.startswith("GET ")


def kind_of_read(name: str) -> str:
    kinds = {"tasks": "a task" if name.count("/") > 3 else "lists of tasks", "queues": "queues", "health": "health"}
    return kinds.get(name.removeprefix("GET /api/v1/").partition("/")[0], "other")


def total(rows: Found, by: str, what: str) -> dict[Any, float]:
    sums: Counter[Any] = Counter()
    for row in rows:
        sums[row[by]] += row[what]
    return dict(sums)


def most(rows: Found, by: str, what: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for row in rows:
        found[row.get(by)] = max(row[what], found.get(row.get(by), row[what]))
    return found


def names(rows: Found) -> set[str]:
    return {row["name"] for row in rows}


def fired(app: day.App, insights: Insights, alert: queries.Alert) -> list[tuple[datetime, Any]]:
    """When the alert fired, and for which endpoint or destination, with what the app has sent in *insights*."""
    window = timedelta(seconds=alert.window_s)
    return [
        (at, row.get("path", row.get("destination", "")))
        for at in day.evaluations(app, alert.frequency_s)
        for row in insights.ask(alert.text, at, window, LAG)
    ]


def problems_of_days(shapes: dict[str, Row]) -> Iterable[str]:
    alerts = {each.name: each for each in queries.alerts()}
    if {fault.alert for fault in day.FAULTS} != {*alerts}:
        yield f"there is a fault for {sorted({fault.alert for fault in day.FAULTS})}, and not for each alert"
    healthy = day.healthy(shapes)
    sent = Insights(healthy.rows)
    for alert in alerts.values():
        if found := fired(healthy, sent, alert):
            yield f"{alert.name}: it fires on a healthy day, first {found[0]}, {len(found)} times"
    begun = (day.MIDNIGHT + timedelta(seconds=day.FAULT_S)).replace(tzinfo=None)
    for fault in day.FAULTS:
        alert = alerts[fault.alert]
        app = day.injected(shapes, fault)
        found = fired(app, Insights(app.rows), alert)
        early = [each for each in found if each[0] <= begun]
        times = [at for at, path in found if path == fault.path and at > begun]
        latest = begun + timedelta(seconds=fault.grows_s + alert.window_s + PATIENCE_S)
        if early or not times or times[0] > latest:
            yield f"{alert.name}: {fault.what}, from {begun} on, and it fires {found[:3]}"
        else:
            say(f"{alert.name} (severity {alert.severity}): {fault.what}; fires after {times[0] - begun}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    known = json.loads(Path(sys.argv[1]).read_text())
    recording = Recording(known)
    problems = [*recording.problems(), *problems_of_days(day.shapes_of(recording.tables))]
    for problem in problems:
        say(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
