"""Which tasks a list has: what the query of ``GET v1/tasks`` says."""

from __future__ import annotations

import re
from typing import Final, Literal

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import unknown_batch
from shared.http.owners import checked_owner, not_for_owners
from shared.http.paging import page_limit
from shared.http.problems import invalid
from shared.store import Listing
from shared.tasks.ids import is_task_id
from shared.tasks.task import MAX_ATTEMPT, State

LISTED_BY: Final = ["path", "status", "batch", "since", "until", "q", "owner", "attempts", "limit", "cursor"]
MAX_TEXT_CHARS: Final = 200
DELAYED: Final = "delayed"
"""In the place of a state: the created tasks that have yet to start."""


def listing_of(req: func.HttpRequest, owner: str | None) -> Listing:
    """
    Args:
        owner: who asks; None: whoever may see all tasks.

    Raises:
        Problem: 400 that names the parameter; 403 if an owner asks for another's tasks.
    """
    state = _state(req)
    return Listing(
        limit=page_limit(req),
        path=parse.listed_path(req),
        states=[state] if isinstance(state, State) else [],
        delayed=state == DELAYED,
        owner=_owner(req, owner),
        hides_others=owner is not None,
        before=parse.list_cursor(req),
        since_ms=parse.time_ms(req.params.get("since") or None, "since"),
        until_ms=parse.time_ms(req.params.get("until") or None, "until"),
        text=_text(req),
        attempts=_attempts(req),
    )


def listed_batch(req: func.HttpRequest) -> str | None:
    """The batch whose children are to be listed; None: any task.

    Raises:
        Problem: 404 if it cannot be one.
    """
    text = req.params.get("batch")
    if text is not None and not is_task_id(text):
        raise unknown_batch()
    return text


def _state(req: func.HttpRequest) -> State | Literal["delayed"] | None:
    text = req.params.get("status")
    if text == DELAYED:
        return DELAYED
    if text and text not in set(State):
        raise invalid("status", f"one of {', '.join(State)}, {DELAYED} is expected")
    return State(text) if text else None


def _owner(req: func.HttpRequest, owner: str | None) -> str | None:
    asked = req.params.get("owner") or None
    if asked is not None:
        checked_owner(asked, "owner")
    if owner is not None and asked not in (None, owner):
        raise not_for_owners()
    return owner or asked


def _text(req: func.HttpRequest) -> str:
    text = req.params.get("q") or ""
    if len(text) > MAX_TEXT_CHARS:
        raise invalid("q", f"at most {MAX_TEXT_CHARS} characters are taken")
    return text


def _attempts(req: func.HttpRequest) -> int:
    text = req.params.get("attempts")
    if not text:
        return 1
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= MAX_ATTEMPT:
        raise invalid("attempts", f"a number from 1 to {MAX_ATTEMPT} is expected")
    return int(text)
