"""`python -m local.functions_host`: serves the function app of a directory until SIGTERM or SIGINT."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local.functions_host.errors import HostError
from local.functions_host.host import FunctionsHost, Limits, create_host
from local.functions_host.http_messages import REQUEST_LINE_BYTES
from local.functions_host.keys import Keys
from local.functions_host.leases import BlobLeases
from local.functions_host.script_root import import_function_app, load_host_json, load_local_settings
from local.functions_host.worker_telemetry import configure_telemetry

_KEEP_ALIVE_S = 130  # Kestrel's
_TELEMETRY_MODE = "AzureFunctionsJobHost__telemetryMode"
_FRAMING = (b"content-length", b"transfer-encoding")


class _Protocol(HttpToolsProtocol):
    """Takes and refuses what Kestrel takes and refuses, of what the parser decides alone."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert self.parser is not None
        # For a Content-Length beside Transfer-Encoding.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True, lenient_chunked_length=True)
        self._is_reading_on = False

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def _feed(self, data: bytes) -> None:
        """Gives *data* to the parser, which ends a message at the head if it has an `Upgrade`, whatever to. Kestrel
        ignores it and reads on.
        """
        assert self.parser is not None
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._read_on()
            else:
                return

    def _read_on(self) -> None:
        """Has the parser take what follows for the body that the last head announced: by another head that says no
        more than that.
        """
        assert self.parser is not None
        framing = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] in _FRAMING)
        self._is_reading_on = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._is_reading_on = False

    def on_message_begin(self) -> None:
        if not self._is_reading_on:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_reading_on:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_reading_on:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_reading_on:
            # The parser of URLs fails at 64 KiB. One that is cut here is still too long, and is refused for that.
            self.url = self.url[:REQUEST_LINE_BYTES]
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        assert self.parser is not None
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class HostServer(uvicorn.Server):
    """Serves a host over HTTP. Prints when it is ready, and drains the host while it waits for the responses under
    way.
    """

    def __init__(self, host: FunctionsHost) -> None:
        super().__init__(
            uvicorn.Config(
                host.asgi,
                interface="asgi3",
                http=_Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                # For clients that still send a request. The host drains the rest.
                timeout_graceful_shutdown=int(Limits().drain_s) + 1,
            )
        )
        self._host = host

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"READY http://127.0.0.1:{port}", file=sys.__stdout__, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(self._host.drain(), super().shutdown(sockets))


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m local.functions_host", description=__doc__)
    parser.add_argument("--script-root", type=Path, default=Path(), help="the directory with function_app.py")
    parser.add_argument("--port", type=int, default=7071, help="0 takes a free port")
    arguments = parser.parse_args()

    # When uvicorn has drained, it passes the signal that stopped it on to these handlers: the exit that we want.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    sys.stdout = sys.stderr  # standard output carries only the READY line, not the output of the app

    try:
        script_root = arguments.script_root.resolve()
        load_local_settings(script_root, os.environ)
        if not any(name.lower() == _TELEMETRY_MODE.lower() for name in os.environ):
            # This host sends no telemetry of its own, so the app's spans are all that tells of a request.
            os.environ[_TELEMETRY_MODE] = "Default"
        host_json = load_host_json(script_root, os.environ)
        keys, made_up = Keys.from_environment(os.environ)
        configure_telemetry(os.environ)
        app = import_function_app(script_root)
        host = create_host(app, keys=keys, host_json=host_json, leases=BlobLeases.from_settings(os.environ))
        listener = listen(arguments.port)
    except HostError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    for variable, key in made_up.items():
        print(f"{variable} is not set; for this run it is {key}", file=sys.stderr)
    try:
        HostServer(host).run([listener])
    finally:
        if host.has_busy_threads:
            sys.stderr.flush()
            os._exit(0)
    sys.exit(0)


def listen(port: int) -> socket.socket:
    """Returns a bound socket. Raises `HostError` if the port is taken."""
    # socket.create_server names no protocol, and asyncio turns Nagle's algorithm off only for sockets that name TCP.
    # With the algorithm on, a response's body would wait until the client has acknowledged its head.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise HostError(f"Port {port} cannot be had: {error.strerror}.") from error
    return listener


if __name__ == "__main__":
    main()
