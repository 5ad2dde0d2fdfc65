"""Hostile model services in one process: ``python -m bench.flooder --ports 9000 9001 9002``.

``PUT /NUMBER`` to the first port says which of the ``FLOODS`` the others answer with from then on; one more than
there are: a short result. ``GET /`` says how often they were called since, and how many calls they are answering. A
path with ``/slow/`` in it is answered with the result after ``ACCEPTS_AFTER_S``, whatever the others get.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from local.processes import ChildProcess, free_port
from local.stack import ROOT

_PIECE_BYTES: Final = 64 * 1024
_BETWEEN_BYTES_S: Final = 0.001
_LONGEST_S: Final = 30.0
_RESULT: Final = b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\n"
_SHORT: Final = b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
ACCEPTS_AFTER_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Flood:
    """What a service answers: *start* once, then *repeated* until nobody listens any more."""

    start: bytes
    repeated: bytes
    trickles: bool = False
    """Whether it comes byte by byte, a packet each."""


FLOODS: Final[Mapping[str, Flood]] = {
    "100 Continue": Flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": Flood(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "blanks in a header": Flood(b"HTTP/1.1 200 OK\r\nA:", b" "),
    "a body of an error": Flood(b"HTTP/1.1 500 No\r\n\r\n", b"x"),
    "a result": Flood(_RESULT + b"\r\n", b"x"),
    "a result in chunks of a byte": Flood(_RESULT + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "headers, byte by byte": Flood(b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 8000 + b"\r\n", trickles=True),
    "a result, byte by byte": Flood(_RESULT + b"\r\n", b"x", trickles=True),
    "an accepted task's answer, byte by byte": Flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x", trickles=True),
}


class FlooderProcess(ChildProcess):
    """
    Parameters:
        services: how many there are, each on a port of its own.
    """

    def __init__(self, directory: Path, services: int) -> None:
        self._ports = [free_port() for _ in range(services + 1)]
        super().__init__(
            "the flooding backends",
            [sys.executable, "-m", "bench.flooder", "--ports", *map(str, self._ports)],
            log_path=directory / "flooder.log",
            environment={"PYTHONPATH": str(ROOT)},
        )

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports[1:]]

    def answer_with(self, name: str) -> None:
        """One of the ``FLOODS``; what is being sent ends."""
        self._set([*FLOODS].index(name))

    def be_quiet(self) -> None:
        """End what is being sent, and answer with short results."""
        self._set(len(FLOODS))

    def calls(self) -> tuple[int, int]:
        """How many came since, and how many are being answered."""
        came, answered = httpx.get(self._control).raise_for_status().json()
        return came, answered

    @property
    def _control(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def _set(self, number: int) -> None:
        httpx.put(f"{self._control}/{number}").raise_for_status()


class _Flooder:
    def __init__(self) -> None:
        self._flood: Flood | None = None
        self._lock = threading.Lock()
        self._came = self._answered = 0
        self._connections = set[socket.socket]()

    def control(self, connection: socket.socket) -> None:
        method, target, *_ = connection.recv(_PIECE_BYTES).split()
        with self._lock:
            if method == b"PUT":
                self._flood = dict(enumerate(FLOODS.values())).get(int(target.removeprefix(b"/")))
                self._came = 0
                for each in self._connections:  # it may wait for a long time until more is read
                    with suppress(OSError):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        each.shutdown(socket.SHUT_RDWR)
            calls = json.dumps([self._came, self._answered]).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(calls) + calls)

    def answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = connection.recv(_PIECE_BYTES)
        with self._lock:
            flood = self._flood
            self._came += 1
            self._answered += 1
            self._connections.add(connection)
        try:
            target = request.partition(b"\r\n")[0].split()[1]
            if b"/slow/" in target:
                time.sleep(ACCEPTS_AFTER_S)
                connection.sendall(_RESULT + _SHORT)
            elif flood is None:
                connection.sendall(_RESULT + _SHORT)
            else:
                self._send(connection, flood)
        finally:
            with self._lock:
                self._answered -= 1
                self._connections.discard(connection)

    def _send(self, connection: socket.socket, flood: Flood) -> None:
        end_s = time.monotonic() + _LONGEST_S
        connection.sendall(flood.start)
        while self._flood is flood and time.monotonic() < end_s:
            if flood.trickles:
                for byte in flood.repeated:
                    connection.send(bytes((byte,)))
                    time.sleep(_BETWEEN_BYTES_S)
            else:
                connection.sendall(flood.repeated * (_PIECE_BYTES // len(flood.repeated)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flooder", description=__doc__)
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    os.nice(19)  # in earnest they are other machines
    ports = parser.parse_args().ports
    flooder = _Flooder()
    for number, port in enumerate(ports):
        server = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=_serve, args=(server, flooder.answer if number else flooder.control)).start()
    print(f"READY http://127.0.0.1:{ports[0]}", flush=True)


def _serve(server: socket.socket, serve_one: Callable[[socket.socket], None]) -> None:
    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve_one(connection)

    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
