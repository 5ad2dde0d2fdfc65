"""``taskbackbone sidecar --upstream http://localhost:8000``: any synchronous HTTP server as a task service.

The sidecar is the supervisor of a service whose runner is another server: it takes tasks, sends each body to the
server, and reports the answer as the result. Heartbeats, cancelling, draining and giving back are the supervisor's.

====================================  ==================================================================
the server                            the task
====================================  ==================================================================
answers 2xx                           is completed with the answer as its result
answers 429, 503, or what --busy has  was not accepted: it goes back to its place, and nothing is counted
answers another 4xx                   has failed, with the text of the answer
answers 408, or another 5xx           is tried again, and that counts
breaks off                            is tried again, and that counts
cannot be reached                     goes back to its place; no other is taken until the server is there
====================================  ==================================================================

A cancelled task's connection is closed. A server that does not notice goes on with the work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Callable, cast
from urllib.parse import urlsplit

from ._attempts import Attempt, Completed, Data, Events, Failed, Outcome, Released, Stopped
from ._bounds import chunks_of
from ._server import App, Endpoint, Spool
from ._upstream import connection_to, target_of, text_of, with_slash

_CONNECT_S = 10.0
_LOOK_EVERY_S = 0.25
_TEXT_BYTES = 64 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
BUSY = (429, 503)

logger = logging.getLogger("taskbackbone")


class Upstream:
    """The runner for which another server does the work.

    Parameters:
        url: of the server. With a path, all tasks go there; without, each goes to its own.
        slots: how many requests it gets at a time.
        busy: by which statuses it says that it has no room.
        ready: a path that it answers with 2xx when it can work; empty: it can when it takes connections.
        failure: a member of JSON and its text by which a 2xx answer says that the work has failed, such as
            ``status=failed``; the member ``error`` or ``detail`` says why.
    """

    def __init__(self, url: str, slots: int, busy: Sequence[int] = BUSY, ready: str = "", failure: str = "") -> None:
        split = urlsplit(url if "://" in url else f"http://{url}")
        if split.scheme not in ("http", "https") or not split.hostname or slots < 1:
            raise ValueError(f"{url} is no http URL" if slots >= 1 else "there is at least 1 slot")
        self._base = f"{split.scheme}://{split.netloc}"
        self._path = split.path.rstrip("/")
        self._slots = self._limit = slots
        self._busy = frozenset(busy)
        self._ready = ready
        self._failure = failure
        self._pause_s = _FIRST_PAUSE_S
        self._is_up = False
        self._requests: dict[Attempt, _Request] = {}
        self._threads = ThreadPoolExecutor(slots, "upstream")
        self._looking: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None

    @property
    def slots(self) -> int:
        return self._limit if self._is_up else 0

    async def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._look()

    async def run(self, attempt: Attempt, events: Events) -> Outcome:
        path = (self._path or attempt.path) + (f"?{attempt.query}" if attempt.query else "")
        request = self._requests[attempt] = _Request(attempt, self._base + path, self._failure)
        events.started()
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._threads, request.send)
        finally:
            del self._requests[attempt]
        if isinstance(outcome, int):
            outcome = self._judge(outcome, request)
        if request.is_lost:
            self._look()
        return outcome

    def cancel(self, attempt: Attempt, reason: str, grace_s: float) -> None:
        if request := self._requests.get(attempt):
            request.cancel()

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._threads.shutdown(wait=False)

    def _judge(self, status: int, request: _Request) -> Outcome:
        """What an answer that is no result means."""
        if status in self._busy:
            return self._has_no_room(request.retry_after_s)
        if status == 408 or status >= 500:
            return Released(f"the server answered {status}", counted=True)
        return Failed(request.text or f"the server answered {status}", status if status >= 400 else 502)

    def _has_no_room(self, retry_after_s: float | None) -> Outcome:
        """What it has beside this task is all that it holds for now, others' work included."""
        pause_s = self._pause_s if retry_after_s is None else retry_after_s
        self._limit = min(self._limit, len(self._requests))
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        asyncio.get_running_loop().call_later(pause_s, self._has_room)
        self._changed()
        return Released("the server is busy", counted=False, after_s=None if self._limit else pause_s)

    def _has_room(self) -> None:
        self._limit = self._slots
        self._changed()

    def _look(self) -> None:
        """Look whether the server is there, until it is."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._until_up())

    async def _until_up(self) -> None:
        loop, was_up = asyncio.get_running_loop(), self._is_up
        while not await loop.run_in_executor(None, self._is_there):
            if was_up:
                logger.warning("the server is not there")
            self._is_up = was_up = False
            self._changed()
            await asyncio.sleep(_LOOK_EVERY_S)
        if not self._is_up:
            logger.info("the server is there")
        self._is_up = True
        self._changed()

    def _is_there(self) -> bool:
        connection = connection_to(self._base, _CONNECT_S)
        try:
            if not self._ready:
                connection.connect()
                return True
            connection.request("GET", self._ready)
            return 200 <= connection.getresponse().status < 300
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


class _Request:
    """One task at the server, in a thread."""

    def __init__(self, attempt: Attempt, url: str, failure: str) -> None:
        self.is_lost = False
        """Whether the server may be gone."""
        self.retry_after_s: float | None = None
        self.text = ""
        self._attempt = attempt
        self._url = url
        self._failure = failure.partition("=")
        self._is_cancelled = False
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            if self._sock is not None:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def send(self) -> Outcome | int:
        """The outcome, or the status of an answer that is no result."""
        try:
            return self._send_to(self._url)
        except _Unreached as error:
            self.is_lost = True
            outcome = Released(f"the server cannot be reached ({error})", counted=False)
        except (OSError, HTTPException) as error:
            self.is_lost = True
            outcome = Released(f"the server broke off ({type(error).__name__})", counted=True)
        return Stopped() if self._is_cancelled else outcome

    def _send_to(self, url: str, *, is_redirected: bool = False) -> Outcome | int:
        connection = connection_to(url, _CONNECT_S)
        try:
            self._connect(connection)
            response = self._exchange(connection, target_of(url))
            slashed = with_slash(url, response.status, response.headers.get("Location", ""))
            if slashed and not is_redirected:
                return self._send_to(slashed, is_redirected=True)
            return self._read(response)
        finally:
            with self._lock:
                self._sock = None
            connection.close()

    def _connect(self, connection: HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise _Unreached(type(error).__name__) from error
        connection.sock.settimeout(None)  # a model may take its time
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with self._lock:
            self._sock = connection.sock
            if self._is_cancelled:
                raise _Unreached("cancelled")

    def _exchange(self, connection: HTTPConnection, target: str) -> HTTPResponse:
        attempt = self._attempt
        body = attempt.body.open("rb") if isinstance(attempt.body, Path) else attempt.body
        size = os.fstat(body.fileno()).st_size if not isinstance(body, bytes) else len(body)
        given = {
            "Content-Type": attempt.content_type,
            "Content-Encoding": attempt.content_encoding,
            "taskId": attempt.task_id or "",
            "X-Task-Attempt": "" if attempt.number is None else str(attempt.number),
            **attempt.trace,
        }
        headers = {name: value for name, value in given.items() if value}
        try:
            # A server that refuses a large body may close the connection before it has read it.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", target, body, {**headers, "Content-Length": str(size)})
            return connection.getresponse()
        finally:
            if not isinstance(body, bytes):
                body.close()

    def _read(self, response: HTTPResponse) -> Outcome | int:
        spool = Spool(self._attempt.folder / ".result")
        try:
            for chunk in chunks_of(response):
                try:
                    spool.add(chunk)
                except OSError as error:
                    return Released(f"the result cannot be kept in a file ({type(error).__name__})", counted=True)
                if spool.size > _TEXT_BYTES and not 200 <= response.status < 300:
                    break  # it is no result, and its text begins here
            data = spool.data()
        finally:
            spool.close()
        kind = response.headers.get("Content-Type") or "application/octet-stream"
        if 200 <= response.status < 300 and not self._has_failed(data):
            encoding = response.headers.get("Content-Encoding", "")
            return Completed(None if response.status == 204 else data, kind, encoding)
        self.text = self.text or (text_of(kind, data) if isinstance(data, bytes) else "")
        with suppress(ValueError):
            self.retry_after_s = min(_LONGEST_PAUSE_S, max(0.0, float(response.headers.get("Retry-After", ""))))
        return 422 if 200 <= response.status < 300 else response.status

    def _has_failed(self, data: Data) -> bool:
        """Whether an answer says so in its JSON, and why."""
        name, _, value = self._failure
        told: Any = None
        if name and isinstance(data, bytes):
            with suppress(ValueError, RecursionError):
                told = json.loads(data)
        members = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        if str(members.get(name)) != value:
            return False
        self.text = str(members.get("error") or members.get("detail") or value)[:500]
        return True


class _Unreached(Exception):
    """The server did not get the task."""


def main(argv: Sequence[str]) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="taskbackbone sidecar", description="Make any HTTP server a task service.")
    add = parser.add_argument
    add("--upstream", metavar="URL", required=True, help="the server; with a path, all tasks go there")
    add("--slots", metavar="N", type=int, default=1, help="how many tasks it gets at a time (default: 1)")
    add(
        "--busy", metavar="STATUS", type=int, action="append", default=[], help="says, as 429 and 503, it has no room"
    )
    add("--ready", metavar="PATH", default="", help="is answered 2xx if it can work (default: it listens)")
    add("--failure", metavar="MEMBER=TEXT", default="", help="JSON of a 2xx answer that has failed")
    add("--timeout", metavar="S", type=float, help="a task that takes longer fails")
    add("--max-body-bytes", metavar="N", type=int, help="the largest body")
    add("--drain", metavar="S", type=float, default=20.0, help="how long tasks go on after SIGTERM (default: 20)")
    add("--host", help="the address to listen at (SERVICE_HOST, or 127.0.0.1)")
    add("--port", type=int, help="the port (PORT, or 8080)")
    options = parser.parse_args(argv)
    try:
        upstream = Upstream(options.upstream, options.slots, (*BUSY, *options.busy), options.ready, options.failure)
    except ValueError as error:
        parser.error(str(error))
    from ._main import listen, serve, supervise
    from ._task import set_up_logs

    def find(path: str) -> Endpoint:
        return Endpoint(path, (), options.max_body_bytes, options.timeout)

    set_up_logs()
    serve(
        listen(options.host, options.port),
        lambda: supervise(upstream, drain_s=options.drain, cancel_grace_s=0.0),
        lambda supervisor: App(supervisor, find),
    )
    return 0
