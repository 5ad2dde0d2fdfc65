"""A service within another ASGI app, such as one of FastAPI or Starlette.

    app = FastAPI(lifespan=service.asgi.lifespan)
    app.mount("/models", service.asgi)

The app's process is the supervisor then, and its workers import the module in which the service was made. They end
with it. So a script that starts its server itself does so below `if __name__ == "__main__":`.

With the lifespan, tasks get `drain_s` when the app stops. Without it, the service starts at the first request, and
the tasks that are at work when the app ends begin again once their leases are over. `service.asgi` can also be served
as it
is: `uvicorn words:service.asgi`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from ._main import finder, runner_of, supervise
from ._server import App, Receive, Send
from ._worker import LAUNCH

if TYPE_CHECKING:
    from ._supervisor import Supervisor
    from .service import TaskService

_LOADING_S = 20.0
"""How long a request waits for the first worker, at most."""


class Mounted:
    """The ASGI app of a service, which starts by itself."""

    def __init__(self, service: TaskService) -> None:
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[Supervisor] | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        supervisor = await self._supervisor()
        if scope["method"] == "POST":
            await supervisor.loaded(_LOADING_S)
        await App(supervisor, finder(self._service))(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncGenerator[None, None]:
        """Starts the service, and stops it at the end of the block."""
        await self._supervisor()
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Lets tasks end or gives them back, and ends the workers."""
        starting, self._starting = self._starting, None
        if starting is not None:
            supervisor = await starting
            await supervisor.drain(asyncio.Event())
            await supervisor.stop()

    async def _supervisor(self) -> Supervisor:
        loop = asyncio.get_running_loop()
        if self._starting is None or self._loop is not loop:
            if LAUNCH is not None:
                raise RuntimeError('A worker serves nothing: start your server below if __name__ == "__main__".')
            self._loop, self._starting = loop, loop.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> Supervisor:
        service = self._service
        runner = runner_of(service, is_mounted=True)
        supervisor = supervise(runner, drain_s=service.drain_s, cancel_grace_s=service.cancel_grace_s)
        await supervisor.start()
        return supervisor

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._supervisor()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        with suppress(asyncio.CancelledError):
            await self.stop()
        await send({"type": "lifespan.shutdown.complete"})
