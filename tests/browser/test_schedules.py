"""What is submitted again and again: the list, one schedule, and what an operator does to it."""

from __future__ import annotations

import os
import re

import httpx
import pytest

from tests.browser.tab import Tab
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

PATH = "/v1/test/scheduled"


@pytest.fixture
def schedule(app: httpx.Client) -> str:
    name = f"nightly-{os.urandom(3).hex()}"
    asked = {"Path": PATH, "Body": "a body", "Cron": "30 6 * * mon-fri", "TimeZone": "Europe/Berlin"}
    bounds = {"StartBefore": 21_600, "MaxRun": 90}
    app.put(f"/api/v1/schedules/{name}", json=asked | bounds, timeout=60).raise_for_status()
    return name


def of_server(app: httpx.Client, name: str) -> httpx.Response:
    return app.get(f"/api/v1/schedules/{name}", timeout=60)


def test_the_list_tells_when_each_is_due_next(tab: Tab, schedule: str) -> None:
    tab.go("schedules")
    row = tab.row(schedule)
    row.get_by_text("30 6 * * mon-fri Europe/Berlin").wait_for()
    assert re.search(r"\d\d:30:00", row.locator(".c-next").inner_text())
    row.get_by_role("link", name=schedule).click()
    tab.heading(f"Schedule {schedule}").wait_for()
    tab.page.get_by_text("It has not been due yet.").wait_for()
    assert tab.page.locator("dd time").count() >= 5
    facts = tab.page.locator("dl.facts").inner_text()
    assert re.search(r"May wait for\s+6 h", facts)
    assert re.search(r"May run for\s+1 min 30 s", facts)


def test_a_schedule_is_paused_resumed_and_deleted(tab: Tab, app: httpx.Client, schedule: str) -> None:
    tab.go(f"schedules/{schedule}")
    for action, then in (("Pause", True), ("Resume", False)):
        tab.button(action).click()
        tab.button(f"Yes, {action.lower()} it").click()
        eventually(lambda then=then: of_server(app, schedule).json()["Paused"] is then)
        tab.button("Resume" if then else "Pause").wait_for()
    tab.button("Delete").click()
    tab.button("Yes, delete it").click()
    eventually(lambda: of_server(app, schedule).status_code == 404)
    tab.heading("Schedules").wait_for()


def test_a_schedule_is_run_now(tab: Tab, app: httpx.Client, backend: ScriptedBackend, schedule: str) -> None:
    tab.go(f"schedules/{schedule}")
    tab.button("Run now").click()
    tab.button("Yes, run it").click()
    tab.page.get_by_text("Timeline").wait_for()
    [run] = of_server(app, schedule).json()["Runs"]
    assert run["TaskId"] in tab.page.url
    tab.go(f"schedules/{schedule}")
    tab.row(run["TaskId"][:8]).get_by_text("started, asked for").wait_for()


def test_one_that_is_gone_says_so(tab: Tab) -> None:
    tab.go("schedules/there-is-none")
    tab.page.get_by_text("There is no schedule “there-is-none”.").wait_for()
