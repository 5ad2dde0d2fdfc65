"""What the page says while something does not answer: it stays, it says so, and it recovers by itself."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.browser.conftest import OpenTab
from tests.browser.doubles import Between
from tests.browser.tab import INDEX
from tests.browser.world import submit
from tests.conftest import IN_A_HURRY
from tests.scripted_backend import ScriptedBackend


@pytest.fixture(scope="module")
def frail(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[tuple[Stack, RedisServer]]:
    """A stack with a Redis of its own, to be killed."""
    directory = tmp_path_factory.mktemp("frail")
    with (
        RedisServer(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={"/v1/held": {"url": backend.url, "limit": 1}},
            with_model=False,
            settings=IN_A_HURRY,
        ) as stack,
    ):
        yield stack, redis


@pytest.fixture
def path(frail: tuple[Stack, RedisServer]) -> str:
    path = f"/v1/held/{uuid.uuid4().hex}"
    with frail[0].client() as app:
        for _ in range(3):
            submit(app, path)
    return path


def test_the_page_outlives_redis(open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str) -> None:
    stack, redis = frail
    tab = open_tab(f"{stack.url}{INDEX}", key=stack.console_keys["operate"])
    tab.row(path).wait_for()
    redis.kill()
    try:
        tab.page.get_by_role("alert").get_by_text("Unavailable (503)").wait_for()
        assert "What you see is from" in tab.page.get_by_role("alert").inner_text()
        assert tab.row(path).is_visible(), "what was seen stays"
        tab.page.locator(".stale").wait_for()
        # What is asked for now for the first time, it says of itself; and an action says why it is none.
        tab.go("tasks")
        tab.page.get_by_role("alert").get_by_text("Unavailable (503)").wait_for()
        tab.page.reload()
        tab.page.get_by_role("alert").first.wait_for()
    finally:
        redis.start()
    tab.row(path).wait_for()
    tab.page.get_by_role("alert").wait_for(state="detached")
    tab.go("queues")
    tab.row(path).wait_for()
    assert tab.page.get_by_role("alert").count() == 0


def test_an_action_that_fails_says_so_and_can_be_repeated(
    open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str
) -> None:
    stack, redis = frail
    tab = open_tab(f"{stack.url}{INDEX}", key=stack.console_keys["operate"], to=f"/queue{path}")
    tab.button(f"Pause {path}").click()
    question = tab.page.get_by_role("dialog")
    redis.kill()
    try:
        question.get_by_role("button", name="Pause").click()
        question.get_by_role("alert").get_by_text("Unavailable (503)").wait_for()
    finally:
        redis.start()
    question.get_by_role("button", name="Pause").click()
    tab.button(f"Resume {path}").wait_for()


def test_an_app_that_starts_is_waited_for(open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str) -> None:
    stack, _ = frail
    with Between(stack.url) as between:
        tab = open_tab(f"{between.url}/console/index.html")
        tab.go()
        tab.page.get_by_label("Key of a console function").wait_for()
        between.hold = threading.Event()
        tab.page.get_by_label("Key of a console function").fill(stack.console_keys["read"])
        tab.button("Sign in").click()
        tab.page.get_by_text("After an idle time the app takes up to half a minute to start.").wait_for()
        between.hold.set()
        tab.row(path).wait_for()
        between.hold = threading.Event()
        tab.go("tasks")
        tab.page.get_by_text("No answer yet: after an idle time").first.wait_for()
        between.hold.set()
        between.hold = None
        tab.page.get_by_role("table", name="Tasks").wait_for()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_gateway_that_does_not_reach_the_app(
    open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str, status: int
) -> None:
    stack, _ = frail
    with Between(stack.url) as between:
        tab = open_tab(f"{between.url}/console/index.html", key=stack.console_keys["operate"])
        tab.row(path).wait_for()
        between.answers = status
        alert = tab.page.get_by_role("alert")
        alert.get_by_text("Unavailable (503)" if status == 503 else f"Refused ({status})").wait_for()
        assert "asks again by itself" in alert.inner_text()
        assert tab.row(path).is_visible()
        between.answers = None
        alert.wait_for(state="detached")


def test_nobody_answers(open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str) -> None:
    stack, _ = frail
    tab = open_tab(f"{stack.url}{INDEX}", key=stack.console_keys["operate"])
    tab.row(path).wait_for()
    tab.page.context.set_offline(True)
    alert = tab.page.get_by_role("alert")
    alert.get_by_text("No answer").wait_for()
    tab.page.context.set_offline(False)
    alert.wait_for(state="detached")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("queues", "no series"),
        ("audit", "This server keeps no audit."),
        ("queue{}", "This server has no series"),
    ],
)
def test_an_older_server_is_told_of(
    open_tab: OpenTab, frail: tuple[Stack, RedisServer], path: str, place: str, words: str
) -> None:
    stack, _ = frail
    tab = open_tab(f"{stack.url}{INDEX}")
    for pattern in ("**/series?**", "**/audit**", "**/bulk**", "**/requests"):
        tab.page.route(pattern, lambda route: route.fulfill(status=404, body=""))
    tab.sign_in(stack.console_keys["operate"], f"/{place.format(path)}")
    tab.page.get_by_text(words).first.wait_for()
