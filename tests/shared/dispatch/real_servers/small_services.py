"""Services whose server is a library or a few lines: ``python -m tests.shared.dispatch.real_servers.small_services
KIND PORT``."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tornado.web import Application, RequestHandler, stream_request_body

REFUSAL = b"refused by design"


class _Http10(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        status = self.path.rpartition("/")[2]
        if status.isdigit():
            self._answer(int(status), REFUSAL)
        else:
            self._answer(200, str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


class _Http11(_Http10):
    protocol_version = "HTTP/1.1"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@stream_request_body
class _Tornado(RequestHandler):
    def prepare(self) -> None:
        self.size_bytes = 0
        status = self.request.path.rpartition("/")[2]
        if status.isdigit():
            self.set_status(int(status))
            self.set_header("Content-Type", "text/plain")
            self.finish(REFUSAL)

    def data_received(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)

    def post(self) -> None:
        self.finish(str(self.size_bytes))


async def tornado(port: int) -> None:
    Application([("/.*", _Tornado)]).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


def _drain_and_reset(connection: socket.socket) -> None:
    """As Kestrel does: read for five seconds at most, then reset."""
    until_s = time.monotonic() + 5
    connection.settimeout(5)
    while time.monotonic() < until_s and connection.recv(65536):
        pass
    _reset(connection)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_kept: list[socket.socket] = []
"""Connections that are neither read nor closed."""


def _serve(port: int, after_refusal: Callable[[socket.socket], object]) -> None:
    def speak(connection: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            status = head.split()[1].rpartition(b"/")[2]
            if status.isdigit():
                answer = b"HTTP/1.1 %s No\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
                connection.sendall(answer % (status, len(REFUSAL), REFUSAL))
                after_refusal(connection)
            else:
                length = re.search(rb"(?i)content-length: (\d+)", head)
                left_bytes = int(length[1]) if length else 0
                while left_bytes:
                    left_bytes -= len(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        if connection not in _kept:
            connection.close()

    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            threading.Thread(target=speak, args=(listener.accept()[0],), daemon=True).start()


SERVICES: dict[str, Callable[[int], object]] = {
    "http.server 1.0": lambda port: _Server(("127.0.0.1", port), _Http10).serve_forever(),
    "http.server 1.1": lambda port: _Server(("127.0.0.1", port), _Http11).serve_forever(),
    "tornado": lambda port: asyncio.run(tornado(port)),
    "drains and resets": lambda port: _serve(port, _drain_and_reset),
    "resets": lambda port: _serve(port, _reset),
    "neither reads nor closes": lambda port: _serve(port, _kept.append),
}

if __name__ == "__main__":
    SERVICES[sys.argv[1]](int(sys.argv[2]))
