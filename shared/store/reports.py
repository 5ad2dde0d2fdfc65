"""What clients give with a step of a task: callers, and the model services that work on it."""

from __future__ import annotations

from typing import TypedDict

from shared.store.arguments import ApplyStep
from shared.store.record_codec import pack_content
from shared.tasks.task import Actor, Content, LongStatus


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
