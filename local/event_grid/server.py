"""The HTTP server that the application runs in."""

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local.event_grid.app import ABORT_EXTENSION


def listen(port: int) -> tuple[socket.socket, str]:
    """Opens a listening socket on the loopback interface; returns it with its URL. Port 0 takes a free port."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """Serves `app`; calls `on_ready` once it accepts connections."""

    def __init__(self, app: ASGIApp, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_AbortableProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


class _AbortableProtocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: {"abort": self.transport.abort}}
