"""Texts, types, bodies and results of strangers: none of them runs a script in an operator's browser."""

from __future__ import annotations

import json
import uuid
from itertools import product

import httpx
import pytest

from local.stack import Stack
from tests.browser.conftest import OpenTab
from tests.browser.strangers import CONTENTS, RUNNING, TEXTS, TYPES
from tests.browser.tab import Tab
from tests.browser.world import report, submit
from tests.contract.v1_support import keep
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

WANTED = 200


def test_a_script_that_ran_would_be_seen(open_tab: OpenTab) -> None:
    tab = open_tab(bypass_csp=True)
    tab.go()
    tab.page.get_by_label("Key of a console function").wait_for()
    for number in RUNNING:
        before = len(tab.seen.canaries)
        tab.page.evaluate("text => document.querySelector('main').innerHTML = text", TEXTS[number])
        eventually(lambda before=before: (tab.page.wait_for_timeout(10), len(tab.seen.canaries) > before)[1])
    for found in (tab.seen.canaries, tab.seen.strays):
        found.clear()


def test_a_script_of_a_text_is_refused_by_the_policy_too(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.go()
    tab.page.get_by_label("Key of a console function").wait_for()
    refused = tab.page.evaluate(
        "text => { try { document.body.innerHTML = text } catch (error) { return error.name } }", TEXTS[2]
    )
    assert refused == "TypeError", "no text becomes HTML"
    tab.page.evaluate("""() => {
      const script = document.createElement("script");
      script.append("canary('ran')");
      document.body.append(script);
    }""")
    eventually(lambda: tab.page.wait_for_timeout(10) or tab.seen.violations)
    tab.seen.violations.clear()


def test_texts_of_tasks_run_nothing(tab: Tab, house: Stack, app: httpx.Client, backend: ScriptedBackend) -> None:
    """As the status of a running task, of a failed one, as the words of a service's refusal, as a body."""
    path = f"/v1/test/{uuid.uuid4().hex}"
    refusing = f"{path}-refuses"
    tasks: list[str] = []
    for text in TEXTS:
        task_id = submit(app, path, json.dumps({text: text}).encode())
        eventually(lambda task_id=task_id, text=text: report(app, task_id, "running", text))
        tasks.append(task_id)
        backend.script(refusing, Answer(400, {"Content-Type": "text/plain; charset=utf-8"}, text.encode()))
        tasks.append(refused := submit(app, refusing))
        eventually(lambda refused=refused: app.get(f"/api/v1/tasks/{refused}").json()["BackendStatus"] == "failed")
    tab.go("tasks", path=path)
    tab.row("img src=x").wait_for()
    tab.go(f"queue{refusing}")
    tab.page.get_by_role("table", name="Failures by reason").wait_for()
    for number, task_id in enumerate(tasks):
        tab.go(f"tasks/{task_id}")
        tab.heading(task_id).wait_for()
        tab.page.get_by_role("heading", name="Timeline").wait_for()
        tab.page.locator("summary", has_text="transition").click()
        tab.page.get_by_role("table", name="History").wait_for()
        if number % 2 == 0:
            tab.button("Show the body").click()
            tab.page.get_by_label(f"The body of task {task_id}").wait_for()
    for task_id in tasks[::2]:
        report(app, task_id, "failed", TEXTS[0])


def test_results_and_types_run_nothing(tab: Tab, app: httpx.Client, backend: ScriptedBackend) -> None:
    shown = 0
    for content, content_type in product(CONTENTS, TYPES):
        task_id = keep(app, backend)
        answer = app.put(f"/api/v1/tasks/{task_id}/result", content=content, headers={"Content-Type": content_type})
        if answer.status_code == 400:
            continue  # the app takes no such type
        answer.raise_for_status()
        assert report(app, task_id, "completed")
        tab.go(f"tasks/{task_id}")
        look_at_preview(tab, task_id, "result")
        shown += 1
    assert shown >= WANTED
    assert "console/index.html" in tab.page.url


def test_bodies_and_types_run_nothing(tab: Tab, app: httpx.Client) -> None:
    path = f"/v1/held/{uuid.uuid4().hex}"
    for content, content_type in product(CONTENTS, TYPES[:4]):
        task_id = submit(app, path, content, **{"Content-Type": content_type})
        tab.go(f"tasks/{task_id}")
        tab.button("Show the body").click()
        look_at_preview(tab, task_id, "body")


def look_at_preview(tab: Tab, task_id: str, kind: str) -> None:
    tab.heading(task_id).wait_for()
    preview = tab.page.locator(".preview")
    preview.locator("img, pre, .note").first.wait_for()
    assert preview.locator("iframe, object, embed, video, audio, script").count() == 0
    assert tab.page.frames == [tab.page.main_frame]
    if preview.locator("img").count():
        assert preview.locator("img").get_attribute("src").startswith("blob:")


def test_names_owners_and_reporters_run_nothing(tab: Tab, app: httpx.Client) -> None:
    batches = [
        app.post("/api/v1/batches", json={"Name": text}).raise_for_status().json()["TaskId"]
        for text in TEXTS
        if text.isprintable()
    ]
    reports = [
        {"ServiceCluster": text, "ApiPath": text, "IncrementBy": 1, "IntervalSeconds": 3_600} for text in TEXTS
    ]
    app.post("/api/CurrentProcessingUpsert", json=reports).raise_for_status()
    tab.go("batches")
    tab.row("onerror").wait_for()
    for batch in batches:
        tab.go(f"tasks/{batch}")
        tab.heading(batch).wait_for()
        tab.page.get_by_role("heading", name="Children").wait_for()
    tab.go("queues")
    tab.page.get_by_text("Requests in flight that services report").click()
    tab.page.locator("details[open]").wait_for()


@pytest.mark.parametrize(
    "place", ["queues", "tasks", "schedules", "try", "audit", "queue/{}", "tasks/{}", "schedules/{}", "{}"]
)
def test_addresses_run_nothing(tab: Tab, place: str) -> None:
    for text in TEXTS:
        query = {"filter": text, "q": text, "path": text, "query": text, "owner": text, "sort": text, "task": text}
        if "{}" in place:
            tab.page.evaluate("hash => { location.hash = hash }", f"#/{place.format(text)}")
        else:
            tab.go(place, **query)
        tab.page.locator("main").wait_for()
    tab.go("queues")
    tab.heading("Queues").wait_for()


def test_names_of_files_run_nothing(tab: Tab) -> None:
    tab.go("try", path="/v1/test/x")
    chooser = tab.page.get_by_label("Drop a file here, or choose one")
    for text in TEXTS:
        chooser.set_input_files(
            {"name": text.replace("/", "_") or "x", "mimeType": "text/html", "buffer": CONTENTS[0]}
        )
        tab.page.get_by_text("Take it out").wait_for()
        tab.button("Take it out").click()
        chooser.wait_for()
