"""Pages of lists."""

from __future__ import annotations

import re
from typing import Final

import azure.functions as func

from shared.http.problems import invalid

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200


def page_limit(req: func.HttpRequest) -> int:
    """How many entries a page has at most.

    Raises:
        Problem: 400 if that is no number, or too high.
    """
    text = req.params.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid("limit", f"a number from 1 to {MAX_LIMIT} is expected")
    return int(text)
