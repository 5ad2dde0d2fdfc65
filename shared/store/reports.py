"""What clients give with a step of a task: callers, and the model services that work on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from shared.store.arguments import ApplyStep
from shared.store.record_codec import pack_content
from shared.store.redis.partitions import to_ms
from shared.tasks.task import Actor, Bounds, Content, LongStatus, Reason, State

_INLINE_PARTS: Final = 2
"""Of a packed content; the third is the name of a blob."""


class Report(TypedDict, total=False):
    """What is absent or None stays as it is."""

    status: str | None
    long_status: LongStatus | None
    """Where the whole text lies, if ``status`` is only its beginning."""
    attempt: int | None
    """None: the client is trusted to speak for the current one."""
    path: str | None
    query: str | None
    body: Content | None
    inline_body: bytes
    progress: float | None
    """Of the attempt, 0 to 1."""
    owner: str | None
    """The owner that the task must have."""


class NextStep(Report, total=False):
    """A report that sends the task to the end of a queue."""

    bounds: Bounds | None
    """What the endpoint's backend says of the task; None: it stays at its endpoint."""


@dataclass(frozen=True, slots=True)
class SentOn:
    """How the model service that has an attempt sends its task on to a next step.

    Attributes:
        body: what becomes the body of that step: what comes with the request, the stored result, or the body that the
            task has.
        token: by which a repetition of the request is known.
    """

    body: Literal["given", "result", "current"]
    token: str


def token_of(step: ApplyStep, data: bytes) -> str | None:
    """By what a step sends its task on, if it is one that may: what the record keeps of it, see ``task/apply``."""
    if "token" in step:
        return step["token"]
    if step.get("to") is not State.COMPLETED:
        return None
    result = step.get("result")
    if result is None:
        return ""
    is_blob = len(result) > _INLINE_PARTS
    return str(result[1]) if is_blob else hashlib.sha1(data, usedforsecurity=False).hexdigest()


def next_step_of(report: NextStep) -> ApplyStep:
    """The step that sends a task on, with what is given. Its caller says the rest."""
    step = report_step(report)
    step["to"] = State.CREATED
    step["next_step"] = True
    step["reason"] = Reason.NEXT_STEP
    if (bounds := report.get("bounds")) is not None:
        step["lease"] = to_ms(bounds["lease_s"])
        if bounds["max_run_s"]:
            step["run"] = to_ms(bounds["max_run_s"])
        if bounds["expires_s"]:
            step["expires"] = to_ms(bounds["expires_s"])
    return step


def report_step(report: Report) -> ApplyStep:
    """The step that stores what is given. Its caller says the rest."""
    step: ApplyStep = {"actor": Actor.CLIENT}
    if (status := report.get("status")) is not None:
        step["status"] = status
    if (long_status := report.get("long_status")) is not None:
        step["long"] = list(long_status)
    if (attempt := report.get("attempt")) is not None:
        step["attempt"] = attempt
    if (path := report.get("path")) is not None:
        step["path"] = path
    if (query := report.get("query")) is not None:
        step["query"] = query
    if (body := report.get("body")) is not None:
        step["body"] = pack_content(body)
    if (progress := report.get("progress")) is not None:
        step["progress"] = progress
    if (owner := report.get("owner")) is not None:
        step["owner"] = owner
    return step
