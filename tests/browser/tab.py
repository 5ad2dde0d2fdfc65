"""A tab of a real browser with the console in it, and what it does that it must not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tests.waiting import PATIENCE_S

if TYPE_CHECKING:  # it is there where these tests run only
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request

INDEX: Final = "/api/console/index.html"
PATIENCE_MS: Final = 1000.0 * PATIENCE_S
_WATCH: Final = """
document.addEventListener("securitypolicyviolation", (event) => {
  tellViolation(`${event.effectiveDirective} ${event.blockedURI} ${event.sample}`);
});
"""


@dataclass(frozen=True)
class Sent:
    """A request of the page."""

    at_s: float
    method: str
    path: str
    kind: str


@dataclass
class Seen:
    """What a context did: its requests, and what must not be."""

    home: str
    requests: list[Sent] = field(default_factory=list)
    canaries: list[str] = field(default_factory=list)
    """Scripts of strangers that ran."""
    violations: list[str] = field(default_factory=list)
    """Of the Content-Security-Policy."""
    errors: list[str] = field(default_factory=list)
    """That the page's own script did not catch."""
    strays: list[str] = field(default_factory=list)
    """Requests to anywhere else."""

    def take(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("data", "blob"):
            return
        if f"{url.scheme}://{url.netloc}" != self.home:
            self.strays.append(request.url)
        self.requests.append(Sent(time.monotonic(), request.method, url.path, request.resource_type))

    @property
    def asked(self) -> list[Sent]:
        """Calls of the server, without the page's own files."""
        return [each for each in self.requests if each.kind == "fetch"]

    def check(self) -> None:
        """
        Raises:
            AssertionError: something happened that must not.
        """
        wrong = {"ran": self.canaries, "refused": self.violations, "failed": self.errors, "strayed": self.strays}
        assert {name: found for name, found in wrong.items() if found} == {}


@dataclass
class Tab:
    page: Page
    url: str
    """The page's, without a hash."""
    seen: Seen

    def go(self, place: str = "queues", **query: str) -> None:
        """Go to a page of the console."""
        self.page.goto(self.url + hash_of(place, **query))

    def sign_in(self, key: str, to: str = "/queues") -> None:
        """By a link that has the key in it."""
        self.page.goto(f"{self.url}#key={quote(key)}&to={quote(to)}")
        self.heading().wait_for()

    def heading(self, name: str | None = None) -> Locator:
        found = self.page.get_by_role("heading", level=1)
        return found if name is None else found.filter(has_text=name)

    def row(self, text: str, table: str | None = None) -> Locator:
        """The first row of a table that has the *text*."""
        of = self.page.get_by_role("table", name=table, exact=True) if table else self.page
        return of.locator("tbody tr", has_text=text).first

    def button(self, name: str, *, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def text(self) -> str:
        return self.page.locator("body").inner_text()


def hash_of(place: str, **query: str) -> str:
    return f"#/{place}{'?' + urlencode(query) if query else ''}"


def new_context(browser: Browser, url: str, **options: Any) -> tuple[BrowserContext, Seen]:
    """A browser's window of its own, watched. *url* is that of the page."""
    parts = urlsplit(url)
    seen = Seen(f"{parts.scheme}://{parts.netloc}")
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "timezone_id": "America/Sao_Paulo"} | options
    )
    context.set_default_timeout(PATIENCE_MS)
    context.set_default_navigation_timeout(PATIENCE_MS)
    context.expose_function("canary", lambda what="": seen.canaries.append(str(what)))
    context.expose_function("tellViolation", lambda what: seen.violations.append(str(what)))
    context.add_init_script(_WATCH)
    context.on("request", seen.take)
    context.on("dialog", lambda dialog: (seen.canaries.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on("weberror", lambda error: seen.errors.append(str(error.error)))
    return context, seen


def new_tab(context: BrowserContext, url: str, seen: Seen) -> Tab:
    return Tab(context.new_page(), url, seen)
