"""The headers of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import azure.functions as func


def header(req: func.HttpRequest, name: str) -> str | None:
    """A request header; the library's mapping has no types."""
    headers = cast("Mapping[str, str]", req.headers)
    if name not in headers:  # its get() would raise and catch an exception
        return None
    return headers[name]
