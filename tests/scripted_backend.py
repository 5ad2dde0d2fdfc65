"""A model service for tests that answers as a script says: real HTTP, no model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any, Self

from tests.waiting import PATIENCE_S

_HELD_AT_MOST_S = 10 * PATIENCE_S
"""A test that holds an answer for longer has failed already."""


@dataclass(frozen=True)
class Call:
    """One request that the backend got; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def task_id(self) -> str:
        return self.headers["taskid"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-task-attempt"])


@dataclass(frozen=True)
class Answer:
    """The answer is sent once ``hold`` is set; ``hang_up`` closes the connection within its first line. (The app
    repeats a call whose connection was used before and is closed without a byte of an answer.)"""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hold: threading.Event | None = None
    hang_up: bool = False
    break_off: bool = False
    """Whether the connection is closed a byte before the end of the body."""
    reason: str | None = None
    endless: bytes = b""
    """What is sent in place of all else, again and again until the caller hangs up."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 drops connections when many arrive at once, which then hang for seconds.
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


class ScriptedBackend:
    """Answers 200 to every POST and GET, unless a path was given other answers with :meth:`script`."""

    def __init__(self, port: int = 0) -> None:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size_bytes = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.path, headers, self.rfile.read(size_bytes))
                answer = backend._answer_to(call)
                if answer.hold is not None:
                    answer.hold.wait(_HELD_AT_MOST_S)
                if answer.hang_up:
                    self.close_connection = True
                    with suppress(ConnectionError):
                        self.wfile.write(b"HTTP/1.1 ")
                    return
                if answer.endless:
                    self.close_connection = True
                    with suppress(ConnectionError):
                        while True:
                            self.wfile.write(answer.endless)
                    return
                self.send_response(answer.status, answer.reason)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.break_off))
                self.close_connection = self.close_connection or answer.break_off
                with suppress(ConnectionError):  # the caller has hung up
                    self.end_headers()
                    self.wfile.write(answer.body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = _Server(("127.0.0.1", port), Handler)
        self._lock = threading.Lock()
        self._scripts: dict[str, list[Answer]] = {}
        self._on_call: dict[str, Callable[[Call], Answer | None]] = {}
        self._calls: dict[str, Queue[Call]] = {}
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, path: str, *answers: Answer) -> None:
        """Give these answers to the next calls of *path*, one each; repeat the last one for all later calls."""
        with self._lock:
            self._scripts[path] = list(answers)

    def react(self, path: str, reaction: Callable[[Call], Answer | None]) -> None:
        """Run *reaction* on each call of *path*, in the server's thread; None means an answer of 200."""
        with self._lock:
            self._on_call[path] = reaction

    def next_call(self, path: str, timeout_s: float = PATIENCE_S) -> Call:
        """Wait for the next call of *path* that no test has taken yet.

        Raises:
            AssertionError: no call came in time.
        """
        try:
            return self._calls_of(path).get(timeout=timeout_s)
        except Empty:
            raise AssertionError(f"{path} was not called within {timeout_s} s") from None

    def untaken(self, path: str) -> int:
        """The number of calls of *path* that no test has taken."""
        return self._calls_of(path).qsize()

    def _calls_of(self, path: str) -> Queue[Call]:
        with self._lock:  # two threads at once would make two queues for a new path, and one call would be lost
            return self._calls.setdefault(path, Queue())

    def _answer_to(self, call: Call) -> Answer:
        path = call.path.partition("?")[0]
        with self._lock:
            script = self._scripts.get(path)
            answer = (script.pop(0) if len(script) > 1 else script[0]) if script else None
            reaction = self._on_call.get(path)
        self._calls_of(path).put(call)
        return answer or (reaction(call) if reaction else None) or Answer()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="scripted backend", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
