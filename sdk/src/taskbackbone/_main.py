"""A service as a process of its own: `TaskService.run`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Callable

from ._pool import ProcessPool, launcher, mounted_launcher
from ._task import set_up_logs, trace_if_configured
from ._threads import ThreadPool
from ._worker import leave

if TYPE_CHECKING:
    from ._attempts import Runner
    from ._server import App, Endpoint
    from ._supervisor import Supervisor
    from .service import TaskService

_HEAVY = {"jax", "onnxruntime", "sklearn", "tensorflow", "torch", "transformers"}

logger = logging.getLogger("taskbackbone")


def main(service: TaskService, host: str | None, port: int | None) -> None:
    """Serves until SIGTERM or SIGINT. Raises SystemExit."""
    set_up_logs()
    sock = listen(host, port)
    runner = runner_of(service, is_mounted=False)
    if isinstance(runner, ProcessPool):
        runner.spawn_early()  # the workers load while this process loads its server
        for name in _HEAVY & sys.modules.keys():
            logger.info("%s is loaded here too: imported in the setup function, only workers would load it", name)
    from ._server import App

    try:
        serve(
            sock,
            lambda: supervise(runner, drain_s=service.drain_s, cancel_grace_s=service.cancel_grace_s),
            lambda supervisor: App(supervisor, finder(service)),
            lambda: runner.is_given_up,
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if isinstance(runner, ThreadPool) and runner.has_left_behind:
        logger.warning("the process ends though functions still run")
        leave(0)  # Python would wait for them


def runner_of(service: TaskService, *, is_mounted: bool) -> ProcessPool | ThreadPool:
    """What does the work of a service."""
    if service.isolation == "thread":
        return ThreadPool(service)
    launch = mounted_launcher if is_mounted else launcher
    shape = service.workers, service.concurrency, service.cancel_grace_s
    return ProcessPool(*shape, launch(service), gives_up=not is_mounted)


def listen(host: str | None, port: int | None) -> socket.socket:
    """Takes the address. Raises SystemExit if it cannot."""
    host = host or os.environ.get("SERVICE_HOST") or "127.0.0.1"
    text = os.environ.get("PORT") or "8080" if port is None else str(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sets TCP_NODELAY
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(text)))
        sock.listen(2048)
    except (OSError, ValueError, OverflowError) as error:
        raise SystemExit(f"The service cannot listen at {host}, port {text}: {error}") from None
    return sock


def supervise(runner: Runner, *, drain_s: float, cancel_grace_s: float) -> Supervisor:
    """A supervisor by the environment: `BACKBONE_URL`, `BACKBONE_KEY`, `SERVICE_CLUSTER`.

    Raises:
        ValueError: `BACKBONE_URL` is no URL.
    """
    from ._core import Backbone
    from ._supervisor import Supervisor

    trace_if_configured()
    backbone = None
    if os.environ.get("BACKBONE_URL"):
        backbone = Backbone()
    else:
        logger.warning("BACKBONE_URL is not set: the service can only be called directly")
    cluster = os.environ.get("SERVICE_CLUSTER", "")
    return Supervisor(runner, backbone, drain_s=drain_s, cancel_grace_s=cancel_grace_s, cluster=cluster)


def finder(service: TaskService) -> Callable[[str], Endpoint | None]:
    """Finds the endpoint of a path of the service."""
    from ._server import Endpoint

    endpoints = {
        route.path: Endpoint(route.path, route.content_types, route.max_body_bytes, route.timeout_s, route.stall_s)
        for route in service.routes.values()
    }
    return endpoints.get


def serve(
    sock: socket.socket,
    make_supervisor: Callable[[], Supervisor],
    make_app: Callable[[Supervisor], App],
    is_given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Runs a supervisor and its HTTP server until SIGTERM or SIGINT.

    Raises:
        SystemExit: with 1, if the runner has given up.
    """
    if asyncio.run(_serve(sock, make_supervisor, make_app, is_given_up)):
        logger.error("no worker can be set up; the log says why")
        sys.exit(1)


async def _serve(
    sock: socket.socket,
    make_supervisor: Callable[[], Supervisor],
    make_app: Callable[[Supervisor], App],
    is_given_up: Callable[[], bool],
) -> bool:
    supervisor = make_supervisor()
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() or number == signal.SIGINT:
            hurry.set()  # nobody wants to wait at a terminal
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await supervisor.start()
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves the signals alone: this process has its own way to stop."""

        def install_signal_handlers(self) -> None: ...

        def capture_signals(self) -> Any:
            return nullcontext()

    config = uvicorn.Config(
        make_app(supervisor), log_config=None, access_log=False, lifespan="off", timeout_keep_alive=75, ws="none"
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # this process says itself that it serves and stops
    server = Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    address = sock.getsockname()
    logger.info("serving at http://%s:%s", f"[{address[0]}]" if ":" in address[0] else address[0], address[1])
    has_given_up = False
    stopped = asyncio.ensure_future(stopping.wait())
    while not stopping.is_set():
        supervisor.changed.clear()
        if is_given_up():
            has_given_up = True
            break
        changed = asyncio.ensure_future(supervisor.changed.wait())
        await asyncio.wait({stopped, changed, serving}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        if serving.done():
            break
    stopped.cancel()
    if not has_given_up:
        await supervisor.drain(hurry)
    server.should_exit = True
    server.force_exit = has_given_up
    await serving
    await supervisor.stop()
    return has_given_up
