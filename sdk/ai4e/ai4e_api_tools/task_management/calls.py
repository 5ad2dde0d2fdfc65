"""Calls to the task backbone over HTTP, which are repeated while it does not answer."""

from __future__ import annotations

import json
import logging
import os
import random
import ssl
import time
from http.client import HTTPException
from typing import Any, Mapping
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, Request, build_opener

from task_management.bounded_answers import BoundedHandler, BoundedResponse, SecureBoundedHandler

TIMEOUT_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 20.0

logger = logging.getLogger("ai4e")


def seconds_of(variable: str, default: float) -> float:
    """What an environment variable says, in seconds; *default* if it is no number, or negative."""
    try:
        value = float(os.environ.get(variable, ""))
    except ValueError:
        return default
    return value if value >= 0 else default


_opener: OpenerDirector | None = None


def _shared_opener() -> OpenerDirector:
    # Made once: to load the certificates takes longer than a call. An old image has old ones, unless it has certifi.
    global _opener
    if _opener is None:
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or None
        if bundle is None:
            try:
                import certifi
            except ImportError:
                logger.debug("certificates are those of the system")
            else:
                bundle = certifi.where()
        context = ssl.create_default_context(cafile=bundle)
        _opener = build_opener(BoundedHandler(), SecureBoundedHandler(context=context))
    return _opener


def open_url(request: Request, timeout_s: float) -> Any:
    """The answer, of which the head has come. Raises what ``urlopen`` raises."""
    return _shared_opener().open(request, timeout=timeout_s)


def call(
    method: str,
    url: str,
    document: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    retry_for_s: float | None = None,
) -> tuple[int, Any]:
    """Make a call; returns the status of the answer, and its JSON. Status 0: there was no answer.

    A call without an answer, or with 408, 429 or 5xx, is repeated for *retry_for_s* seconds, or for those of
    ``AI4E_RETRY_FOR_S``. No key is ever logged.
    """
    give_up_s = time.monotonic() + (seconds_of("AI4E_RETRY_FOR_S", 120.0) if retry_for_s is None else retry_for_s)
    pause_s = _FIRST_PAUSE_S
    while True:
        status, answer, least_s = _call_once(method, url, document, headers, timeout_s)
        left_s = give_up_s - time.monotonic()
        if not (status in (0, 408, 429) or status >= 500) or left_s <= least_s:
            return status, answer
        time.sleep(min(least_s + random.uniform(0, pause_s), left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _call_once(
    method: str, url: str, document: Any, headers: Mapping[str, str] | None, timeout_s: float
) -> tuple[int, Any, float]:
    body = None if document is None else json.dumps(document).encode()
    request = Request(url, body, {**(headers or {}), "Content-Type": "application/json"}, method=method)
    try:
        try:
            with open_url(request, timeout_s) as answer:
                return answer.status, _json_of(answer), 0.0
        except HTTPError as error:
            with error:
                after = error.headers.get("Retry-After", "")
                return error.code, _json_of(error.fp), float(after[:9]) if after.isdigit() else 0.0
    except (OSError, HTTPException, ValueError) as error:
        # The URL of a ValueError may have the key in it.
        logger.info("%s %s: no answer (%s)", method, urlsplit(url).path, type(error).__name__)
        return 0, None, 0.0


def _json_of(answer: Any) -> Any:
    if not isinstance(answer, BoundedResponse):
        raise ValueError("a redirect has led to something else than HTTP")
    try:
        return json.loads(answer.whole().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
