"""How a result or a checkpoint is answered: whole, in part, or not again (RFC 9110)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import no_checkpoint, no_result
from shared.bodies import BodyMissing
from shared.http.functions import header
from shared.http.problems import Problem
from shared.services import Services
from shared.store import TaskStore
from shared.tasks.task import Content, Task

# The content is a model's: no browser may run it in this app's name.
_SAFETY: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


@dataclass(frozen=True, slots=True)
class Stored:
    """One of the things that model services store with a task."""

    of: Callable[[Task], Content | None]
    inline: Callable[[TaskStore, str], Awaitable[bytes | None]]
    missing: Callable[[Task], Problem]


RESULT: Final = Stored(lambda task: task.result, TaskStore.inline_result, no_result)
CHECKPOINT: Final = Stored(lambda task: task.checkpoint, TaskStore.inline_checkpoint, no_checkpoint)


async def stored_response(req: func.HttpRequest, task: Task, kind: Stored, services: Services) -> func.HttpResponse:
    """
    Raises:
        Problem: 404 if there is none, 416 if the request asks for bytes that it does not have.
        BodyMissing: the one that the task names is gone.
    """
    content = kind.of(task)
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
        "Cache-Control": "no-cache",
        **_SAFETY,
    }
    known = header(req, "if-none-match")
    if known is not None and parse.matches(known, etag):
        return func.HttpResponse(status_code=304, headers=headers)
    if req.method == "HEAD":
        return func.HttpResponse(headers={**headers, "Content-Length": str(size_bytes)})
    part = parse.byte_range(req, size_bytes, etag)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size_bytes}"
    data = await _data(content, inline, part, services)
    return func.HttpResponse(data, status_code=200 if part is None else 206, headers=headers)


async def _data(content: Content, inline: bytes | None, part: range | None, services: Services) -> bytes:
    if inline is not None:
        return inline if part is None else inline[part.start : part.stop]
    with services.limits.body(content.size_bytes if part is None else len(part)):
        return await services.bodies.read(content, part)


def _etag(content: Content, inline: bytes | None) -> str:
    """The same for the same bytes of the same kind. Each blob has a name of its own."""
    if content.blob is not None:
        return f'"{content.blob.rpartition("/")[2]}"'
    kind = f"{content.content_type}\n{content.encoding}\n".encode()
    return f'"{hashlib.sha256(kind + (inline or b"")).hexdigest()[:32]}"'
