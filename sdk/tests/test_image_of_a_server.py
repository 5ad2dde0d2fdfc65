"""What images/served.Dockerfile starts: a server and the sidecar before it, as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
import requests
from conftest import REPOSITORY

from taskbackbone._dispatch import free_port

SERVED = REPOSITORY / "images" / "served.py"
PATIENCE_S = 60
SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Upper(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"end":
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.upper())

HTTPServer(("127.0.0.1", int(sys.argv[1])), Upper).serve_forever()
"""


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S).status_code == 200
    except requests.ConnectionError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """The two of them: their process, the sidecar's port, and the server's."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    port, upstream = free_port(), free_port()
    told = {"SIDECAR": f"--upstream http://127.0.0.1:{upstream} --slots 2", "PORT": str(port)}
    command = [sys.executable, str(SERVED), sys.executable, str(script), str(upstream)]
    process = subprocess.Popen(command, env={**os.environ, **told}, start_new_session=True)
    try:
        eventually(lambda: is_ready(port) or process.poll() is not None)
        assert process.poll() is None
        yield process, port, upstream
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_call_reaches_the_server_through_the_sidecar(served: tuple[subprocess.Popen[bytes], int, int]) -> None:
    _, port, _ = served
    assert requests.post(f"http://127.0.0.1:{port}/v1/any", data=b"tide", timeout=PATIENCE_S).content == b"TIDE"


def test_both_end_when_the_container_is_stopped(served: tuple[subprocess.Popen[bytes], int, int]) -> None:
    process, port, upstream = served
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert not listens(port)
    assert not listens(upstream)


def test_the_sidecar_ends_with_a_server_that_ends_by_itself(
    served: tuple[subprocess.Popen[bytes], int, int],
) -> None:
    process, port, _ = served
    requests.post(f"http://127.0.0.1:{port}/v1/any", data=b"end", timeout=PATIENCE_S)
    assert process.wait(PATIENCE_S) == 3
    assert not listens(port)
