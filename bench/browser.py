"""The console in a real browser: how long an operator waits for the first rows, and what the page weighs.

The stack has 200 endpoints with tasks. Chromium opens the link that signs in, with its CPU slowed down to a quarter
and nothing in its cache; each page is opened by turns. The time is that from the navigation to the frame that has the
first row of the table.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from bench.harness import Figure, Report, Unmeasured, side_by_side, with_spread
from local.stack import Stack
from operator_console.page import files
from tests.browser.installing import Absent, ensure_chromium
from tests.scripted_backend import ScriptedBackend

ENDPOINTS: Final = 200
TASKS_EACH: Final = 3
SLOWED_TIMES: Final = 4
CALLERS: Final = 4
TIMEOUT_MS: Final = 60_000.0
PAGES: Final = {"Queues": "/queues", "Tasks": "/tasks"}
_WATCH: Final = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("tbody tr")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => document.documentElement.dataset.rowsMs = performance.now()));
}).observe(document, { childList: true, subtree: true });
"""


def run(quick: bool) -> list[Figure]:
    try:
        program = ensure_chromium()
    except Absent as reason:
        raise Unmeasured(str(reason)) from reason
    if importlib.util.find_spec("playwright") is None:
        raise Unmeasured("the package playwright is missing: python3 dev.py bench installs it")
    endpoints, repeats = (40, 2) if quick else (ENDPOINTS, 9)
    settings = {"endpoints": endpoints, "tasks": endpoints * TASKS_EACH, "slowed": SLOWED_TIMES, "repeats": repeats}
    report = Report("browser", quick=quick, settings=settings)
    with ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = parts.enter_context(ScriptedBackend())
        stack = parts.enter_context(
            Stack(directory, backends={"/v1/own": {"url": backend.url, "limit": 1}}, with_model=False)
        )
        with stack.client() as app, ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(partial(_submit, app), range(endpoints * TASKS_EACH)))
        playwright: Any = parts.enter_context(importlib.import_module("playwright.sync_api").sync_playwright())
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        measures = {name: partial(_first_rows_s, browser, stack, to) for name, to in PAGES.items()}
        taken = side_by_side(repeats, measures)
        browser.close()
    packed = {name: len(file.packed) for name, file in files().items()}
    report.table(
        f"First rows with a CPU {SLOWED_TIMES} times as slow, nothing cached",
        ("page", "s"),
        [(name, with_spread(times_s, 2)) for name, times_s in taken.items()],
    )
    report.table("The page, packed", ("file", "bytes"), [(name, f"{size:,}") for name, size in packed.items()])
    report.figure(Figure.of("browser_rows", max(taken.values(), key=statistics.median)))
    report.figure(Figure.of("browser_bytes", [sum(packed.values()) / 1000]))
    return report.finish()


def _submit(app: httpx.Client, number: int) -> None:
    path = f"/v1/own/model-{number // TASKS_EACH:03}"
    app.post(f"/api/v1/submit{path}", json={"number": number}).raise_for_status()


def _first_rows_s(browser: Any, stack: Stack, to: str) -> float:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWED_TIMES})
        page.goto(f"{stack.console_url('operate')}&to={to}")
        page.locator("html[data-rows-ms]").wait_for(state="attached")
        return float(page.locator("html").get_attribute("data-rows-ms")) / 1000
    finally:
        context.close()
