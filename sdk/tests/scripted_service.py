"""A model service for tests that accepts what comes, or answers as a test says; it works on nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any, Callable

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Dispatch:
    """A task as the service got it; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def task_id(self) -> str:
        return self.headers["taskid"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-task-attempt"])


@dataclass(frozen=True)
class Given:
    """An answer to a dispatch."""

    status: int = 202
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class ScriptedService:
    """Listens on a port of 127.0.0.1; what came is in ``dispatches``."""

    def __init__(self, port: int = 0, answer: Callable[[Dispatch], Given] = lambda dispatch: Given()) -> None:
        self.dispatches: Queue[Dispatch] = Queue()
        self.answer = answer
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                dispatch = Dispatch(self.path, headers, self.rfile.read(int(headers["content-length"])))
                service.dispatches.put(dispatch)
                given = service.answer(dispatch)
                self.send_response(given.status)
                for name, value in {"Content-Length": str(len(given.body)), **given.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(given.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self) -> Dispatch:
        return self.dispatches.get(timeout=PATIENCE_S)

    def __enter__(self) -> ScriptedService:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
