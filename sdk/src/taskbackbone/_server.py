"""HTTP, as an ASGI app: dispatches, direct calls, `/livez`, `/readyz`, `/metrics`.

A request with the header `taskId` is a dispatch: it is answered when the task is accepted, and its end is reported.
Any other POST is a direct call: it is answered with the result.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Callable, NamedTuple

from . import _metrics
from ._attempts import Attempt, Completed, Data, Failed, Key, Outcome, Released
from ._supervisor import Refusal, Supervisor
from ._worker import INLINE_BYTES

DEFAULT_LEASE_S = 300.0
_BODY_SILENCE_S = 20.0
"""How long a caller may pause within its body."""
_DRAINED_BYTES = 1 << 20
"""So much of a refused request's body is read, so that its caller reads the answer."""
_CHUNK_BYTES = 256 * 1024
_WATCH_CALLER_AFTER_S = 0.5
_TASK_ID = re.compile(r"[A-Za-z0-9_.\-]{1,128}\Z")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Endpoint(NamedTuple):
    """What a path takes."""

    path: str
    content_types: tuple[str, ...] = ()
    max_body_bytes: int | None = None
    timeout_s: float | None = None
    stall_s: float | None = None


class App:
    """The ASGI app of a supervisor.

    Parameters:
        find: the endpoint of a path; None if there is none.
    """

    def __init__(self, supervisor: Supervisor, find: Callable[[str], Endpoint | None]) -> None:
        self._supervisor = supervisor
        self._find = find

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        request = _Request(scope, receive, send, lambda: self._supervisor.is_draining)
        try:
            await self._serve(request)
        except Refusal as refusal:
            await request.drain()
            await request.problem(refusal.status, refusal.detail, refusal.retry_after_s, self._told())
        except _Gone:
            pass

    async def _serve(self, request: _Request) -> None:
        supervisor = self._supervisor
        path = request.path
        if request.method in ("GET", "HEAD"):
            if path == "/livez":
                is_alive = supervisor.is_alive
                await request.answer(200 if is_alive else 503, b"ok" if is_alive else b"stuck")
                return
            if path == "/readyz":
                is_ready = supervisor.is_ready
                await request.answer(200 if is_ready else 503, b"ready" if is_ready else b"not ready")
                return
            if path == "/metrics":
                text = _metrics.text(supervisor)
                await request.answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
                return
        endpoint = self._find(path)
        if endpoint is None:
            raise Refusal(404, "This service has no such path.")
        if request.method != "POST":
            raise Refusal(405, "This path takes POST.")
        if task_id := request.headers.get("taskid"):
            await self._dispatch(request, endpoint, task_id)
        else:
            await self._call(request, endpoint)

    async def _dispatch(self, request: _Request, endpoint: Endpoint, task_id: str) -> None:
        supervisor = self._supervisor
        if not _TASK_ID.match(task_id):
            raise Refusal(400, "taskId: this can be no task's id.")
        number = request.headers.get("x-task-attempt", "").strip()
        if number and not number.isdecimal():
            raise Refusal(400, "X-Task-Attempt: a number is expected.")
        key: Key = task_id, int(number) if number else None
        if supervisor.knows(key):
            await request.drain()
            await request.json(200, {"TaskId": task_id}, self._told())
            return
        self._check_type(request, endpoint)
        supervisor.reserve(is_task=True)
        attempt = await self._attempt(request, endpoint, key)
        if supervisor.knows(key):  # it came twice, and the other one was read first
            supervisor.unreserve()
            supervisor.clean(attempt)
            await request.json(200, {"TaskId": task_id}, self._told())
            return
        supervisor.begin(attempt)
        await request.json(202, {"TaskId": task_id}, self._told())

    async def _call(self, request: _Request, endpoint: Endpoint) -> None:
        supervisor = self._supervisor
        self._check_type(request, endpoint)
        supervisor.reserve(is_task=False)
        attempt = await self._attempt(request, endpoint, None)
        outcome = await self._outcome(request, attempt)
        try:
            await self._tell(request, outcome)
        finally:
            supervisor.clean(attempt)

    async def _outcome(self, request: _Request, attempt: Attempt) -> Outcome:
        """Does the work of a direct call, unless the caller goes away."""
        work = asyncio.ensure_future(self._supervisor.call(attempt))
        await asyncio.wait({work}, timeout=_WATCH_CALLER_AFTER_S)
        if not work.done():
            going = asyncio.ensure_future(request.gone())
            await asyncio.wait({work, going}, return_when=asyncio.FIRST_COMPLETED)
            going.cancel()
            if not work.done():
                work.cancel()
                raise _Gone
        return work.result()

    async def _tell(self, request: _Request, outcome: Outcome) -> None:
        if isinstance(outcome, Completed):
            headers = {"X-Task-Status": _printable(outcome.text)} if outcome.text else {}
            if outcome.content_encoding:
                headers["Content-Encoding"] = outcome.content_encoding
            if outcome.body is None:
                await request.answer(204, b"", "", headers)
                return
            if isinstance(outcome.body, Path):
                await request.file(outcome.body, outcome.content_type, headers)
                return
            await request.answer(200, outcome.body, outcome.content_type, headers)
            return
        if isinstance(outcome, Failed):
            await request.problem(outcome.http_status, outcome.reason)
            return
        if isinstance(outcome, Released):
            after_s = None if outcome.after_s is None else int(outcome.after_s)
            await request.problem(503, outcome.reason, after_s or 1)
            return
        await request.problem(503, "The work was stopped.", 1)

    async def _attempt(self, request: _Request, endpoint: Endpoint, key: Key | None) -> Attempt:
        """Reads the request whole. If it cannot, the slot is free again."""
        supervisor = self._supervisor
        folder = supervisor.new_folder()
        try:
            body = await request.body(endpoint.max_body_bytes, folder)
        except BaseException:
            supervisor.unreserve()
            raise
        headers = request.headers
        lease = headers.get("x-task-lease", "")
        with suppress(ValueError):
            lease_s = float(lease) if lease else DEFAULT_LEASE_S
            return Attempt(
                path=endpoint.path,
                folder=folder,
                body=body,
                content_type=headers.get("content-type", ""),
                content_encoding=headers.get("content-encoding", ""),
                query=request.query,
                task_id=key[0] if key else None,
                number=key[1] if key else None,
                lease_s=lease_s if 1 <= lease_s < math.inf else DEFAULT_LEASE_S,
                timeout_s=endpoint.timeout_s,
                stall_s=endpoint.stall_s,
                trace={name: headers[name] for name in ("traceparent", "tracestate") if name in headers},
            )
        supervisor.unreserve()
        raise Refusal(400, "X-Task-Lease: a number of seconds is expected.")

    def _check_type(self, request: _Request, endpoint: Endpoint) -> None:
        if endpoint.content_types:
            sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not any(fnmatchcase(sent, accepted) for accepted in endpoint.content_types):
                raise Refusal(415, f"The body must be {' or '.join(endpoint.content_types)}.")

    def _told(self) -> dict[str, str]:
        return {"X-Task-Slots": str(self._supervisor.told_slots), "X-Task-Instance": self._supervisor.instance}


class _Gone(Exception):
    """The caller is."""


class _Request:
    """A request, and the ways to answer it."""

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, is_leaving: Callable[[], bool]
    ) -> None:
        self.method: str = scope["method"]
        path, root = scope["path"], scope.get("root_path", "")
        self.path = path[len(root) :] if root and path.startswith(root + "/") else path
        if len(self.path) > 1:
            self.path = self.path.rstrip("/")
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._receive = receive
        self._send = send
        self._is_leaving = is_leaving
        self._is_read = False

    async def body(self, most_bytes: int | None, folder: Path) -> Data:
        """The body: bytes, or over 1 MiB a file in that folder.

        Raises:
            Refusal: it is too large, or does not come.
        """
        length = self.headers.get("content-length", "")
        if most_bytes is not None and length.isdecimal() and int(length) > most_bytes:
            raise Refusal(413, f"The body may have at most {most_bytes:,} bytes.")
        spool = Spool(folder / "body")
        try:
            while True:
                chunk, more = await self._chunk()
                spool.add(chunk)
                if most_bytes is not None and spool.size > most_bytes:
                    raise Refusal(413, f"The body may have at most {most_bytes:,} bytes.")
                if not more:
                    return spool.data()
        except OSError as error:
            raise Refusal(500, f"The body cannot be kept in a file ({type(error).__name__}).") from error
        finally:
            spool.close()

    async def _chunk(self) -> tuple[bytes, bool]:
        try:
            message = await asyncio.wait_for(self._receive(), _BODY_SILENCE_S)
        except asyncio.TimeoutError:
            raise Refusal(408, f"Nothing of the body came for {_BODY_SILENCE_S:g} s.") from None
        if message["type"] == "http.disconnect":
            raise _Gone
        more = bool(message.get("more_body", False))
        self._is_read = not more
        return message.get("body", b""), more

    async def drain(self) -> None:
        """Reads what is left of the body, if it is not much."""
        length = self.headers.get("content-length", "0")
        if self._is_read or not length.isdecimal() or int(length) > _DRAINED_BYTES or "expect" in self.headers:
            return
        size = 0
        with suppress(Refusal):
            while not self._is_read and size <= _DRAINED_BYTES:
                size += len((await self._chunk())[0])

    async def gone(self) -> None:
        """Waits until the caller is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self, status: int, body: bytes, content_type: str = "text/plain", headers: dict[str, str] | None = None
    ) -> None:
        await self._begin(status, content_type, None if status == 204 else len(body), headers)
        await self._send({"type": "http.response.body", "body": body})

    async def file(self, path: Path, content_type: str, headers: dict[str, str]) -> None:
        try:
            file, left = _opened(path)
        except OSError as error:
            await self.problem(500, f"The file of the result cannot be read ({type(error).__name__}).")
            return
        with file:
            await self._begin(200, content_type, left, headers)
            while chunk := file.read(min(left, _CHUNK_BYTES)):
                left -= len(chunk)
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def json(self, status: int, value: dict[str, Any], headers: dict[str, str]) -> None:
        await self.answer(status, json.dumps(value).encode(), "application/json", headers)

    async def problem(
        self, status: int, detail: str, retry_after_s: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        sent = dict(headers or {})
        if retry_after_s is not None:
            sent["Retry-After"] = str(retry_after_s)
        if status == 405:
            sent["Allow"] = "POST"
        problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        await self.answer(status, json.dumps(problem).encode(), "application/problem+json", sent)

    async def _begin(self, status: int, content_type: str, size: int | None, headers: dict[str, str] | None) -> None:
        sent = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
        if content_type:
            sent.append((b"content-type", content_type.encode("latin-1")))
        if size is not None:
            sent.append((b"content-length", b"%d" % size))
        if self._is_leaving():  # so that the caller's next connection leads to another instance
            sent.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": sent})


class Spool:
    """Keeps bytes in memory, and those of more than 1 MiB in a file."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._parts: list[bytes] = []
        self._file: BinaryIO | None = None

    def add(self, chunk: bytes) -> None:
        """Raises OSError if the file cannot be written."""
        self.size += len(chunk)
        self._parts.append(chunk)
        if self._file is None and self.size > INLINE_BYTES:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        if self._file is not None:
            self._file.writelines(self._parts)
            self._parts.clear()

    def data(self) -> Data:
        """What was added: bytes, or the file. Raises OSError."""
        if self._file is not None:
            self._file.close()
            return self._path
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _opened(path: Path) -> tuple[BinaryIO, int]:
    """A file and its size."""
    file = path.open("rb")
    return file, os.fstat(file.fileno()).st_size


def _printable(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
