"""``python3 dev.py screenshots``: takes the pictures of the console that the pages show."""

from __future__ import annotations

import asyncio
import io
import math
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from PIL import Image

from local.redis_server import RedisServer
from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import sample_pictures
from local.stack import ROOT, Stack
from shared.store import RedisLink, TaskStore
from shared.tasks.outcomes import Claimed
from shared.tasks.task import State
from tests.browser.installing import Absent, ensure_chromium
from tests.browser.tab import INDEX, Tab, new_context, new_tab
from tests.browser.world import report, submit
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.shared.store.conftest import opener
from tests.shared.store.counted import MINUTE_MS, end
from tests.shared.store.counted import submit as create
from tests.shared.store.policies import store_policy
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES: Final = ROOT / "docs" / "images"
MOST_BYTES: Final = 100_000
_COLOURS: Final = 256
_DETECT, _AWAY, _SPLIT, _COUNT = "/v1/wildlife/detect", "/v1/rivers/outline", "/v1/text/split", "/v1/text/count"


def main() -> int:
    try:
        program = ensure_chromium()
    except Absent as reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="screenshots-")))
        backend = opened.enter_context(ScriptedBackend())
        backends = {
            _DETECT: {"url": backend.url, "limit": 4},
            _AWAY: backend.url,
            "/v1/text": backend.url,
            "pipelines": {"/v1/text/whole": [_SPLIT, _COUNT]},
        }
        redis = opened.enter_context(RedisServer(directory / "redis"))
        asyncio.run(_an_hour(redis.url))
        settings = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "BACKOFF_BASE_S": "1"}
        stack = opened.enter_context(Stack(directory, redis=redis, backends=backends, settings=settings))
        app = opened.enter_context(stack.client())
        busy = opened.enter_context(_Busy(stack, app, backend))
        playwright = opened.enter_context(sync_playwright())
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        for scheme in ("light", "dark"):
            _take(browser, stack, busy, scheme)
        browser.close()
    return 0


async def _an_hour(redis_url: str) -> None:
    """What would be there after an hour: the same steps as in an app, by a clock of its own."""
    now_ms = 0
    store = TaskStore(RedisLink(opener(redis_url)), store_policy(), lambda path: None, lambda: now_ms)
    began_ms = time.time_ns() // 1_000_000 - 60 * MINUTE_MS
    for number, path in enumerate((_DETECT, _SPLIT, _COUNT, SEGMENT_PATH, _AWAY)):
        for minute in range(58 if path != _AWAY else 40):
            tasks = round(5 + 3 * math.sin(minute / 7 + number) + minute * 7 % 3)
            for task in range(tasks):
                task_id = f"{number}{minute:02}{task:02}-0000-4000-8000-000000000000".rjust(36, "0")
                now_ms = began_ms + minute * MINUTE_MS + task * MINUTE_MS // tasks
                await create(store, task_id, path)
                now_ms += 200 + (minute * 97 + task * 311) % 4_000
                claimed = await store.claim(task_id, 1)
                assert isinstance(claimed, Claimed)
                await store.accept(claimed.task)
                now_ms += 900 + (minute * 53 + task * 173) % 2_500
                has_failed = path == _DETECT and (minute + task) % 17 == 0
                await end(store, task_id, State.FAILED if has_failed else State.COMPLETED)
    await store.aclose()


class _Busy:
    """A small platform at work: tasks come and go, one service is away, one endpoint fails at times."""

    FOR_S: Final = 30.0

    def __init__(self, stack: Stack, app: httpx.Client, backend: ScriptedBackend) -> None:
        self._stack, self._app, self._backend = stack, app, backend
        self._pool = ThreadPoolExecutor(16)
        self._ended = threading.Event()
        self.piped = ""

    def __enter__(self) -> _Busy:
        self._backend.react(_DETECT, lambda call: self._later(call, 2.5, "completed - 7 animals found"))
        self._backend.react(_SPLIT, lambda call: self._later(call, 0.3, "completed"))
        self._backend.react(_COUNT, lambda call: self._later(call, 0.6, "completed - 214 words"))
        self._backend.script(_AWAY, Answer(hang_up=True))
        picture = next(each for each in sample_pictures() if each.name == "rocket.jpg")
        submit(self._app, f"{SEGMENT_PATH}?classes=6", picture.data, **{"Content-Type": "image/jpeg"})
        for _ in range(3):
            submit(self._app, _AWAY)
        sys.stdout.write("A platform is at work for half a minute …\n")
        sys.stdout.flush()
        began = time.monotonic()
        number = 0
        while time.monotonic() - began < self.FOR_S:
            submit(self._app, _DETECT)
            number += 1
            if number % 2:
                self.piped = submit(self._app, "/v1/text/whole")
            self._ended.wait(0.5)
        for _ in range(40):
            submit(self._app, _DETECT)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown(cancel_futures=True)

    def _later(self, call: Call, seconds: float, status: str) -> Answer | None:
        self._pool.submit(self._work, call, seconds, status)
        return None

    def _work(self, call: Call, seconds: float, status: str) -> None:
        report(self._app, call.task_id, "running", "running - reading the picture")
        self._ended.wait(seconds)
        if call.path == _DETECT and int(call.task_id[:2], 16) % 9 == 0:
            report(self._app, call.task_id, "failed", "failed - the picture has no channel for infrared")
        else:
            report(self._app, call.task_id, "completed", status)


def _take(browser: Browser, stack: Stack, busy: _Busy, scheme: str) -> None:
    url = f"{stack.url}{INDEX}"
    context, seen = new_context(
        browser, url, color_scheme=scheme, viewport={"width": 1200, "height": 720}, timezone_id="UTC"
    )
    tab = new_tab(context, url, seen)
    tab.sign_in(stack.console_keys["operate"])
    tab.row(_DETECT).locator("svg").wait_for()
    tab.page.locator(".attention").first.wait_for()
    _keep(tab, f"console-queues-{scheme}")
    tab.go(f"queue{_DETECT}")
    tab.page.locator("canvas").nth(3).wait_for()
    tab.row("infrared").wait_for()
    _keep(tab, f"console-queue-{scheme}", height=1000)
    tab.go(f"tasks/{busy.piped}")
    tab.page.get_by_role("heading", name="Timeline").wait_for()
    eventually(lambda: tab.page.locator(".line").count() >= 2)
    _keep(tab, f"console-task-{scheme}")
    picture = next(each for each in sample_pictures() if each.name == "rocket.jpg")
    tab.go("try", path=SEGMENT_PATH, query="classes=6")
    tab.page.get_by_label("Drop a file here, or choose one").set_input_files(
        {"name": picture.name, "mimeType": "image/jpeg", "buffer": picture.data}
    )
    tab.button("Submit", exact=False).click()
    tab.page.get_by_role("region", name="Output").get_by_role("img").last.wait_for()
    tab.page.get_by_text("completed").first.wait_for()
    _keep(tab, f"console-try-{scheme}", height=900)
    context.close()
    seen.check()


def _keep(tab: Tab, name: str, height: int = 720) -> None:
    tab.page.set_viewport_size({"width": 1200, "height": height})
    tab.page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(tab.page.screenshot()))
    file = IMAGES / f"{name}.png"
    # A palette holds what a page of few colours has, in a third of the bytes.
    packed = picture.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    packed.save(file, optimize=True)
    size = file.stat().st_size
    sys.stdout.write(f"{file.relative_to(ROOT)}: {size:,} bytes\n")
    if size > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
