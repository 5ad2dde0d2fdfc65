"""A service within a Flask app: ``mount(app, service)``. Its workers import the module of the service.

Each process of the WSGI server is an instance with slots of its own, so one with threads is best: ``gunicorn
--workers 1 --threads 8 --graceful-timeout 40``, with more threads than slots and more seconds than ``drain_s``.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._worker import LAUNCH
from .asgi import Mounted

if TYPE_CHECKING:
    from .service import TaskService

_CHUNK_BYTES = 256 * 1024
_STOP_S = 5.0
_HEALTH = ("/livez", "/readyz", "/metrics")


def mount(app: Any, service: TaskService, prefix: str = "") -> None:
    """Adds the paths of the service and its ``/livez``, ``/readyz`` and ``/metrics`` to a Flask app, below *prefix*.
    It starts with the first request.
    """
    if LAUNCH is not None:
        return  # a worker serves nothing
    bridge = _Bridge(app, service, prefix)
    for path in (*service.routes, *_HEALTH):
        methods = ["GET"] if path in _HEALTH else ["POST"]
        app.add_url_rule(prefix + path, f"taskbackbone {prefix}{path}", bridge.view, methods=methods)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Some servers do not care for it, and would leave the workers behind.
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: Any) -> None:
    sys.exit(0)


class _Bridge:
    def __init__(self, app: Any, service: TaskService, prefix: str) -> None:
        self._app = app
        self._service = service
        self._prefix = prefix
        self._lock = threading.Lock()
        self._pid = 0
        self._running: tuple[asyncio.AbstractEventLoop, Mounted] | None = None

    def view(self) -> Any:
        from flask import request  # pyright: ignore[reportMissingImports]

        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path[len(self._prefix) :],
            "query_string": request.query_string,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
        }
        answer = _Answer(request.stream)
        loop, asgi = self._started()
        working = asyncio.run_coroutine_threadsafe(asgi(scope, answer.receive, answer.send), loop)
        working.add_done_callback(lambda _: answer.sent.put(None))
        begun = answer.sent.get()
        if begun is None:
            working.result()
            raise RuntimeError("the service has not answered")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in begun["headers"]]
        return self._app.response_class(answer.body(), status=begun["status"], headers=headers)

    def _started(self) -> tuple[asyncio.AbstractEventLoop, Mounted]:
        # In this process: a server may fork after the app is made.
        with self._lock:
            if self._running is None or self._pid != os.getpid():
                loop, asgi = self._running = asyncio.new_event_loop(), Mounted(self._service)
                self._pid = os.getpid()
                threading.Thread(target=loop.run_forever, name="taskbackbone", daemon=True).start()
                # atexit comes after the threads that report are ended.
                getattr(threading, "_register_atexit", atexit.register)(self._stop, loop, asgi, self._pid)
            return self._running

    def _stop(self, loop: asyncio.AbstractEventLoop, asgi: Mounted, pid: int) -> None:
        if pid == os.getpid():
            wait_s = self._service.drain_s + self._service.cancel_grace_s + _STOP_S
            asyncio.run_coroutine_threadsafe(asgi.stop(), loop).result(wait_s)


class _Answer:
    def __init__(self, stream: Any) -> None:
        self.sent: queue.Queue[Any] = queue.Queue()
        self._stream = stream
        self._is_read = False

    async def receive(self) -> dict[str, Any]:
        if self._is_read:
            await asyncio.Event().wait()  # WSGI does not tell when the caller goes away
        chunk: bytes = await asyncio.get_running_loop().run_in_executor(None, self._stream.read, _CHUNK_BYTES)
        self._is_read = not chunk
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.put(message)

    def body(self) -> Iterator[bytes]:
        while message := self.sent.get():
            yield message["body"]
