"""A thousand tasks replayed from the page: each once, in the audit, and resumed after the tab was killed."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.stack import Stack
from tests.browser.conftest import OpenTab
from tests.browser.tab import Tab, new_tab
from tests.browser.world import report, submit
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

TASKS = 1_000


@pytest.fixture
def failed(house: Stack, app: httpx.Client, backend: ScriptedBackend) -> tuple[str, Counter[str]]:
    """An endpoint with a thousand failed tasks, and how often its service was called for each of them."""
    path = f"/v1/test/{uuid.uuid4().hex}"
    calls: Counter[str] = Counter()

    def refuse(call: Call) -> Answer | None:
        calls[call.task_id] += 1
        return Answer(415, {"Content-Type": "text/plain"}, b"no such layer")

    backend.react(path, refuse)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: submit(app, path), range(TASKS)))
    eventually(lambda: depth(app, path)["Failed"] == TASKS, within_s=5 * PATIENCE_S, every_s=0.5)
    assert {*calls.values()} == {1}
    return path, calls


def depth(app: httpx.Client, path: str) -> dict[str, int]:
    return app.get(f"/api/v1/queues{path}").raise_for_status().json()


def audited(app: httpx.Client, path: str) -> list[dict[str, object]]:
    return [
        entry for entry in app.get("/api/v1/audit").raise_for_status().json()["Entries"] if entry["Target"] == path
    ]


def test_a_thousand_tasks_are_replayed_once_though_the_tab_dies_twice(
    open_tab: OpenTab,
    operate_key: str,
    house: Stack,
    app: httpx.Client,
    backend: ScriptedBackend,
    failed: tuple[str, Counter[str]],
) -> None:
    path, calls = failed

    def complete(call: Call) -> Answer | None:
        calls[call.task_id] += 1
        with house.client() as service:
            report(service, call.task_id, "completed")
        return None

    backend.react(path, complete)
    tab = open_tab(key=operate_key, to=f"/tasks?path={path}&status=failed")
    tab.row("no such layer").wait_for()
    tab.button("Replay all failed that fit …").click()
    question = tab.page.get_by_role("dialog")
    begin = question.get_by_role("button", name=f"Replay {TASKS:,} tasks")
    begin.wait_for()
    assert path in question.inner_text()
    assert {*calls.values()} == {1}, "a dry run changes nothing"

    # The tab dies while the first piece is under way: the server has done it, and nobody hears.
    tab.page.route("**/bulk", lambda route: route.fetch() and None)
    with tab.page.expect_request("**/bulk"):
        begin.click()
    eventually(lambda: tab.page.wait_for_timeout(50) or sum(calls.values()) > TASKS)
    tab.page.close()

    second = resumed(tab, operate_key, path)
    # This one dies between two pieces.
    asked: list[object] = []

    def hold(route) -> None:
        document = json.loads(route.request.post_data)
        asked.append(document)
        if len(asked) == 1:  # a small piece, so that there is more to do
            route.continue_(post_data=json.dumps(document | {"Limit": 100}))

    second.page.route("**/bulk", hold)
    second.button("Go on").first.click()
    second.page.get_by_role("dialog").get_by_role("button", name="Replay", exact=False).click()
    eventually(lambda: second.page.wait_for_timeout(50) or len(asked) >= 2)
    second.page.close()

    third = resumed(tab, operate_key, path)
    third.button("Go on").first.click()
    third.page.get_by_role("dialog").get_by_role("button", name="Replay", exact=False).click()
    third.page.get_by_text(f"of {TASKS:,} done.").wait_for()
    third.page.get_by_role("dialog").get_by_role("button", name="Close").click()
    assert third.page.get_by_text("A bulk action is not finished").count() == 0

    eventually(lambda: depth(app, path)["Completed"] == TASKS, within_s=5 * PATIENCE_S, every_s=0.5)
    assert Counter(calls.values()) == {2: TASKS}, "each task ran once before, and once after"
    entries = audited(app, path)
    assert sum(int(str(entry["Count"])) for entry in entries) == TASKS
    assert len({entry["OperationId"] for entry in entries}) == 1
    third.go("audit", filter=path)
    third.row(path, "Audit").wait_for()


def resumed(tab: Tab, key: str, path: str) -> Tab:
    """A new tab of the same browser."""
    new = new_tab(tab.page.context, tab.url, tab.seen)
    new.sign_in(key, "/tasks")
    new.page.get_by_text("A bulk action is not finished").wait_for()
    assert path in new.page.locator(".attention", has_text="A bulk action is not finished").inner_text()
    return new


def test_all_that_wait_are_cancelled_and_what_runs_goes_on(
    tab: Tab, house: Stack, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = f"/v1/held/{uuid.uuid4().hex}"
    tasks = [submit(app, path) for _ in range(5)]
    eventually(lambda: depth(app, path)["Dispatched"] == 1)
    tab.go("tasks", path=path, status="created")
    tab.row(tasks[4][:8]).wait_for()
    tab.button("Cancel all created that fit …").click()
    question = tab.page.get_by_role("dialog")
    question.get_by_role("button", name="Cancel 4 tasks").click()
    tab.page.get_by_text("4 tasks of 4 done.").wait_for()
    assert depth(app, path)["Cancelled"] == 4
    assert depth(app, path)["InFlight"] == 1
