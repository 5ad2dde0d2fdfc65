"""A malicious model service: it sends what it likes for as long as the client reads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from tests.waiting import PATIENCE_S


@dataclass
class Evil:
    url: str
    sent_bytes: int = 0
    """All bytes that were sent before the clients closed their connections."""
    _closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def wait_until_closed(self) -> None:
        """Returns once the client has closed the connection.

        Raises:
            AssertionError: the client keeps the connection open.
        """
        assert self._closed.acquire(timeout=PATIENCE_S), "the client keeps the connection open"


@contextmanager
def evil_backend(answer: Callable[[], Iterator[bytes]]) -> Iterator[Evil]:
    """A server that answers the first request of each connection with the parts that *answer* yields."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        evil = Evil(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=partial(speak, connection), daemon=True).start()

        def speak(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the client has closed the connection
                connection.recv(65536)
                for part in answer():
                    connection.sendall(part)
                    evil.sent_bytes += len(part)
                    if over.is_set():
                        return
                while connection.recv(65536):
                    pass
            evil._closed.release()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield evil
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
