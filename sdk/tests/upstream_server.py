"""A synchronous HTTP server that knows nothing of tasks: what stands behind a sidecar in the tests.

The first word of a body says what it does: ``echo``, ``sleep SECONDS``, ``status NUMBER TEXT``, ``json JSON``,
``large``, ``nothing``, ``break``, ``short``. It works on ``SLOTS`` requests at a time and answers more with ``BUSY``.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOTS = threading.Semaphore(int(os.environ.get("SLOTS", "100")))
BUSY = int(os.environ.get("BUSY", "503"))
LARGE_BYTES = 3 * 1024**2


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, b"fine")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/redirected?") or self.path == "/redirected":
            self.answer(307, b"", Location=self.path.replace("/redirected", "/redirected/"))
        elif not SLOTS.acquire(blocking=False):
            self.answer(BUSY, b"full", **({"Retry-After": "0"} if BUSY == 429 else {}))
        else:
            try:
                self.work(body)
            finally:
                SLOTS.release()

    def work(self, body: bytes) -> None:
        words = body.split()
        what = words[0] if words else b""
        if what == b"sleep":
            deadline_s = time.monotonic() + float(words[1])
            while time.monotonic() < deadline_s:
                readable, _, _ = select.select([self.connection], [], [], 0.05)
                if readable and not self.connection.recv(1, socket.MSG_PEEK):
                    sys.stdout.write("the connection was closed\n")
                    sys.stdout.flush()
                    self.close_connection = True
                    return
            self.answer(200, body)
        elif what == b"status":
            self.answer(int(words[1]), b" ".join(words[2:]))
        elif what in (b"break", b"short"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            if what == b"short":
                self.wfile.write(b"x" * 50)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif what == b"large":
            self.answer(200, bytes(LARGE_BYTES))
        elif what == b"json":
            self.answer(200, body[5:], **{"Content-Type": "application/json"})
        elif what == b"nothing":
            self.answer(204)
        else:
            told = {name: value for name, value in self.headers.items() if name.lower() in ("traceparent", "taskid")}
            told = {f"X-Got-{name}": value for name, value in told.items()}
            self.answer(200, self.path.encode() + b" " + body, **told)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", **headers}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
