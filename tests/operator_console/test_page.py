"""The console's page as the function serves it: its headers, its types, and nothing that is no file of it."""

from __future__ import annotations

import gzip
import re

import azure.functions as func
import pytest

from operator_console.page import POLICY, files
from shared.settings import Settings
from tests.in_process import InProcessApp

SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1": "https://models.example.org"}',
}
"""Nobody answers at these: the page needs nobody."""
INDEX = "index.html"
BUILT = sorted(files())
MOST_BYTES = 60_000
"""Of the whole page, packed."""


@pytest.fixture(scope="module")
def app() -> InProcessApp:
    return InProcessApp(Settings.from_env(SETTINGS))


async def get(
    app: InProcessApp,
    name: str,
    *,
    method: str = "GET",
    url: str = "https://app.example.org/api/console/x",
    **headers: str,
) -> func.HttpResponse:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return await app.call("Console", method, url=url, headers=sent, route_params={"file": name} if name else {})


@pytest.mark.parametrize("name", BUILT)
async def test_every_file_has_the_policy_and_its_type(app: InProcessApp, name: str) -> None:
    answer = await get(app, name)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
    assert answer.headers["Content-Type"] == f"{kinds[name.rpartition('.')[2]]}; charset=utf-8"


def test_the_policy_allows_no_inline_script_no_eval_and_no_other_host() -> None:
    directives = dict(each.strip().split(" ", 1) for each in POLICY.split(";"))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' blob: data:",
        "require-trusted-types-for": "'script'",
    }


@pytest.mark.parametrize("name", BUILT)
async def test_a_file_is_packed_for_who_takes_that_and_the_same_for_others(app: InProcessApp, name: str) -> None:
    plain = await get(app, name)
    packed = await get(app, name, accept_encoding="br, gzip;q=0.8")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.get_body() == files()[name].packed
    assert gzip.decompress(packed.get_body()) == plain.get_body()
    assert {answer.headers["Vary"] for answer in (plain, packed)} == {"Accept-Encoding"}
    refused = await get(app, name, accept_encoding="gzip;q=0, br")
    assert "Content-Encoding" not in refused.headers


async def test_the_whole_page_is_three_files_of_at_most_60_kb(app: InProcessApp) -> None:
    packed = [(await get(app, name, accept_encoding="gzip")).get_body() for name in BUILT]
    assert len(packed) == 3
    assert sum(map(len, packed)) <= MOST_BYTES


async def test_browsers_keep_what_never_changes_and_ask_again_for_what_names_it(app: InProcessApp) -> None:
    for name in BUILT:
        answer = await get(app, name)
        if name == INDEX:
            assert answer.headers["Cache-Control"] == "no-cache"
        else:
            assert re.fullmatch(r"\w+-[0-9a-f]{12}\.(js|css)", name)
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        again = await get(app, name, if_none_match=answer.headers["ETag"])
        assert (again.status_code, again.get_body()) == (304, b"")
        assert again.headers["Content-Security-Policy"] == POLICY


async def test_the_index_names_the_other_files_relatively_and_has_no_script_of_its_own(app: InProcessApp) -> None:
    index = (await get(app, INDEX)).get_body().decode()
    assert {*re.findall(r'(?:src|href)="([\w.-]+\.(?:js|css))"', index)} == {*BUILT} - {INDEX}
    assert re.findall(r"<script(?![^>]* src=)|<style| on\w+=| style=", index) == []
    assert re.findall(r'(?:src|href)="/', index) == []


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://app.example.org/api/console", "console/index.html"),
        ("https://app.example.org/api/console?x=/", "console/index.html"),
        ("https://app.example.org/api/console/", "index.html"),
        ("https://app.example.org/other/place/console/?a=b", "index.html"),
    ],
)
async def test_without_a_file_the_browser_is_sent_to_the_index_relatively(
    app: InProcessApp, url: str, location: str
) -> None:
    answer = await get(app, "", url=url)
    assert (answer.status_code, answer.headers["Location"]) == (302, location)


@pytest.mark.parametrize(
    "name",
    [
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/page.py",
        "dist/index.html",
        "/etc/passwd",
        "..",
        ".",
        "index.html/",
        "index.html/../../page.py",
        "index.html%00",
        "index.html\0.js",
        "INDEX.HTML",
        "..\\page.py",
        "read",
        "a" * 10_000,
    ],
)
async def test_what_is_no_file_of_the_page_is_not_there(app: InProcessApp, name: str) -> None:
    answer = await get(app, name)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert b"no-such-page" in answer.get_body()


def test_the_files_are_read_once() -> None:
    assert files() is files()


async def test_it_is_answered_though_nobody_else_answers(app: InProcessApp) -> None:
    assert (await get(app, INDEX, method="HEAD")).status_code == 200
