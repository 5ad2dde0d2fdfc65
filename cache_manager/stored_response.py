"""How a body, a result or a checkpoint is answered: whole, in part, or not again (RFC 9110)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import no_body, no_checkpoint, no_result
from shared.bodies import BodyMissing, NoSas
from shared.http.conditional import matches
from shared.http.functions import header
from shared.http.problems import Problem
from shared.services import Services
from shared.store import TaskStore
from shared.tasks.digests import repr_digest
from shared.tasks.task import Content, Task

# The content is a model's: no browser may run it in this app's name.
_SAFETY: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


@dataclass(frozen=True, slots=True)
class Stored:
    """One of the things that are stored with a task."""

    of: Callable[[Task], Content | None]
    inline: Callable[[TaskStore, str], Awaitable[bytes | None]]
    missing: Callable[[Task], Problem]


BODY: Final = Stored(lambda task: task.body, TaskStore.inline_body, no_body)
RESULT: Final = Stored(lambda task: task.result, TaskStore.inline_result, no_result)
CHECKPOINT: Final = Stored(lambda task: task.checkpoint, TaskStore.inline_checkpoint, no_checkpoint)


async def stored_response(req: func.HttpRequest, task: Task, kind: Stored, services: Services) -> func.HttpResponse:
    """
    Raises:
        Problem: 404 if there is none, 416 if the request asks for bytes that it does not have.
        BodyMissing: the one that the task names is gone.
        NoSas: it is too large to pass through the app, and no URL can be given in its place.
    """
    content = kind.of(task)
    wants_link = parse.flag(req, "link") and services.settings.max_upload_bytes > 0
    if content is None:
        raise kind.missing(task)
    inline = None
    if content.blob is None and (inline := await kind.inline(services.store, task.id)) is None:
        raise BodyMissing
    size_bytes = content.size_bytes if inline is None else len(inline)
    etag = _etag(content, inline)
    headers = {
        "TaskId": task.id,
        "Content-Type": content.content_type,
        **({"Content-Encoding": content.encoding} if content.encoding else {}),
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        **repr_digest(content.sha256),
        **_SAFETY,
    }
    known = header(req, "if-none-match")
    if known is not None and matches(known, etag):
        return func.HttpResponse(status_code=304, headers=headers)
    part = parse.byte_range(req, size_bytes, etag)
    passing_bytes = size_bytes if part is None else len(part)
    is_too_large = content.is_upload and passing_bytes > services.settings.largest_body_bytes
    if content.blob is not None and (wants_link or is_too_large):
        link = await _link(content, services, is_too_large=is_too_large)
        if link is not None:
            told = {"TaskId": task.id, "ETag": etag, **repr_digest(content.sha256)}
            headers = {**told, "Cache-Control": "no-store", "Content-Type": "", "Location": link}
            return func.HttpResponse(status_code=303, headers=headers)
    if req.method == "HEAD":
        return func.HttpResponse(headers={**headers, "Content-Length": str(size_bytes)})
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size_bytes}"
    data = await _data(content, inline, part, services)
    return func.HttpResponse(data, status_code=200 if part is None else 206, headers=headers)


async def _link(content: Content, services: Services, *, is_too_large: bool) -> str | None:
    """Where to read the blob; None if no URL can be made, and it can pass through the app."""
    try:
        return (await services.bodies.read_url(content, services.settings.read_url_s)).url
    except NoSas:
        if is_too_large:
            raise
        return None


async def _data(content: Content, inline: bytes | None, part: range | None, services: Services) -> bytes:
    if inline is not None:
        return inline if part is None else inline[part.start : part.stop]
    with services.limits.body(content.size_bytes if part is None else len(part)):
        return await services.bodies.read(content, part)


def _etag(content: Content, inline: bytes | None) -> str:
    """The same for the same bytes of the same kind. Each blob has a name of its own."""
    if content.blob is not None and not content.is_upload:
        return f'"{content.blob.rpartition("/")[2]}"'
    if content.blob is not None:  # the name of an upload's blob is part of its URL
        return f'"{hashlib.sha256(content.blob.encode()).hexdigest()[:32]}"'
    kind = f"{content.content_type}\n{content.encoding}\n".encode()
    return f'"{hashlib.sha256(kind + (inline or b"")).hexdigest()[:32]}"'
