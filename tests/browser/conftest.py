"""Fixtures of the tests in a browser: Chromium, the stack with a real model service, and watched tabs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.browser.installing import ASKED_FOR, axe, chromium
from tests.browser.tab import INDEX, Tab, new_context, new_tab
from tests.conftest import IN_A_HURRY
from tests.scripted_backend import ScriptedBackend
from tests.secrecy import planted

if TYPE_CHECKING:  # it is there where these tests run only
    from playwright.sync_api import Browser

OpenTab = Callable[..., Tab]
MOST_BODY_BYTES = 1_000_000
GATEWAY_KEY = planted("gateway-key")
TRACE_URL = "https://traces.example/#view/{TaskId}/q/{Query}"


def pytest_ignore_collect() -> bool | None:
    return None if ASKED_FOR in os.environ else True


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenTab]:
    """Opens tabs. In the end, none of them may have done what it must not."""
    opened: list[Tab] = []

    def open_one(url: str | None = None, *, key: str | None = None, to: str = "/queues", **options: Any) -> Tab:
        url = url or f"{request.getfixturevalue('house').url}{INDEX}"
        context, seen = new_context(browser, url, **options)
        opened.append(tab := new_tab(context, url, seen))
        if key is not None:
            tab.sign_in(key, to)
        return tab

    yield open_one
    for tab in opened:
        tab.page.context.close()
    for tab in opened:
        tab.seen.check()


@pytest.fixture
def tab(open_tab: OpenTab, operate_key: str) -> Tab:
    """A tab with the console in it, for who may operate."""
    return open_tab(key=operate_key)


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """The whole stack, with the sample model, and a scripted service for what a model would not do."""
    with Stack(
        tmp_path_factory.mktemp("house"),
        redis=redis_server,
        azurite=azurite,
        backends={
            "/v1/test": backend.url,
            "/v1/held": {"url": backend.url, "limit": 1},
            "pipelines": {"/v1/test/whole": ["/v1/test/first", "/v1/test/second"]},
        },
        settings=IN_A_HURRY
        | {
            "MAX_BODY_BYTES": str(MOST_BODY_BYTES),
            "GATEWAY_KEY": GATEWAY_KEY,
            "TRACE_URL": TRACE_URL,
            # As App Service tells its apps. tests/browser/doubles.py plays the rest of it.
            "WEBSITE_AUTH_ENABLED": "True",
        },
    ) as stack:
        yield stack


@pytest.fixture
def app(house: Stack) -> Iterator[httpx.Client]:
    with house.client() as client:
        yield client


@pytest.fixture(scope="session")
def operate_key(house: Stack) -> str:
    return house.console_keys["operate"]


@pytest.fixture(scope="session")
def axe_script() -> str:
    return axe()
