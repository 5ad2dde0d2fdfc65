"""A model service that means harm: it sends what it likes for as long as anybody listens."""

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
    """Until everybody had hung up."""
    _hung_up: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def wait_until_hung_up(self) -> None:
        """Returns once the client has closed the connection.

        Raises:
            AssertionError: it goes on listening.
        """
        assert self._hung_up.acquire(timeout=PATIENCE_S), "the client listens for ever"


@contextmanager
def evil_backend(answer: Callable[[], Iterator[bytes]]) -> Iterator[Evil]:
    """Sends each connection the parts that *answer* yields, once something was asked."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        evil = Evil(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            with suppress(OSError):  # closed: it is over
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=partial(speak, connection), daemon=True).start()

        def speak(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # it hung up
                connection.recv(65536)
                for part in answer():
                    connection.sendall(part)
                    evil.sent_bytes += len(part)
                    if over.is_set():
                        return
                while connection.recv(65536):
                    pass
            evil._hung_up.release()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield evil
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
