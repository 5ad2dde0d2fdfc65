"""Who may open the console, and how: by a key, by a gateway on another path, by the platform's sign-in."""

from __future__ import annotations

import httpx
import pytest

from local.stack import Stack
from tests.browser.conftest import GATEWAY_KEY, OpenTab
from tests.browser.doubles import Between, principal
from tests.browser.tab import INDEX, Tab
from tests.browser.world import fill
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

KEY_FIELD = "Key of a console function"


def gateway(house: Stack, name: str, roles: str) -> Between:
    """One that has checked who asks, on a path of its own."""
    adds = {"x-functions-key": house.key, "x-gateway-key": GATEWAY_KEY, "x-operator": name, "x-operator-roles": roles}
    return Between(house.url, prefix="/ops/backbone", adds=adds)


def test_a_link_signs_in_and_the_key_is_cleared_from_the_address(
    open_tab: OpenTab, house: Stack, operate_key: str
) -> None:
    tab = open_tab()
    tab.page.goto(house.console_url("operate"))
    tab.heading("Queues").wait_for()
    assert operate_key not in tab.page.url
    assert tab.page.evaluate("() => history.length") <= 2
    tab.page.reload()
    tab.heading("Queues").wait_for()
    assert tab.page.context.cookies() == []
    assert all(operate_key not in each.path for each in tab.seen.requests)
    assert operate_key not in tab.page.content()


@pytest.mark.parametrize(
    ("role", "words", "may_see", "may_act"),
    [
        ("read", "may read", False, False),
        ("content", "may see contents", True, False),
        ("operate", "may operate", True, True),
    ],
)
def test_a_key_typed_in_says_what_its_holder_may(
    open_tab: OpenTab,
    house: Stack,
    app: httpx.Client,
    backend: ScriptedBackend,
    role: str,
    words: str,
    may_see: bool,
    may_act: bool,
) -> None:
    world = fill(house, app, backend)
    tab = open_tab()
    tab.go()
    tab.page.get_by_label(KEY_FIELD).fill(house.console_keys[role])
    tab.page.get_by_label(KEY_FIELD).press("Enter")
    tab.heading("Queues").wait_for()
    assert words in tab.page.locator(".who").inner_text()
    tab.row(world.path).wait_for()
    assert tab.button(f"Pause {world.path}").is_enabled() == may_act
    tab.go(f"tasks/{world.completed}")
    tab.heading(world.completed).wait_for()
    shown = tab.page.get_by_role("img", name=f"The result of task {world.completed}")
    refused = tab.page.get_by_text("Your key or role does not show bodies and results.").first
    (shown if may_see else refused).wait_for()
    assert shown.is_visible() == may_see
    tab.go(f"tasks/{world.failed}")
    tab.button("Replay").wait_for()
    assert tab.button("Replay").is_enabled() == may_act


@pytest.mark.parametrize("which", ["host", "wrong"])
def test_no_other_key_is_taken(open_tab: OpenTab, house: Stack, which: str) -> None:
    tab = open_tab()
    tab.sign_in(house.key if which == "host" else "wrong")
    alert = tab.page.get_by_role("alert")
    alert.wait_for()
    assert (
        "opens more than the console" if which == "host" else "opens no part of the console"
    ) in alert.inner_text()
    assert tab.page.evaluate("() => Object.values(sessionStorage)").count(house.key) == 0
    tab.page.get_by_label(KEY_FIELD).wait_for()


def test_a_key_that_is_not_taken_any_more_leads_to_the_form_and_back(
    open_tab: OpenTab, house: Stack, operate_key: str
) -> None:
    with Between(house.url) as between:
        tab = open_tab(f"{between.url}/console/index.html", key=operate_key, to="/tasks")
        tab.heading("Tasks").wait_for()
        between.answers = 401
        tab.button("Refresh").click()
        tab.page.get_by_text("The server does not take this key any more.").wait_for()
        between.answers = None
        tab.page.get_by_label(KEY_FIELD).fill(operate_key)
        tab.button("Sign in").click()
        tab.heading("Tasks").wait_for()


def test_behind_a_gateway_on_another_path_nothing_is_asked_for(
    open_tab: OpenTab, house: Stack, app: httpx.Client, backend: ScriptedBackend
) -> None:
    world = fill(house, app, backend)
    with gateway(house, "ada@example.org", "operate") as between:
        tab = open_tab(f"{between.url}/console/index.html")
        tab.page.goto(f"{between.url}/console")
        tab.heading("Queues").wait_for()
        assert tab.page.url.startswith(f"{between.url}/console/index.html")
        assert "ada@example.org · may operate" in tab.page.locator(".who").inner_text()
        assert not tab.button("Sign out").is_visible()
        tab.go(f"tasks/{world.completed}")
        tab.page.get_by_role("img", name=f"The result of task {world.completed}").wait_for()
        tab.go(f"queue{world.path}")
        tab.button(f"Pause {world.path}").click()
        tab.page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        tab.button(f"Resume {world.path}").wait_for()
        tab.go("audit")
        assert "ada@example.org" in tab.row(world.path, "Audit").inner_text()
        tab.go("queues")
        tab.row(world.path).get_by_text("paused, set by ada@example.org").wait_for()
        assert {path.split("/")[1:3] == ["ops", "backbone"] for _, path in between.asked} == {True}


def test_behind_a_gateway_the_role_is_the_one_that_it_names(
    open_tab: OpenTab, house: Stack, app: httpx.Client, backend: ScriptedBackend
) -> None:
    world = fill(house, app, backend)
    with gateway(house, "bob", "read") as between:
        tab = open_tab(f"{between.url}/console/index.html")
        tab.go("queues")
        tab.row(world.path).wait_for()
        assert tab.button(f"Pause {world.path}").is_disabled()
        # Not the page alone refuses: the server does.
        status = tab.page.evaluate(
            "path => fetch(`../v1/queues${path}`, {method: 'PATCH', body: '{\"Paused\": true}'}).then(a => a.status)",
            world.path,
        )
        assert status == 403


def test_who_the_platform_has_signed_in_needs_no_key(
    open_tab: OpenTab, house: Stack, app: httpx.Client, backend: ScriptedBackend
) -> None:
    world = fill(house, app, backend)
    with Between(house.url, adds=principal("eve@example.org", "console.operate")) as between:
        tab = open_tab(f"{between.url}/console/index.html")
        tab.go(f"queue{world.path}")
        tab.heading(world.path).wait_for()
        assert "eve@example.org · may operate" in tab.page.locator(".who").inner_text()
        tab.button(f"Limit {world.path}").click()
        tab.page.get_by_role("dialog").get_by_role("textbox").fill("7")
        tab.button("Set the limit").click()
        tab.page.get_by_role("dialog").wait_for(state="detached")
        assert app.get(f"/api/v1/queues{world.path}").json()["Limit"] == 7


def test_who_is_signed_in_without_a_role_is_told_so(open_tab: OpenTab, house: Stack) -> None:
    with Between(house.url, adds=principal("mallory@example.org")) as between:
        tab = open_tab(f"{between.url}/console/index.html")
        tab.go("queues")
        tab.page.get_by_text("The operator may not do this.").wait_for()


def test_another_site_cannot_use_the_sign_in(open_tab: OpenTab, house: Stack) -> None:
    """A request without the page's header, as a form of another site makes it."""
    adds = principal("eve@example.org", "console.operate")
    with Between(house.url, adds=adds) as between:
        for headers in ({}, {"X-Console": "1"}, {"X-Console": "1", "Sec-Fetch-Site": "cross-site"}):
            answer = httpx.get(f"{between.url}/console/session/me", headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 403
        assert httpx.get(f"{house.url}{INDEX.rpartition('/')[0]}/session/me", timeout=PATIENCE_S).status_code == 401


def test_the_page_cannot_be_framed(open_tab: OpenTab, house: Stack) -> None:
    tab: Tab = open_tab()
    tab.go()
    headers = tab.page.request.get(f"{house.url}{INDEX}").headers
    assert headers["x-frame-options"] == "DENY"
