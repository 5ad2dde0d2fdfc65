"""Runs the sample model service: `python -m local.sample_model --port 0`."""

import argparse
import logging
import os
import signal
import socket
import sys

import httpx
import uvicorn
from threadpoolctl import threadpool_limits

from local.sample_model.service import ModelService, RequestReporter
from local.sample_model.task_manager import TaskManager

_CALL_TIMEOUT_S = 30
_SHUTDOWN_GRACE_S = 5


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print(f"READY http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.sample_model", description="The sample model service.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free port")
    parser.add_argument("--max-concurrent", type=int, default=1, help="requests at a time; it refuses more with 503")
    arguments = parser.parse_args()

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses, which hold the function keys
    # One core for each concurrent request: of the libraries that are loaded, and of what scikit-learn will load.
    threadpool_limits(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    client = httpx.AsyncClient(timeout=_CALL_TIMEOUT_S, trust_env=False)
    try:
        tasks = TaskManager(
            client,
            upsert_url=os.environ["CACHE_CONNECTOR_UPSERT_URI"],
            get_url=os.environ["CACHE_CONNECTOR_GET_URI"],
            backbone_url=os.environ["BACKBONE_URL"].rstrip("/"),
            backbone_key=os.environ["BACKBONE_KEY"],
        )
    except KeyError as missing:
        sys.exit(f"The environment variable {missing.args[0]} is not set.")
    reporter = RequestReporter(
        client, os.environ.get("REQUEST_REPORTER_URI"), os.environ.get("SERVICE_CLUSTER", "local")
    )
    service = ModelService(tasks, reporter, max_concurrent=arguments.max_concurrent)

    # Once uvicorn has stopped, it raises the signal that stopped it again. A requested stop is no failure.
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda *_: None)
    config = uvicorn.Config(service.app(), log_config=None, timeout_graceful_shutdown=_SHUTDOWN_GRACE_S)
    _Server(config).run([socket.create_server(("127.0.0.1", arguments.port), backlog=2048)])


if __name__ == "__main__":
    main()
