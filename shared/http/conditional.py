"""Answers that a client asks for by the ETag of the last one (RFC 9110): those that have not changed are not sent."""

from __future__ import annotations

import hashlib
from typing import Any

import azure.functions as func

from shared.http.functions import encoded, json_response
from shared.http.headers import header


def matches(if_none_match: str, etag: str) -> bool:
    """Whether the client has what the strong *etag* stands for, or at least what says the same."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))


def json_unless_known(req: func.HttpRequest, document: Any, *, without_ages: Any = None) -> func.HttpResponse:
    """A response of a JSON document, or of the bytes of one: 304 if the client has it.

    Args:
        without_ages: what the tag stands for, if not for the whole document: without the figures that grow by the
            clock while nothing happens. Then the tag is weak, as two documents with it may differ in these.
    """
    content = document if isinstance(document, bytes) else encoded(document)
    tagged = content if without_ages is None else encoded(without_ages)
    etag = f'"{hashlib.sha256(tagged).hexdigest()[:32]}"'
    headers = {"ETag": etag if without_ages is None else f"W/{etag}", "Cache-Control": "no-cache"}
    known = header(req, "if-none-match")
    if known is not None and matches(known, etag):
        return func.HttpResponse(status_code=304, headers=headers)
    return json_response(content, headers=headers)
