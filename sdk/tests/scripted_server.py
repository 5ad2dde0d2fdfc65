"""An HTTP server that does to each request what its script says, down to the last byte and the broken connection."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 60.0


@dataclass
class Request:
    """What has arrived; header names are in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Deed = Callable[[socket.socket, Request], bool]
"""Answers a request; says whether the connection stays open."""


def answer(
    status: int = 200,
    body: bytes | str | Mapping[str, Any] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    announced: int | None = None,
    close: bool = False,
) -> Deed:
    """A whole answer, or one that breaks off, if more bytes are *announced* than there are."""
    if isinstance(body, Mapping):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    ends = close or announced is not None
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(content) if announced is None else announced}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Connection: close"] if close else []

    def deed(connection: socket.socket, request: Request) -> bool:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        return not ends

    return deed


def raw(content: bytes, *, close: bool = True) -> Deed:
    """These bytes, and the end of the connection."""

    def deed(connection: socket.socket, request: Request) -> bool:
        connection.sendall(content)
        return not close

    return deed


def reset(connection: socket.socket, request: Request) -> bool:
    """No answer, but a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    return False


@dataclass
class ScriptedServer:
    """Does one deed after the other, whoever calls; the last one stays. ``requests`` are those that came."""

    deeds: list[Deed]
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> ScriptedServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.connections: list[socket.socket] = []
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._listener.close()
        for connection in self.connections:
            connection.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while request := _read(reader):
                with self._lock:
                    self.requests.append(request)
                    deed = self.deeds.pop(0) if len(self.deeds) > 1 else self.deeds[0]
                if not deed(connection, request):
                    break
        except OSError:
            pass
        finally:
            reader.close()
            connection.close()


def _read(reader: Any) -> Request | None:
    first = reader.readline().decode("latin-1").split()
    if len(first) < 2:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    return Request(first[0], first[1], headers, body)
