"""The host: an ASGI app that serves one function app, its timers, its webhooks and its admin endpoints."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import azure.functions as func

from local.functions_host.clock import Clock, SystemClock
from local.functions_host.errors import HostError
from local.functions_host.eventgrid_webhook import handle_delivery
from local.functions_host.http_messages import (
    BodyTooLarge,
    ClientGone,
    Receive,
    Refused,
    Request,
    Response,
    Scope,
    Send,
    http_datum_value,
)
from local.functions_host.indexing import TIMER_TRIGGER, Function, index_functions
from local.functions_host.invocation import InvocationFailed, Invoker
from local.functions_host.keys import Keys
from local.functions_host.leases import LeaseStore, TimerLease, end_process
from local.functions_host.routes import Router
from local.functions_host.schedules import parse_time_span
from local.functions_host.throttle import Buffer, Throttle, TooBusy
from local.functions_host.timers import Timer, timer_argument

_log = logging.getLogger("local.functions_host")
_LARGE_BYTES = 64 * 1024
_FUNCTION_TIMEOUT = "00:30:00"
_BUILT_IN_PATHS = ("/admin/", "/runtime/")
_ADMIN_FUNCTIONS = "/admin/functions"
_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that Azure sets for a request and a shutdown."""

    body_bytes: int = 100 * 1024 * 1024
    response_s: float = 230
    """After this time the platform's load balancer gives up on a response; the function goes on."""
    drain_s: float = 30
    buffered_bytes: int = 768 * 1024 * 1024
    """Limits all bodies together. The real host has no such limit, but it is a process separate from the app's."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Returns Azure's limits, with that on a body as the app setting has it. Raises `HostError`."""
        text = environment.get(_BODY_LIMIT)
        if not text:
            return cls()
        if not text.isdecimal():
            raise HostError(f"{_BODY_LIMIT} is {text!r}, which is no number of bytes.")
        return cls(body_bytes=int(text))


def create_host(
    app: func.FunctionRegister,
    *,
    keys: Keys,
    host_json: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
    leases: LeaseStore | None = None,
    end_host: Callable[[], None] = end_process,
) -> "FunctionsHost":
    """Makes the host of `app` and enumerates its functions, so an app can have only one host. It fires a timer only
    while it holds its lease, if there are `leases`, and calls `end_host` when it cannot keep one.

    Reads app settings (`%SETTING%` schedules, `AzureWebJobs.<Name>.Disabled`, `PYTHON_THREADPOOL_THREAD_COUNT`,
    `FUNCTIONS_REQUEST_BODY_SIZE_LIMIT`) from the environment. Raises `HostError` if the real host would refuse the
    app or this one cannot run it.
    """
    host_json = host_json or {}
    settings = os.environ
    functions = index_functions(app, settings)
    router = Router(host_json.get("extensions", {}).get("http", {}).get("routePrefix", "api"))
    for function in functions.values():
        if function.is_http:
            router.add(function.name, function.route, function.trigger.get("methods"))
    invoker = Invoker(_function_timeout_s(host_json), _thread_count(settings))
    clock = clock or SystemClock()
    timers = [
        Timer(
            function,
            settings,
            clock,
            invoker,
            TimerLease(leases, function.name, clock, end_host) if leases else None,
        )
        for function in functions.values()
        if function.trigger_type == TIMER_TRIGGER and not function.is_disabled
    ]
    limits = limits or Limits.from_environment(settings)
    throttle = Throttle.from_host_json(host_json)
    return FunctionsHost(functions, router, timers, invoker, keys, throttle, limits, leases)


class FunctionsHost:
    """Made by `create_host`. `asgi` is the app to serve. The host and its timers run from the start of its lifespan,
    or in an `async with` block.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        router: Router,
        timers: list[Timer],
        invoker: Invoker,
        keys: Keys,
        throttle: Throttle,
        limits: Limits,
        leases: LeaseStore | None,
    ) -> None:
        self._leases = leases
        self.functions = functions
        self._router = router
        self._timers = timers
        self._timer_tasks: list[asyncio.Task[None]] = []
        self._invoker = invoker
        self._keys = keys
        self._throttle = throttle
        self._limits = limits
        self._buffer = Buffer(limits.buffered_bytes)

    async def __aenter__(self) -> Self:
        self._timer_tasks = [asyncio.create_task(timer.run()) for timer in self._timers]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()
        if self._leases is not None:
            await self._leases.aclose()
        self._invoker.close()

    async def drain(self) -> None:
        """Waits for running functions as long as the limits allow, and cancels the rest. Until the requests in flight
        have ended, the timers go on.
        """
        deadline_s = time.monotonic() + self._limits.drain_s
        await self._invoker.wait(self._limits.drain_s)
        for task in self._timer_tasks:
            task.cancel()
        drained = self._invoker.drain(max(0.0, deadline_s - time.monotonic()))
        await asyncio.gather(drained, *self._timer_tasks, return_exceptions=True)

    @property
    def has_busy_threads(self) -> bool:
        """Whether a function still runs in a thread after the host has stopped. It would keep the process alive."""
        return self._invoker.has_busy_threads

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with self:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            request = Request(scope, receive, self._buffer)
        except Refused as refused:
            await Response.closing(refused.status).send(send)
            return
        try:
            await (await self._answer(request)).send(send)
        except ClientGone:
            return
        finally:
            request.release()

    async def _answer(self, request: Request) -> Response:
        try:
            response = await self._respond(request)
            if len(response.body) > _LARGE_BYTES:
                request.hold(len(response.body))
            return response
        except BodyTooLarge:
            return Response.closing(500)
        except TooBusy:
            return Response(429)

    async def _respond(self, request: Request) -> Response:
        if request.path[:9].lower().startswith(_BUILT_IN_PATHS):
            return await self._respond_built_in(request)
        match = self._router.match(request.method, request.path)
        if match is None:
            return Response(404)
        name, route_params = match
        function = self.functions[name]
        if function.is_disabled and not self._keys.open_admin(request.key):
            return Response(404)
        if not self._is_open(function, request):
            return Response(401)
        async with self._throttle.admit():
            return await self._run(function, route_params, request)

    async def _run(self, function: Function, route_params: dict[str, str], request: Request) -> Response:
        body = await request.body(self._limits.body_bytes)
        value = http_datum_value(
            request.method,
            request.url,
            headers=request.headers,
            params=request.params,
            route_params=route_params,
            body=body,
        )
        invocation = self._invoker.start(function, function.decode(value, "http"), headers=request.headers)
        await asyncio.wait((invocation,), timeout=self._limits.response_s)
        if not invocation.done():
            _log.error("The response of 'Functions.%s' was cut after %g s", function.name, self._limits.response_s)
            return Response(504)
        try:
            response = invocation.result() or Response(500)
        except (InvocationFailed, asyncio.CancelledError):
            return Response(500)
        if not response.says_its_true_length(request.method):
            _log.error("The response of 'Functions.%s' has a Content-Length that is not its body's", function.name)
            return Response(500)
        return response

    def _is_open(self, function: Function, request: Request) -> bool:
        match (function.trigger.get("authLevel") or "FUNCTION").upper():
            case "ANONYMOUS":
                return True
            case "FUNCTION":
                return self._keys.open_function(request.key, function.name)
        return self._keys.open_admin(request.key)

    async def _respond_built_in(self, request: Request) -> Response:
        path = request.path.removesuffix("/")
        if path.lower() == "/runtime/webhooks/eventgrid":
            if not self._keys.open_eventgrid_webhook(request.headers.get("aeg-sas-key") or request.key):
                return Response(401)
            return await handle_delivery(request, self.functions, self._invoker, self._limits.body_bytes)
        if not path.lower().startswith("/admin/"):
            return Response(404)
        if not self._keys.open_admin(request.key):
            return Response(403 if self._keys.are_any(request.key) else 401)
        match request.method, path.lower():
            case "GET", "/admin/host/status":
                return Response.json(200, {"state": "Running"})
            case "GET", "/admin/functions":
                return Response.json(200, [_description(function) for function in self.functions.values()])
            case "POST", lowered if lowered.startswith(f"{_ADMIN_FUNCTIONS}/"):
                return await self._start_by_hand(lowered.removeprefix(f"{_ADMIN_FUNCTIONS}/"), request)
        return Response(404)

    async def _start_by_hand(self, lowered_name: str, request: Request) -> Response:
        function = next((each for name, each in self.functions.items() if name.lower() == lowered_name), None)
        if function is None:
            return Response(404)
        try:
            given = json.loads(await request.body(self._limits.body_bytes)).get("input")
        except (ValueError, AttributeError):
            return Response(400)
        text = given if isinstance(given, str) else json.dumps(given)
        try:
            argument = _argument_by_hand(function, text, request)
        except (ValueError, TypeError):
            return Response(400)
        self._invoker.start(function, argument, headers=request.headers)
        return Response(202)


def _argument_by_hand(function: Function, text: str, request: Request) -> object:
    if function.trigger_type == TIMER_TRIGGER:
        return timer_argument(function)
    if function.is_http:
        value = http_datum_value(
            "POST", request.url, headers=request.headers, params={}, route_params={}, body=text.encode()
        )
        return function.decode(value, "http")
    return function.decode(text, "json")


def _description(function: Function) -> dict[str, object]:
    return {
        "name": function.name,
        "type": function.trigger_type,
        "route": function.route if function.is_http else None,
        "isDisabled": function.is_disabled,
    }


def _function_timeout_s(host_json: Mapping[str, Any]) -> float | None:
    text = host_json.get("functionTimeout") or _FUNCTION_TIMEOUT
    if text == "-1":
        return None
    try:
        return parse_time_span(text).total_seconds()
    except (ValueError, TypeError) as error:
        raise HostError(f"host.json: functionTimeout cannot be used: {error}.") from error


def _thread_count(settings: Mapping[str, str]) -> int | None:
    text = settings.get("PYTHON_THREADPOOL_THREAD_COUNT")
    if not text:
        return None
    if not (text.isdigit() and int(text)):
        raise HostError(f"PYTHON_THREADPOOL_THREAD_COUNT is {text!r}, which is not a positive number.")
    return int(text)
