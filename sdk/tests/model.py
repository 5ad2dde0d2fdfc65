"""A model service whose answers the tests give."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import NamedTuple

from conftest import Place


class Dispatch(NamedTuple):
    """A task as it came; header names are in small letters."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def task_id(self) -> str:
        return self.headers["taskid"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-task-attempt"])


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def done(body: bytes = b"", content_type: str = "application/json", text: str = "") -> Reply:
    """The task's end, with its result."""
    return Reply(200, {"X-Task-Complete": text, "Content-Type": content_type}, body)


ACCEPTED = Reply(202, {}, b"")
BUSY = Reply(503, {}, b"")


class Model:
    """What a test does with the tasks of *path* and of the paths below. ``reply`` may be replaced at any time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reply: Callable[[Dispatch], Reply] = lambda dispatch: ACCEPTED
        self.dispatches: Queue[Dispatch] = Queue()


class Models:
    """Listens at *place* for the models of all tests. A path without a model is busy, and so its tasks wait."""

    def __init__(self, place: Place) -> None:
        self._path = place.path
        self._numbers = itertools.count()
        self._models: dict[str, Model] = {}
        models = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = models.reply(Dispatch(self.path, headers, body))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", place.port), Handler)
        self._server.daemon_threads = True

    def reply(self, dispatch: Dispatch) -> Reply:
        number = dispatch.path[len(self._path) + 1 :].partition("/")[0].partition("?")[0]
        model = self._models.get(number)
        if model is None:
            return BUSY
        reply = model.reply(dispatch)
        model.dispatches.put(dispatch)
        return reply

    def new_path(self) -> str:
        """A path of a test's own, without a model."""
        return f"{self._path}/{next(self._numbers)}"

    @contextmanager
    def model(self) -> Iterator[Model]:
        path = self.new_path()
        number = path.rpartition("/")[2]
        self._models[number] = Model(path)
        yield self._models[number]
        del self._models[number]

    def __enter__(self) -> Models:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
