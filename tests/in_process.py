"""The app's HTTP functions, called as the Functions host calls them, without a host: with what it would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import azure.functions as func

import backend_webhook
import cache_manager
import operator_console
import request_reporter
from shared.http.functions import HttpFunctions, Operation
from shared.services import ServicesByLoop
from shared.settings import Settings

ROOMS = (cache_manager, backend_webhook, request_reporter, operator_console)


class InProcessApp:
    """The functions of the four rooms that have any, by name."""

    def __init__(self, settings: Settings) -> None:
        self.services = ServicesByLoop(settings)
        app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
        for room in ROOMS:
            room.register(app, self.services)
        self.operations: Sequence[Operation] = HttpFunctions(app, self.services).operations
        self._functions: dict[str, Any] = {
            str(function.get_function_name()): function.get_user_function()
            for function in app.get_functions()
            if function.is_http_function()
        }

    async def call(
        self,
        function: str,
        method: str,
        *,
        url: str = "http://127.0.0.1/api/x",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        route_params: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> func.HttpResponse:
        request = func.HttpRequest(method, url, headers=headers, params=params, route_params=route_params, body=body)
        context = SimpleNamespace(trace_context=SimpleNamespace(trace_parent="", trace_state=""))
        return await self._functions[function](request, context)
