"""What the pages tell of queues, tasks, batches and pipelines, and what can be done there."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx
import pytest

from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import sample_pictures
from local.stack import Stack
from tests.browser.conftest import MOST_BODY_BYTES, OpenTab
from tests.browser.tab import Tab
from tests.browser.world import World, fill, state, submit
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

if TYPE_CHECKING:  # it is there where these tests run only
    from playwright.sync_api import Route

PACKED = """
() => new Response(new Blob(["query"]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer()
  .then(() => new Promise(requestAnimationFrame)).then(() => new Promise(requestAnimationFrame)).then(() => true)
"""
"""Has the browser pack something as the page does, and draw what has come of it."""
IS_DRAWN = """
(name) => {
  const { width, height } = document.querySelector("canvas");
  const { data } = document.querySelector("canvas").getContext("2d").getImageData(0, 0, width, height);
  const colour = parseInt(getComputedStyle(document.body).getPropertyValue(name).slice(1), 16);
  return data.some((_, at) => at % 4 === 0 && (data[at] << 16 | data[at + 1] << 8 | data[at + 2]) === colour);
}
"""
"""Whether the first chart has the colour of that name as the style sheet has it now."""


@pytest.fixture
def world(house: Stack, app: httpx.Client, backend: ScriptedBackend) -> World:
    return fill(house, app, backend)


def test_the_page_of_queues_says_what_waits_and_what_is_wrong(
    tab: Tab, app: httpx.Client, backend: ScriptedBackend, world: World
) -> None:
    row = tab.row(world.held)
    assert row.locator(".c-waiting").inner_text().strip() == "1"
    assert row.locator(".c-slots").inner_text().strip() == "1 / 1 / 1"
    assert row.locator(".c-service").inner_text().strip() == "up, at its limit"
    app.patch(f"/api/v1/queues{world.held}", json={"Paused": True}).raise_for_status()
    row.get_by_text("paused").wait_for()
    look = tab.page.locator(".attention", has_text=world.held)
    look.get_by_text("paused with 1 waiting").wait_for()
    tab.row(world.path).locator("svg.spark, .spark").first.wait_for()


def test_a_service_that_is_away_is_called_down(
    tab: Tab, app: httpx.Client, backend: ScriptedBackend, world: World
) -> None:
    path = world.path + "-away"
    backend.script(path, Answer(hang_up=True))
    submit(app, path)
    tab.row(path).locator(".c-service", has_text=re.compile(r"down (until|since) \d\d:\d\d")).wait_for()
    tab.page.locator(".attention", has_text=path).get_by_text("its service is down").wait_for()


def test_one_queue_has_its_figures_and_why_tasks_failed(
    tab: Tab, app: httpx.Client, backend: ScriptedBackend, world: World
) -> None:
    failing = app.get(f"/api/v1/tasks/{world.failed}").json()["EndpointPath"]
    second = submit(app, failing)
    eventually(lambda: state(app, second) == "failed")
    tab.go(f"queue{failing}")
    reasons = tab.page.get_by_role("table", name="Failures by reason")
    row = reasons.locator("tbody tr", has_text="The body must be image/png.")
    row.get_by_text("2").first.wait_for()
    assert reasons.locator("tbody tr").count() == 1
    for title in ("Throughput", "Waiting and at work", "Wait before the first dispatch", "Run"):
        tab.page.get_by_role("heading", name=title).first.wait_for()
    assert tab.page.locator("canvas").count() == 4
    tab.button("7 days").click()
    tab.page.get_by_text("Throughput, tasks 10 minutes").wait_for()
    assert "range=7d" in tab.page.url


def test_a_chart_follows_the_mouse_the_zone_and_the_scheme_and_tells_itself(tab: Tab, world: World) -> None:
    tab.go(f"queue{world.path}")
    chart = tab.page.get_by_role("region", name="Throughput")
    chart.get_by_role("img", name=re.compile(r"^Throughput.* Largest: created \d")).wait_for()
    legend, canvas = chart.locator(".legend span").first, chart.locator("canvas")
    latest = legend.inner_text()
    chart.locator(".u-over").hover(position={"x": 100, "y": 60})
    eventually(lambda: legend.inner_text() != latest)
    pointed = legend.inner_text()
    tab.page.mouse.move(0, 0)
    eventually(lambda: legend.inner_text() != pointed)
    local = canvas.evaluate("(one) => one.toDataURL()")
    tab.page.keyboard.press("u")
    eventually(lambda: canvas.evaluate("(one) => one.toDataURL()") != local)
    assert tab.page.evaluate(IS_DRAWN, "--soft")
    tab.page.emulate_media(color_scheme="dark")
    eventually(lambda: tab.page.evaluate(IS_DRAWN, "--soft"))


def test_a_task_that_waits_tells_its_place_and_a_running_one_grows(tab: Tab, app: httpx.Client, world: World) -> None:
    tab.go(f"tasks/{world.waiting}")
    tab.page.get_by_text("Next in its queue").wait_for()
    tab.go(f"tasks/{world.running}")
    line = tab.page.get_by_text("runs for")
    line.first.wait_for()
    before = line.first.inner_text()
    eventually(lambda: line.first.inner_text() != before)
    assert "Attempt 1" in tab.text()


def test_a_task_is_cancelled_and_replayed(
    tab: Tab, app: httpx.Client, backend: ScriptedBackend, world: World
) -> None:
    question = tab.page.get_by_role("dialog")
    tab.go(f"tasks/{world.waiting}")
    tab.button("Cancel").click()
    assert world.held in question.inner_text()
    question.get_by_role("button", name="Cancel the task").click()
    tab.page.locator(".state-cancelled").first.wait_for()
    tab.go(f"tasks/{world.failed}")
    tab.button("Replay").click()
    question.get_by_role("button", name="Replay the task").click()
    tab.page.get_by_text("Attempt 2").wait_for()
    eventually(lambda: state(app, world.failed) == "failed")
    tab.page.locator("summary", has_text="transition").click()
    tab.page.get_by_role("table", name="History").locator("tr", has_text="replay").first.wait_for()


def test_commands_to_copy_do_what_the_page_shows(
    open_tab: OpenTab, house: Stack, operate_key: str, world: World
) -> None:
    tab = open_tab(key=operate_key, permissions=["clipboard-read", "clipboard-write"])
    tab.go(f"tasks/{world.completed}")
    tab.button("Copy as curl").click()
    tab.button("Copied").wait_for()
    curl = tab.page.evaluate("() => navigator.clipboard.readText()")
    assert f"/tasks/{world.completed}" in curl
    assert operate_key not in curl
    tab.button("Copy as Python").click()
    python = eventually(lambda: (text := tab.page.evaluate("() => navigator.clipboard.readText()")) != curl and text)
    assert operate_key not in python
    done = subprocess.run(
        [sys.executable, "-c", python], env={"BACKBONE_KEY": operate_key}, capture_output=True, text=True, check=True
    )
    assert world.completed in done.stdout


def test_a_task_links_to_its_trace(tab: Tab, world: World) -> None:
    tab.go(f"tasks/{world.completed}")
    link = tab.page.get_by_role("link", name="Its trace")
    before, _, query = (link.get_attribute("href") or "").rpartition("/")
    assert before == f"https://traces.example/#view/{world.completed}/q"
    assert (link.get_attribute("target"), link.get_attribute("rel")) == ("_blank", "noreferrer")
    assert re.search("[+/=]", query) is None
    kql = gzip.decompress(base64.b64decode(unquote(query), validate=True)).decode()
    assert kql == tab.button("Copy the query for its trace").get_attribute("title")
    assert kql.startswith("union requests, ") and f'"{world.completed}"' in kql


@pytest.mark.parametrize(
    "url",
    ["javascript:canary('trace')//https://traces.example/", " javascript:canary()", "http://traces.example/", None],
)
def test_a_trace_elsewhere_than_at_a_safe_url_has_no_link(
    open_tab: OpenTab, house: Stack, operate_key: str, world: World, url: str | None
) -> None:
    asked: list[str] = []

    def answered(route: Route) -> None:
        asked.append(route.request.url)
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "TraceUrl": url})

    tab = open_tab()
    tab.page.route("**/operate/me", answered)
    tab.sign_in(operate_key, f"/tasks/{world.completed}")
    tab.button("Copy the query for its trace").wait_for()
    # The link would be there as soon as the query is packed.
    tab.page.evaluate(PACKED)
    assert asked
    assert tab.page.get_by_role("link", name="Its trace").count() == 0
    assert tab.page.locator("a[href^='javascript' i], a[href*='canary']").count() == 0


def test_a_body_is_shown_as_it_was_written(tab: Tab, world: World) -> None:
    tab.go(f"tasks/{world.completed}")
    tab.button("Show the body").click()
    tab.page.get_by_text("12345678901234567890").wait_for()


def test_large_and_unknown_contents_are_files_to_save(tab: Tab, app: httpx.Client, world: World) -> None:
    task_id = submit(app, world.held, b"x" * (65 * 1024), **{"Content-Type": "text/plain"})
    tab.go(f"tasks/{task_id}")
    tab.button("Show the body").click()
    tab.page.get_by_text("too large to show here").wait_for()
    with tab.page.expect_download() as saved:
        tab.button("Save").click()
    assert saved.value.path().stat().st_size == 65 * 1024
    assert saved.value.suggested_filename == f"{task_id}-body.txt"


def test_a_batch_and_a_pipeline(tab: Tab, app: httpx.Client, world: World) -> None:
    tab.go("batches")
    tab.row("Scene ").wait_for()
    tab.go(f"tasks/{world.batch}")
    tab.page.get_by_role("img", name="3 of 3 completed, 0 failed, 0 cancelled, 0 unfinished").wait_for()
    tab.button("Seal").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Seal the batch").click()
    tab.page.locator(".state-completed").first.wait_for()
    tab.go(f"tasks/{world.piped}")
    tab.page.get_by_text("✓ Step 1").wait_for()
    tab.page.locator("li[aria-current=step]", has_text="Step 2").wait_for()
    tab.page.get_by_role("heading", name="Pipeline /v1/test/whole").wait_for()
    tab.go("queue/v1/test/whole")
    tab.page.get_by_role("table", name="Steps").wait_for()


def test_a_model_is_tried_with_a_picture(tab: Tab, house: Stack, app: httpx.Client) -> None:
    picture = next(each for each in sample_pictures() if each.name == "rocket.jpg")
    tab.go("try", path=SEGMENT_PATH, query="classes=4")
    file = {"name": picture.name, "mimeType": "image/jpeg", "buffer": picture.data}
    tab.page.get_by_label("Drop a file here, or choose one").set_input_files(file)
    tab.page.get_by_role("img", name=f"The input, {picture.name}").wait_for()
    tab.page.get_by_label("Priority").select_option("9")
    tab.button("Submit", exact=False).click()
    output = tab.page.get_by_role("region", name="Output")
    output.get_by_role("img", name="The result of task", exact=False).wait_for()
    assert tab.page.get_by_role("img", name=f"The input, {picture.name}").is_visible()
    sizes = tab.page.evaluate("() => [...document.images].map((each) => each.naturalWidth)")
    assert all(sizes) and len(sizes) == 2
    task_id = re.search(r"task=([\w-]+)", tab.page.url)[1]
    task = app.get(f"/api/v1/tasks/{task_id}").json()
    assert (task["EndpointPath"], task["Priority"], task["BackendStatus"]) == (SEGMENT_PATH, 9, "completed")


def test_a_file_is_dropped(tab: Tab, world: World) -> None:
    tab.go("try", path=world.path)
    transfer = tab.page.evaluate_handle("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["{}"], "dropped.json", { type: "application/json" }));
      return transfer;
    }""")
    tab.page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    tab.page.get_by_text("dropped.json").wait_for()
    tab.button("Submit 2 bytes").click()
    output = tab.page.get_by_role("region", name="Output")
    output.locator(".state-completed").wait_for()
    output.get_by_role("img", name="The result of task", exact=False).wait_for()


def test_what_is_too_large_is_refused_in_words_with_the_command(tab: Tab, world: World) -> None:
    tab.go("try", path=world.path, query="classes=4")
    file = {"name": "it's large.tif", "mimeType": "image/tiff", "buffer": b"x" * (MOST_BODY_BYTES + 1)}
    tab.page.get_by_label("Drop a file here, or choose one").set_input_files(file)
    command = tab.page.locator("pre", has_text="taskbackbone submit")
    assert f"taskbackbone submit {world.path} 'it'\\''s large.tif' --query classes=4" in command.inner_text()
    assert tab.button("Submit", exact=False).is_disabled()


def test_a_link_to_try_a_model_has_no_key(open_tab: OpenTab, operate_key: str, world: World) -> None:
    tab = open_tab(key=operate_key, permissions=["clipboard-read", "clipboard-write"])
    tab.go("try", path=world.path, query="classes=4")
    tab.button("Copy the link to this page").click()
    tab.button("Copied").wait_for()
    link = tab.page.evaluate("() => navigator.clipboard.readText()")
    assert operate_key not in link
    other = open_tab()
    other.page.goto(link)
    other.page.get_by_label("Key of a console function").fill(operate_key)
    other.button("Sign in").click()
    other.heading("Try an endpoint").wait_for()
    assert other.page.get_by_label("Endpoint", exact=True).input_value() == world.path


def test_what_is_not_there_is_said(tab: Tab, world: World) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    tab.go(f"tasks/{missing}")
    tab.page.get_by_text("There is no task").wait_for()
    tab.go("queue/v1/nobody/knows")
    tab.page.get_by_text("No backend is registered for").wait_for()
    tab.go("tasks", path=world.path, status="failed")
    tab.page.get_by_text("No task that the app keeps fits these filters.").wait_for()
    tab.go("nowhere")
    tab.page.get_by_text("There is no page “nowhere”.").wait_for()
