"""``python -m local.gateway``: serves the policies before a function app until SIGTERM or SIGINT.

The settings come by the variable ``GATEWAY`` in JSON, since there are secrets among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from local.functions_host.__main__ import listen
from local.functions_host.errors import HostError
from local.gateway.configuration import Subscription
from local.gateway.errors import GatewayError
from local.gateway.server import Gateway


class _Server(uvicorn.Server):
    """Prints when it is ready, and ends if the process that runs the expressions does."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,  # type: ignore[arg-type]
                interface="asgi3",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=True,
                timeout_graceful_shutdown=5,
            )
        )
        self._gateway = gateway
        self.has_lost_evaluator = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watch = asyncio.create_task(self._end_with_evaluator())
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"READY http://127.0.0.1:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        await super().shutdown(sockets)

    async def _end_with_evaluator(self) -> None:
        await self._gateway.evaluator.ended()
        self.has_lost_evaluator = self.should_exit = True


def main() -> None:
    settings = json.loads(os.environ["GATEWAY"])
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        gateway = Gateway(
            Path(settings["apis"]),
            app_url=settings["app_url"],
            named_values=settings["named_values"],
            subscriptions=[Subscription(**one) for one in settings["subscriptions"]],
            services=settings["services"],
            tier=settings["tier"],
            owner=settings["owner"],
            work=Path(settings["work"]),
        )
        listener = listen(settings["port"])
    except (GatewayError, HostError) as error:
        sys.exit(str(error))
    server = _Server(gateway)
    server.run([listener])
    if server.has_lost_evaluator:
        sys.exit("The mono process that runs the expressions has ended.")


if __name__ == "__main__":
    main()
