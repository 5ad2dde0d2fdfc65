"""How the page behaves: addresses, the mouse, the keyboard, times, exports, questions before it acts."""

from __future__ import annotations

import csv
import io
import json
import re

import httpx
import pytest

from local.stack import Stack
from tests.browser.conftest import OpenTab
from tests.browser.tab import Tab
from tests.browser.world import DONE, World, fill, report, state, submit
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually


@pytest.fixture
def world(house: Stack, app: httpx.Client, backend: ScriptedBackend) -> World:
    return fill(house, app, backend)


def test_filters_are_in_the_address_and_back_returns_to_them(tab: Tab, world: World) -> None:
    page = tab.page
    tab.go("tasks", path=world.held)
    tab.row(world.running[:8]).wait_for()
    page.get_by_label("State").select_option("cancelled")
    tab.row(world.cancelled[:8]).wait_for()
    assert "status=cancelled" in page.url
    tab.row(world.cancelled[:8]).get_by_role("link").first.click()
    tab.heading(world.cancelled).wait_for()
    page.go_back()
    tab.row(world.cancelled[:8]).wait_for()
    assert page.get_by_label("State").input_value() == "cancelled"
    assert page.get_by_label("Endpoint", exact=True).input_value() == world.held
    page.go_back()
    tab.row(world.running[:8]).wait_for()
    assert page.get_by_label("State").input_value() == ""


def test_an_address_shows_the_same_to_somebody_else(open_tab: OpenTab, house: Stack, world: World) -> None:
    other = open_tab(key=house.console_keys["read"], to=f"/tasks?path={world.held}&status=cancelled")
    other.row(world.cancelled[:8]).wait_for()
    assert other.page.locator("tbody tr").count() == 1


def test_a_text_is_looked_for_and_the_page_says_in_how_many(tab: Tab, world: World) -> None:
    tab.go("tasks", path=world.path, q="5 things")
    tab.row(DONE.removeprefix("completed - ")).wait_for()
    assert re.search(r"\d+ tasks?, of [\d,]+ tasks? looked at", tab.page.locator(".news").inner_text())


def test_nothing_moves_under_the_mouse(tab: Tab, app: httpx.Client, world: World) -> None:
    page = tab.page
    tab.go("tasks", path=world.held)
    row = tab.row(world.waiting[:8])
    row.hover()
    before = row.bounding_box()
    new = [submit(app, world.held) for _ in range(3)]
    waiting = tab.button("Show 3 newer tasks")
    waiting.wait_for()
    assert row.bounding_box() == before
    assert page.get_by_text(new[0][:8]).count() == 0
    # What is shown changes in place.
    app.delete(f"/api/v1/tasks/{world.waiting}").raise_for_status()
    row.get_by_text("cancelled").first.wait_for()
    assert row.bounding_box() == before
    waiting.click()
    tab.row(new[2][:8]).wait_for()


def test_rows_of_queues_keep_their_order_while_one_is_pointed_at(
    tab: Tab, app: httpx.Client, house: Stack, backend: ScriptedBackend, world: World
) -> None:
    other = fill(house, app, backend)
    tab.go("queues", sort="-waiting", filter="/v1/held/")
    row = tab.row(world.held)
    row.hover()
    rows = tab.page.locator("tbody tr .c-path")
    before = rows.all_inner_texts()
    for _ in range(5):
        submit(app, other.held)
    tab.row(other.held).locator(".c-waiting", has_text="6").wait_for()
    assert rows.all_inner_texts() == before
    tab.heading().hover()
    eventually(lambda: rows.all_inner_texts()[0] == other.held or tab.page.wait_for_timeout(50))


def test_times_name_their_zone_and_utc_is_one_click_away(tab: Tab, world: World) -> None:
    page = tab.page
    tab.go(f"tasks/{world.completed}")
    page.get_by_text("Submitted, ").wait_for()
    zone = page.get_by_title("All times are in this zone; click for the other one")
    local = zone.inner_text()
    assert local != "UTC"
    assert page.get_by_text(f"Submitted, {local}").is_visible()
    zone.click()
    page.get_by_text("Submitted, UTC").wait_for()
    told = page.locator("dt", has_text="Submitted").locator("xpath=..").locator("time")
    assert told.get_attribute("datetime")[11:19] == told.inner_text()[-8:]
    page.reload()
    page.get_by_text("Submitted, UTC").wait_for()


def test_a_question_names_the_endpoint_and_how_many(tab: Tab, app: httpx.Client, world: World) -> None:
    page = tab.page
    tab.go("tasks", path=world.held)
    for task_id in (world.running, world.waiting):
        page.get_by_label(f"Select {task_id}").check()
    tab.button("Cancel 2 unfinished").click()
    question = page.get_by_role("dialog")
    assert "Cancel 2 tasks?" in question.inner_text()
    assert world.held in question.inner_text()
    question.get_by_role("button", name="Leave it").click()
    assert state(app, world.waiting) == "created"
    tab.button("Cancel 2 unfinished").click()
    question.get_by_role("button", name="Cancel 2", exact=True).click()
    question.wait_for(state="detached")
    assert {state(app, world.running), state(app, world.waiting)} == {"cancelled"}


def test_pause_resume_drain_and_limit(tab: Tab, app: httpx.Client, world: World) -> None:
    page = tab.page
    tab.go(f"queue{world.held}")
    question = page.get_by_role("dialog")

    def settings() -> tuple[bool, bool, int | None]:
        queue = app.get(f"/api/v1/queues{world.held}").json()
        return queue["Paused"], queue["Draining"], queue["Limit"]

    tab.button(f"Pause {world.held}").click()
    assert f"Pause {world.held}?" in question.inner_text()
    assert "1 task will go on waiting" in question.inner_text()
    question.get_by_role("button", name="Pause").click()
    tab.button(f"Resume {world.held}").wait_for()
    assert settings()[0]
    tab.button(f"Resume {world.held}").click()
    question.get_by_role("button", name="Resume").click()
    tab.button(f"Drain {world.held}").click()
    question.get_by_role("button", name="Drain").click()
    tab.button(f"Accept {world.held}").wait_for()
    assert settings()[:2] == (False, True)
    tab.button(f"Limit {world.held}").click()
    field = question.get_by_role("textbox")
    field.fill("many")
    page.get_by_text("A whole number from 1 to 1,000,000, or nothing.").wait_for()
    field.fill("3")
    question.get_by_role("button", name="Set the limit").click()
    question.wait_for(state="detached")
    assert settings() == (False, True, 3)


def test_all_can_be_done_by_the_keyboard(tab: Tab, app: httpx.Client, world: World) -> None:
    page, keys = tab.page, tab.page.keyboard
    tab.heading("Queues").wait_for()
    keys.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    keys.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    tab.row(world.path).wait_for()
    keys.press("/")
    keys.type(world.held)
    keys.press("Escape")
    page.locator("tbody tr").nth(1).wait_for(state="detached")
    keys.press("j")
    keys.press("Enter")
    tab.heading(world.held).wait_for()
    keys.press("g")
    keys.press("t")
    tab.heading("Tasks").wait_for()
    page.locator("tbody tr").first.wait_for()
    tab.go("tasks", path=world.held)
    tab.row(world.waiting[:8]).wait_for()
    for _ in range(page.locator("tbody tr").count()):
        keys.press("j")
    keys.press("k")
    keys.press("x")
    page.get_by_text("1 task chosen").wait_for()
    before = page.locator(".side").inner_text()
    keys.press("u")
    eventually(lambda: page.locator(".side").inner_text() != before)
    keys.press("p")
    tab.button("Updates are paused").wait_for()
    with page.expect_request("**/tasks?**"):
        keys.press("r")
    for first, name in {"q": "Queues", "b": "Batches", "y": "Try an endpoint", "a": "Audit"}.items():
        keys.press("g")
        keys.press(first)
        tab.heading(name).wait_for()


PLACES = (
    "queues",
    "queue{path}",
    "queue{held}",
    "tasks",
    "tasks/{completed}",
    "tasks/{running}",
    "tasks/{piped}",
    "tasks/{batch}",
    "batches",
    "try?path={path}",
    "audit",
    "schedules",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_narrow_screen(
    open_tab: OpenTab, operate_key: str, world: World, scheme: str
) -> None:
    tab = open_tab(key=operate_key, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    for place in PLACES:
        tab.go(place.format(**vars_of(world)))
        tab.heading().wait_for()
        tab.page.wait_for_load_state("networkidle")
        wide = tab.page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 320, f"{place} is {wide} pixels wide"
        assert tab.page.evaluate("() => document.querySelector('main').innerText.length") > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_nothing_keeps_people_from_using_it(
    open_tab: OpenTab, operate_key: str, axe_script: str, world: World, scheme: str, width: int
) -> None:
    # What axe does in the page is no page's doing: the policy would refuse it.
    tab = open_tab(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)

    def check(what: str) -> None:
        tab.page.wait_for_load_state("networkidle")
        if not tab.page.evaluate("() => 'axe' in window"):
            tab.page.evaluate(axe_script)
        found = tab.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        assert found["passes"]
        serious = [
            (each["id"], each["impact"], [node["target"] for node in each["nodes"]][:3])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], what

    tab.go()
    tab.page.get_by_label("Key of a console function").wait_for()
    check("the form")
    tab.sign_in(operate_key)
    tab.row(world.path).wait_for()
    for place in PLACES:
        tab.go(place.format(**vars_of(world)))
        tab.heading().wait_for()
        check(place)
    tab.go("queues")
    tab.row(world.path).wait_for()
    tab.button(f"Pause {world.path}").click()
    tab.page.get_by_role("dialog").wait_for()
    check("a question")


def vars_of(world: World) -> dict[str, str]:
    return {name: getattr(world, name) for name in world.__dataclass_fields__}


def test_tables_are_exported_as_csv_and_json(tab: Tab, app: httpx.Client, world: World) -> None:
    report(app, world.running, "running", '=1+1, "so"')
    tab.go("tasks", path=world.held)
    tab.row("1+1").wait_for()
    with tab.page.expect_download() as saved:
        tab.button("CSV").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert {row["TaskId"] for row in rows} == {world.running, world.waiting, world.cancelled}
    told = next(row for row in rows if row["TaskId"] == world.running)["Status"]
    assert told == '\'=1+1, "so"', "no spreadsheet takes it for a formula"
    with tab.page.expect_download() as saved:
        tab.button("JSON").click()
    assert {task["TaskId"] for task in json.loads(saved.value.path().read_text())} == {row["TaskId"] for row in rows}
    with tab.page.expect_download() as saved:
        tab.button("CSV of all that fit").click()
    assert len(list(csv.DictReader(io.StringIO(saved.value.path().read_text())))) == 3
