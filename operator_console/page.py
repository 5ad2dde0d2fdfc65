"""The page's files, for anybody: they hold no data. ``console/build.mjs`` packs them into ``dist``."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import azure.functions as func

from shared.http.conditional import matches
from shared.http.functions import HttpFunctions, header, problem_response
from shared.http.problems import Problem
from shared.services import ServicesByLoop

DIST: Final = Path(__file__).with_name("dist")
INDEX: Final = "index.html"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "require-trusted-types-for 'script'"
)
"""Content-Security-Policy: no script and no style but the page's own files, and no call but to the app."""
_GUARDS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_REFUSED_GZIP: Final = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*$")


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    # Whoever asks, for whomever, and however busy the process is: it is for anybody, and costs next to nothing.
    HttpFunctions(app, services).add_answer(
        "Console", answer, route="console/{*file}", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS
    )


async def answer(req: func.HttpRequest) -> func.HttpResponse:
    name = req.route_params.get("file", "")
    if not name:
        return _to_index(req)
    file = files().get(name)
    if file is None:
        return problem_response(
            Problem(404, "no-such-page", "The console has no such file.", "It begins at console/index.html.")
        )
    # Weak, since the packed bytes and the plain ones share it.
    told = {"ETag": f"W/{file.etag}", "Cache-Control": file.cache_control, "Vary": "Accept-Encoding"}
    headers = {**_GUARDS, **told}
    if matches(header(req, "if-none-match") or "", file.etag):
        return func.HttpResponse(status_code=304, headers=headers)
    headers["Content-Type"] = file.content_type
    if not _takes_gzip(req):
        return func.HttpResponse(gzip.decompress(file.packed), headers=headers)
    return func.HttpResponse(file.packed, headers={**headers, "Content-Encoding": "gzip"})


@dataclass(frozen=True)
class PageFile:
    """A file of the page. All but ``index.html`` have their content's hash in their name, and so never change."""

    name: str
    packed: bytes

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.packed).hexdigest()[:16]}"'

    @property
    def content_type(self) -> str:
        return _TYPES[Path(self.name).suffix]

    @property
    def cache_control(self) -> str:
        return "no-cache" if self.name == INDEX else _FOR_EVER


@cache
def files() -> Mapping[str, PageFile]:
    """All files by their names, read at the first request. A name that is none of them leads to no other file."""
    return {path.stem: PageFile(path.stem, path.read_bytes()) for path in DIST.glob("*.gz")}


def _to_index(req: func.HttpRequest) -> func.HttpResponse:
    # Relative, as a gateway may have the page elsewhere. Without the slash, the browser takes "console" for a file.
    ends_in_slash = req.url.partition("?")[0].endswith("/")
    location = INDEX if ends_in_slash else f"console/{INDEX}"
    return func.HttpResponse(status_code=302, headers={**_GUARDS, "Location": location, "Cache-Control": "no-cache"})


def _takes_gzip(req: func.HttpRequest) -> bool:
    accepted = (header(req, "accept-encoding") or "").lower().split(",")
    return any(one.strip().startswith("gzip") and not _REFUSED_GZIP.match(one.strip()) for one in accepted)
