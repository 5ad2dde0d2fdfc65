"""Support for the tests of the development host: build, serve and call apps."""

from collections.abc import Callable
from typing import Any

import azure.functions as func
import httpx

from local.functions_host import FunctionsHost, Keys

KEYS = Keys(host="host-key", master="master-key", eventgrid="eventgrid-key", functions={"own": "own-key"})
MASTER = {"x-functions-key": "master-key"}


def http_app(*handlers: Callable[..., Any], **route: Any) -> func.FunctionApp:
    """An app of anonymous HTTP functions, each at `/api/<its name>` unless `route` says otherwise."""
    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
    for handler in handlers:
        app.route(**route)(handler)
    return app


def client(host: FunctionsHost) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(host.asgi, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:7071")
