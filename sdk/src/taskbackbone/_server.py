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
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from errno import ENOSPC
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from shutil import disk_usage
from typing import Any, BinaryIO, Callable, NamedTuple
from urllib.parse import quote

from . import errors
from ._attempts import Attempt, Completed, Data, Failed, Key, Outcome, Released
from ._blobs import Source, source_of
from ._supervisor import BUCKETS_S, Refusal, Supervisor
from ._worker import INLINE_BYTES

DEFAULT_LEASE_S = 300.0
_BODY_SILENCE_S = 20.0
"""How long a caller may pause within its body."""
_LEAST_BYTES_PER_S = 16 * 1024
"""A body that comes more slowly, on the whole, would hold its slot for as long as its caller likes."""
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

    def check_size(self, size: int) -> None:
        """Raises Refusal."""
        if self.max_body_bytes is not None and size > self.max_body_bytes:
            raise Refusal(413, f"The body may have at most {self.max_body_bytes:,} bytes.")


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
            health = self._health(request.path) if request.method in ("GET", "HEAD") else None
            if health is not None:
                await request.answer(*health)
            else:
                await self._serve(request)
        except Refusal as refusal:
            await request.drain()
            await request.problem(refusal, self._told())
        except _Gone:
            pass

    def _health(self, path: str) -> tuple[int, bytes, str] | None:
        supervisor = self._supervisor
        if path == "/metrics":
            return 200, metrics_of(supervisor).encode(), "text/plain; version=0.0.4; charset=utf-8"
        if path not in ("/livez", "/readyz"):
            return None
        is_well = supervisor.is_alive if path == "/livez" else supervisor.is_ready
        return (200, b"ok", "text/plain") if is_well else (503, b"not ok", "text/plain")

    async def _serve(self, request: _Request) -> None:
        endpoint = self._find(request.path)
        if endpoint is None:
            raise Refusal(404, "This service has no such path.")
        if request.method != "POST":
            raise Refusal(405, "This path takes POST.")
        key = _key(request.headers)
        if key is None:
            return await self._call(request, endpoint)
        is_known = self._supervisor.knows(key)
        if is_known:
            await request.drain()
        else:
            source = self._source(request, endpoint)
            attempt = await self._attempt(request, endpoint, key)
            is_known = self._supervisor.knows(key)  # it came twice, and the other one was read first
            if is_known:
                self._supervisor.unreserve(attempt.folder)
            else:
                self._supervisor.begin(attempt, source)
        told = json.dumps({"TaskId": key[0]}).encode()
        return await request.answer(200 if is_known else 202, told, "application/json", self._told())

    def _source(self, request: _Request, endpoint: Endpoint) -> Source | None:
        """Where the body of a dispatch lies, if that is not its own body."""
        if "x-task-body" not in request.headers:
            return None
        length = request.headers.get("x-task-body-length", "")
        if not length.isdecimal() or len(length) > 15:
            raise Refusal(400, "X-Task-Body-Length: a number of bytes is expected.")
        endpoint.check_size(int(length))
        source = source_of(request.headers)
        try:
            self._supervisor.transfers.check(source)
        except errors.NotAllowed as error:
            raise Refusal(403, f"X-Task-Body: {error}") from None
        return source

    async def _call(self, request: _Request, endpoint: Endpoint) -> None:
        """Answers a direct call with what its work came to, unless the caller goes away."""
        if "x-task-body" in request.headers:
            raise Refusal(400, "X-Task-Body is for tasks of the backbone.")
        attempt = await self._attempt(request, endpoint, None)
        work = asyncio.ensure_future(self._supervisor.call(attempt))
        await asyncio.wait({work}, timeout=_WATCH_CALLER_AFTER_S)
        if not work.done():
            going = asyncio.ensure_future(request.gone())
            await asyncio.wait({work, going}, return_when=asyncio.FIRST_COMPLETED)
            going.cancel()
        if not work.done():
            work.cancel()
            raise _Gone
        try:
            await self._tell(request, work.result())
        finally:
            self._supervisor.clean(attempt.folder)

    async def _tell(self, request: _Request, outcome: Outcome) -> None:
        if isinstance(outcome, Completed):
            headers = {"X-Task-Status": quote(outcome.text, safe="")} if outcome.text else {}
            if outcome.content_encoding:
                headers["Content-Encoding"] = outcome.content_encoding
            if isinstance(outcome.body, Path):
                await request.file(outcome.body, outcome.content_type, headers)
            elif outcome.body is None:
                await request.answer(204, b"", "", headers)
            else:
                await request.answer(200, outcome.body, outcome.content_type, headers)
        elif isinstance(outcome, Failed):
            await request.problem(Refusal(outcome.http_status, outcome.reason))
        elif isinstance(outcome, Released):
            await request.problem(Refusal(503, outcome.reason, int(outcome.after_s or 1)))
        else:
            await request.problem(Refusal(503, "The work was stopped.", 1))

    async def _attempt(self, request: _Request, endpoint: Endpoint, key: Key | None) -> Attempt:
        """Takes a slot, and reads the request whole. If it cannot, the slot is free again."""
        supervisor, headers = self._supervisor, request.headers
        sent = headers.get("content-type", "").partition(";")[0].strip().lower()
        if endpoint.content_types and not any(fnmatchcase(sent, accepted) for accepted in endpoint.content_types):
            raise Refusal(415, f"The body must be {' or '.join(endpoint.content_types)}.")
        lease_s = _lease_s(headers)
        supervisor.reserve(is_task=key is not None)
        folder = supervisor.new_folder()
        try:
            body = await request.body(endpoint, folder)
            supervisor.check_open()  # it may have begun to stop meanwhile
        except BaseException:
            supervisor.unreserve(folder)
            raise
        return Attempt(
            path=endpoint.path,
            folder=folder,
            body=body,
            content_type=headers.get("content-type", ""),
            content_encoding=headers.get("content-encoding", ""),
            query=request.query,
            task_id=key[0] if key else None,
            number=key[1] if key else None,
            lease_s=lease_s,
            timeout_s=endpoint.timeout_s,
            stall_s=endpoint.stall_s,
            trace={name: headers[name] for name in ("traceparent", "tracestate") if name in headers},
        )

    def _told(self) -> dict[str, str]:
        return {"X-Task-Slots": str(self._supervisor.told_slots), "X-Task-Instance": self._supervisor.instance}


def _key(headers: Mapping[str, str]) -> Key | None:
    """Whose attempt a request is; None for a direct call."""
    task_id, number = headers.get("taskid"), headers.get("x-task-attempt", "").strip()
    if not task_id:
        return None
    if not _TASK_ID.match(task_id):
        raise Refusal(400, "taskId: this can be no task's id.")
    if number and not (number.isdecimal() and len(number) < 10):
        raise Refusal(400, "X-Task-Attempt: a number is expected.")
    return task_id, int(number) if number else None


def _lease_s(headers: Mapping[str, str]) -> float:
    try:
        lease_s = float(headers.get("x-task-lease") or DEFAULT_LEASE_S)
    except ValueError:
        raise Refusal(400, "X-Task-Lease: a number of seconds is expected.") from None
    return lease_s if 1 <= lease_s < math.inf else DEFAULT_LEASE_S


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

    async def body(self, endpoint: Endpoint, folder: Path) -> Data:
        """The body: bytes, or over 1 MiB a file in that folder.

        Raises:
            Refusal: it is too large, or does not come.
        """
        length = self.headers.get("content-length", "")
        if length.isdecimal():
            endpoint.check_size(int(length))
        spool, began_s = Spool(folder / "body"), time.monotonic()
        try:
            while True:
                chunk, more = await self._chunk()
                spool.add(chunk)
                endpoint.check_size(spool.size)
                if not more:
                    return spool.data()
                if time.monotonic() - began_s > _BODY_SILENCE_S + spool.size / _LEAST_BYTES_PER_S:
                    raise Refusal(408, "The body comes too slowly.")
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
            return await self.problem(Refusal(500, f"The result cannot be read ({type(error).__name__})."))
        with file:
            await self._begin(200, content_type, left, headers)
            while chunk := file.read(min(left, _CHUNK_BYTES)):
                left -= len(chunk)
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        return await self._send({"type": "http.response.body", "body": b""})

    async def problem(self, refusal: Refusal, headers: dict[str, str] | None = None) -> None:
        sent = dict(headers or {})
        if refusal.retry_after_s is not None:
            sent["Retry-After"] = str(refusal.retry_after_s)
        if refusal.status == 405:
            sent["Allow"] = "POST"
        title = HTTPStatus(refusal.status).phrase
        told = {"type": "about:blank", "title": title, "status": refusal.status, "detail": refusal.detail}
        await self.answer(refusal.status, json.dumps(told).encode(), "application/problem+json", sent)

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
    """Keeps bytes in memory, and those of more than 1 MiB in a file, which gets half of what is free on its disk."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._parts: list[bytes] = []
        self._file: BinaryIO | None = None
        self._room = 0

    def add(self, chunk: bytes) -> None:
        """Raises OSError if the file cannot be written, or has no more room."""
        self.size += len(chunk)
        self._parts.append(chunk)
        if self._file is None and self.size > INLINE_BYTES:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._path.open("wb")
            self._room = disk_usage(self._path.parent).free // 2
        if self._file is not None:
            if self.size > self._room:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
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


def metrics_of(supervisor: Supervisor) -> str:
    """What it has counted since its start, in the text format of Prometheus."""
    counts = supervisor.counts
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, values: dict[str, float]) -> None:
        lines.append(f"# HELP taskbackbone_{name} {meaning}")
        lines.append(f"# TYPE taskbackbone_{name} {kind}")
        lines.extend(f"taskbackbone_{name}{labels} {value:g}" for labels, value in values.items())

    def labelled(label: str, values: dict[str, int]) -> dict[str, float]:
        return {f'{{{label}="{name}"}}': count for name, count in sorted(values.items())}

    add("running", "gauge", "Tasks and direct calls at work.", {"": supervisor.taken})
    add("slots", "gauge", "How many are taken at a time.", {"": supervisor.told_slots})
    add("accepted_total", "counter", "Tasks and direct calls let in.", labelled("kind", counts.accepted))
    add("refused_total", "counter", "Tasks and direct calls not let in.", labelled("reason", counts.refused))
    add("ended_total", "counter", "Ends of work, by outcome.", labelled("outcome", counts.ended))
    restarts = getattr(supervisor.runner, "restarts", 0)
    add("worker_restarts_total", "counter", "Workers that were replaced.", {"": restarts})
    retried = supervisor.reporter.retried if supervisor.reporter else 0
    add("reports_retried_total", "counter", "Calls to the backbone that were made again.", {"": retried})
    so_far, durations = 0, {}
    for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], counts.buckets):
        so_far += count
        durations[f'_bucket{{le="{bound}"}}'] = float(so_far)
    add("seconds", "histogram", "How long work took.", {**durations, "_sum": counts.seconds, "_count": so_far})
    return "\n".join(lines) + "\n"
