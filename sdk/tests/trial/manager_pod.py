"""A pod that keeps a server of its own, and reports by a `TaskManager`."""

from __future__ import annotations

import os
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from words import NoSuchWord, work

from taskbackbone import TaskManager
from taskbackbone.errors import BackboneError

SLOTS = 2
TOLD = {"slots": SLOTS, "instance": f"pod-{os.getpid()}"}
room = threading.Semaphore(SLOTS)
seen: set[tuple[str, str]] = set()


def work_on(manager: TaskManager, body: bytes, seconds: float) -> None:
    try:
        try:
            manager.update("at work")
            result = work(body, seconds)
        finally:
            room.release()
        manager.complete("", result)
    except NoSuchWord as error:
        manager.fail(str(error))
    except BackboneError as error:
        sys.stderr.write(f"task {manager.task_id}: {error}\n")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        key, status = (self.headers["taskId"], self.headers["X-Task-Attempt"]), 200
        if key not in seen:
            status = 202 if room.acquire(blocking=False) else 503
        if status == 202:
            seen.add(key)
            arguments = TaskManager.of(self.headers, **TOLD), body, float(query.get("seconds", ["0"])[0])
            threading.Thread(target=work_on, args=arguments, daemon=True).start()
        self.send_response(status)
        for name, value in {"X-Task-Slots": SLOTS, "X-Task-Instance": TOLD["instance"], "Content-Length": 0}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
