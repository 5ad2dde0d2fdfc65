"""What the page costs: its bytes, its files, and how often a tab asks (the table of figures, docs/console.md)."""

from __future__ import annotations

import httpx
import pytest

from local.stack import Stack
from operator_console.page import files
from tests.browser.conftest import OpenTab
from tests.browser.tab import Tab
from tests.browser.world import fill
from tests.scripted_backend import ScriptedBackend

MOST_BYTES, MOST_FILES = 60_000, 4
MINUTES = 3


@pytest.fixture
def clocked(open_tab: OpenTab, operate_key: str) -> Tab:
    """A tab whose time passes as the test says."""
    tab = open_tab()
    tab.page.clock.install()
    tab.sign_in(operate_key)
    tab.heading("Queues").wait_for()
    tab.page.wait_for_load_state("networkidle")
    return tab


def test_the_page_is_at_most_60_kb_in_at_most_four_requests(open_tab: OpenTab) -> None:
    tab = open_tab()
    packed: list[int] = []
    tab.page.on("response", lambda answer: packed.append(int(answer.headers.get("content-length", "0"))))
    tab.go()
    tab.page.get_by_label("Key of a console function").wait_for()
    loaded = [each for each in tab.seen.requests if each.kind != "fetch"]
    assert len(loaded) <= MOST_FILES
    assert {each.path.rpartition("/")[2] for each in loaded} == {*files()}
    assert sum(packed[: len(loaded)]) == sum(len(file.packed) for file in files().values()) <= MOST_BYTES


@pytest.mark.parametrize("place", ["queues", "queue", "tasks", "task"])
def test_a_tab_asks_at_most_once_in_two_seconds(
    clocked: Tab, house: Stack, app: httpx.Client, backend: ScriptedBackend, place: str
) -> None:
    world, tab = fill(house, app, backend), clocked
    tab.go({"queue": f"queue{world.path}", "task": f"tasks/{world.running}"}.get(place, place))
    tab.page.wait_for_load_state("networkidle")
    before = len(tab.seen.asked)
    for _ in range(60 * MINUTES):
        tab.page.clock.run_for(1000)
        # What is asked changes all the time, so that it is asked as often as it may.
        app.post("/api/CacheConnectorUpsert", json={"TaskId": world.running, "Status": f"at {len(tab.seen.asked)}"})
    asked = len(tab.seen.asked) - before
    assert 60 * MINUTES / 30 <= asked <= 60 * MINUTES / 2 + 1


def test_a_tab_that_nobody_looks_at_asks_nothing(clocked: Tab) -> None:
    tab, page = clocked, clocked.page
    page.evaluate("""() => {
      Object.defineProperty(document, "hidden", { get: () => window.isHidden, configurable: true });
      window.isHidden = true;
      document.dispatchEvent(new Event("visibilitychange"));
    }""")
    before = len(tab.seen.asked)
    for _ in range(60 * MINUTES // 5):
        page.clock.run_for(5000)
    assert len(tab.seen.asked) == before
    page.evaluate("""() => {
      window.isHidden = false;
      document.dispatchEvent(new Event("visibilitychange"));
    }""")
    page.clock.run_for(1000)
    with page.expect_request("**/queues/**"):
        page.clock.run_for(9000)


def test_updates_can_be_stopped(clocked: Tab) -> None:
    tab, page = clocked, clocked.page
    tab.button("Pause updates").click()
    before = len(tab.seen.asked)
    for _ in range(60):
        page.clock.run_for(2000)
    assert len(tab.seen.asked) == before
    with page.expect_request("**/queues/**"):
        tab.button("Refresh").click()
    tab.button("Updates are paused").click()
    with page.expect_request("**/queues/**"):
        for _ in range(20):
            page.clock.run_for(2000)
