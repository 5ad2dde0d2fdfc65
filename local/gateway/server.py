"""The gateway as an ASGI app, and the start of it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from local.gateway import configuration, cors
from local.gateway.backends import Backend, Client
from local.gateway.configuration import Subscription
from local.gateway.errors import GatewayError, PolicyFailed
from local.gateway.exchange import Exchange, Shared
from local.gateway.expressions import Evaluator, Expressions
from local.gateway.grammar import Reader
from local.gateway.limits import Breaker, Cache, Clock, Counters
from local.gateway.messages import Body, Headers, Request, Response, Url
from local.gateway.pipeline import KEY_HEADER, KEY_PARAMETER, Compiler, failed

_log = logging.getLogger("local.gateway")
_MARK = (b"x-gateway", b"local")
_WITHOUT_BODY = (204, 304)
_NOT_FOUND = PolicyFailed(404, "configuration", "OperationNotFound", "Resource not found")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gateway:
    """API Management's part.

    Parameters:
        apis: the file ``apis.json``. The policy files lie beside it.
        app_url: the function app's.
        named_values: what stands for ``{{name}}`` in the policies.
        subscriptions: who may call.
        services: paths of the model services, each of which gets an API for callers of the former platform.
        tier, owner: the variants of the policies.
        work: a directory for what the compiler makes.
        clock: the time in seconds.

    Raises:
        GatewayError: the files hold what this gateway does not know, or mono is missing.
    """

    def __init__(
        self,
        apis: Path,
        *,
        app_url: str,
        named_values: Mapping[str, str | Sequence[str]],
        subscriptions: Sequence[Subscription],
        services: Sequence[str],
        tier: str,
        owner: str,
        work: Path,
        clock: Clock = time.monotonic,
    ) -> None:
        served = configuration.load(apis, tier=tier, owner=owner, services=services)
        if named_values.keys() != served.named_values:
            differing = sorted(named_values.keys() ^ served.named_values)
            raise GatewayError(f"Named values that are not both listed and given: {', '.join(differing)}.")
        expressions = Expressions()
        compiler = Compiler(served, Reader(apis.parent, named_values, expressions))
        self._pipelines = {
            (api.name, operation.name): compiler.pipeline(api, operation)
            for api in served.apis
            for operation in api.operations
        }
        self._served = served
        self._subscriptions = {subscription.key: subscription for subscription in subscriptions}
        self.evaluator = Evaluator(expressions.compile(work))
        self._client = Client()
        backends = {
            name: Backend(name, app_url + path, Breaker(rules, clock))
            for name, (path, rules) in served.backends.items()
        }
        self._shared = Shared(self.evaluator, self._client, backends, Counters(clock), Cache(clock))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.evaluator.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._client.close()
            await self.evaluator.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        incoming = _Incoming(receive)
        answering = asyncio.create_task(self._answer(scope, incoming, send))
        leaving = asyncio.create_task(incoming.end())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            # A caller that has gone takes its request to the app with it.
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, scope: Message, incoming: _Incoming, send: Send) -> None:
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        url = Url.parse(
            scope["scheme"],
            headers.get("host") or "",
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
        )
        has_body = headers.get("transfer-encoding") is not None or (headers.get("content-length") or "0") != "0"
        body = Body(incoming.pieces()) if has_body else None
        if body is None:
            incoming.skip()
        request = Request(scope["method"], url, headers, body, (scope["client"] or ("", 0))[0])
        if request.method == "OPTIONS" and (asked := headers.get("Access-Control-Request-Method")) is not None:
            await _send(self._preflight(request, asked), request.method, Headers(), send)
            return
        route = self._served.route(request.method, url.path)
        if route is None:
            await _send(failed(_NOT_FOUND), request.method, Headers(), send)
            return
        api, operation, rest, matched = route
        key = headers.get(KEY_HEADER) or url.parameter(KEY_PARAMETER)
        exchange = Exchange(
            self._shared,
            str(uuid.uuid4()),
            api,
            operation,
            self._subscriptions.get(key or ""),
            matched,
            request,
            original_url=url,
        )
        request.url = Url(url.scheme, url.host, url.port, rest, url.query)
        try:
            response = await self._pipelines[api.name, operation.name].run(exchange)
            try:
                await _send(response, request.method, exchange.sharing, send)
            finally:
                await response.close()
        finally:
            await self.evaluator.end(exchange.id)

    def _preflight(self, request: Request, method: str) -> Response:
        route = self._served.route(method, request.url.path)
        if route is None:
            return failed(_NOT_FOUND)
        api, operation, _, _ = route
        sharing = self._pipelines[api.name, operation.name].sharing
        return failed(_NOT_FOUND) if sharing is None else cors.preflight(sharing, request.headers)


class _Incoming:
    """The caller's side of a request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body's. Ends the task if the caller goes before its end."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                self._is_read.set()
                return

    async def end(self) -> None:
        """Returns when the caller has gone."""
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def skip(self) -> None:
        """There is no body to wait for."""
        self._is_read.set()


async def _send(response: Response, method: str, sharing: Headers, send: Send) -> None:
    lines = [*response.headers.lines, *sharing.lines]
    is_empty = response.status in _WITHOUT_BODY
    encoded = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in lines
        if not (is_empty and name.lower() == "content-length")
    ]
    body = None if is_empty or method == "HEAD" else response.body
    if body is None and not is_empty and method != "HEAD":
        encoded = [line for line in encoded if line[0] != b"content-length"] + [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": response.status, "headers": [*encoded, _MARK]})
    if body is not None:
        async for piece in body.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
