"""What happened at endpoints, by time, over HTTP (contract B9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.v1_support import ISO_TIME, assert_problem, complete_on_call, ended, new_path, submit
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

COUNTS = ("Created", "Completed", "Failed", "Cancelled", "Retried")
GAUGES = ("Waiting", "InFlight", "Slots", "OldestWaitingSeconds")


def series(app: httpx.Client, path: str, **query: str) -> dict[str, Any]:
    document = app.get("/api/v1/series", params={"path": path, **query}).raise_for_status().json()
    assert document["NextCursor"] is None
    [found] = document["Series"]
    return found


def total(document: dict[str, Any], name: str) -> int:
    return sum(count or 0 for count in document[name])


@pytest.mark.contract("B9.62")
def test_a_series_counts_what_happened_at_an_endpoint(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    for number in range(3):
        ended(app, submit(app, path, str(number).encode()).json()["TaskId"])
    document = eventually(lambda: (found := series(app, path))["InFlight"][-1] == 0 and found)
    assert {name: total(document, name) for name in COUNTS} == {
        "Created": 3,
        "Completed": 3,
        "Failed": 0,
        "Cancelled": 0,
        "Retried": 0,
    }
    assert document["Path"] == path
    assert document["StepSeconds"] == 60
    assert all(ISO_TIME.fullmatch(time) for time in (document["From"], document["To"], *document["Times"]))
    for name in (*COUNTS, *GAUGES):
        assert len(document[name]) == len(document["Times"])
    assert document["Waiting"][-1] == 0
    for name in ("WaitSeconds", "RunSeconds"):
        known = [number for number in document[name]["P95"] if number is not None]
        assert known and all(0 < number < 60 for number in known)
    assert document["Created"][0] is None, "an hour ago nobody knew this endpoint"


@pytest.mark.contract("B9.63")
def test_without_a_path_there_are_pages(app: httpx.Client) -> None:
    path = new_path()
    for name in ("a", "b"):
        submit(app, f"{path}/{name}").raise_for_status()
    page = app.get("/api/v1/series", params={"cursor": path, "limit": 1}).raise_for_status().json()
    assert [each["Path"] for each in page["Series"]] == [f"{path}/a"]
    assert page["NextCursor"] == f"{path}/a"
    page = app.get("/api/v1/series", params={"cursor": f"{path}/a", "limit": 1}).raise_for_status().json()
    assert [each["Path"] for each in page["Series"]] == [f"{path}/b"]


@pytest.mark.contract("B9.64")
def test_times_and_steps_are_checked(app: httpx.Client) -> None:
    path = new_path()
    now = datetime.now(UTC)

    def at(**ago: float) -> str:
        return (now - timedelta(**ago)).isoformat()

    assert series(app, path, **{"from": at(hours=5)})["StepSeconds"] == 60
    assert series(app, path, **{"from": at(days=2)})["StepSeconds"] == 600
    assert series(app, path, **{"from": at(days=30)})["StepSeconds"] == 3600
    found = series(app, path, **{"from": at(days=30), "step": "86400"})
    assert 30 <= len(found["Times"]) <= 32
    for query, field in [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01T00:00:00Z"}, "to"),
        ({"from": at(hours=1), "to": at(hours=2)}, "from"),
        ({"from": at(days=-1)}, "from"),
        ({"from": at(days=2), "step": "60"}, "step"),
        ({"step": "61"}, "step"),
        ({"step": "0"}, "step"),
        ({"step": "x"}, "step"),
        ({"from": "1970-01-01T00:00:00Z"}, "step"),
        ({"path": "/a//b"}, "path"),
        ({"path": path, "cursor": "/v1"}, "cursor"),
    ]:
        answer = app.get("/api/v1/series", params={"path": path, **query})
        assert_problem(answer, 400, "invalid-request", field=field)
    too_many = app.get("/api/v1/series", params={"from": at(hours=5), "limit": "200"})
    assert_problem(too_many, 400, "invalid-request", field="limit")


@pytest.mark.contract("B9.65")
def test_an_endpoint_that_nobody_knows_is_404_and_one_that_was_never_used_has_nulls(app: httpx.Client) -> None:
    assert_problem(app.get("/api/v1/series", params={"path": "/v1/nobody/knows"}), 404, "unknown-endpoint")
    assert {*series(app, new_path())["Created"]} == {None}
