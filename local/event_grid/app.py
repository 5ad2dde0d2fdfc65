"""The HTTP interface: publishing under the topic's path, and the control API of the package's docstring."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from local.event_grid.authorization import is_authorized
from local.event_grid.clock import ManualClock
from local.event_grid.emulator import BacklogFullError, Emulator, UnknownContainerError
from local.event_grid.faults import Faults
from local.event_grid.schema import MAX_BATCH_BYTES, InvalidEventsError, TooManyEventsError, parse_events
from local.event_grid.subscription import NAME_PATTERN, SubscriptionSettings

API_VERSION = "2018-01-01"
ABORT_EXTENSION = "local.event_grid.abort"
"""The ASGI extension with which an application cuts the client's connection."""

_CODES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    503: "ServiceUnavailable",
}


class _Drain(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10


class _Advance(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(ge=0)]


_Model = TypeVar("_Model", bound=BaseModel)


class _ProblemError(Exception):
    """Raised to answer with an error; `details` has one line per mistake."""

    def __init__(self, status: int, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.details = details or [message]


def create_app(emulator: Emulator, *, key: str) -> Starlette:
    """Returns the application of `emulator`; it starts and stops the emulator. Publishers must hold `key`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with emulator:
            yield

    handlers = _Handlers(emulator, key)
    topic = emulator.topic.lower()
    subscription_path = f"/control/topics/{topic}/subscriptions/{{name}}"
    return Starlette(
        lifespan=lifespan,
        routes=[
            Route(f"/{topic}/api/events", handlers.publish, methods=["POST"]),
            Route(subscription_path, handlers.put_subscription, methods=["PUT"]),
            Route(subscription_path, handlers.get_subscription, methods=["GET"]),
            Route(subscription_path, handlers.delete_subscription, methods=["DELETE"]),
            Route(f"{subscription_path}/validate", handlers.validate, methods=["GET"]),
            Route("/control/stats", handlers.stats, methods=["GET"]),
            Route("/control/faults", handlers.set_faults, methods=["POST"]),
            Route("/control/drain", handlers.drain, methods=["POST"]),
            Route("/control/clock/advance", handlers.advance_clock, methods=["POST"]),
        ],
        middleware=[
            # Keeps a web page from using the control API by pointing its own name at the loopback interface.
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False),
            Middleware(_NormalPath),
            Middleware(_NoOtherSite),
        ],
        exception_handlers={
            _ProblemError: _on_problem,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )


class _Handlers:
    def __init__(self, emulator: Emulator, key: str) -> None:
        self._emulator = emulator
        self._key = key

    async def publish(self, request: Request) -> Response:
        emulator, faults = self._emulator, self._emulator.faults
        if faults.refuse_publish and faults.strikes(faults.refuse_publish):
            raise _ProblemError(faults.refuse_publish.status, "A fault switch made the emulator refuse this publish.")
        if not is_authorized(request.headers, key=self._key, path=request.url.path, now=datetime.now(UTC)):
            raise _ProblemError(401, "The request authorization key or token is missing or not valid.")
        if request.query_params.get("api-version") != API_VERSION:
            raise _ProblemError(400, f"The api-version must be {API_VERSION}.")
        body = await _read(request, MAX_BATCH_BYTES)
        try:
            events = parse_events(body, request.headers.get("content-type", ""), emulator.topic_id)
            await emulator.publish(events)
        except InvalidEventsError as error:
            raise _ProblemError(400, str(error), error.problems) from error
        except TooManyEventsError as error:
            raise _ProblemError(413, str(error)) from error
        except BacklogFullError as error:
            raise _ProblemError(503, "Too many events wait for delivery.") from error
        if faults.strikes(faults.lose_publish_response):
            request.scope["extensions"][ABORT_EXTENSION]["abort"]()
        return Response()

    async def put_subscription(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not NAME_PATTERN.fullmatch(name):
            raise _ProblemError(400, "A subscription's name is 3 to 64 letters, digits and hyphens.")
        settings = await _parse(request, SubscriptionSettings)
        try:
            subscription, is_new = await self._emulator.put_subscription(name, settings)
        except UnknownContainerError as error:
            raise _ProblemError(400, "No --dead-letter-connection-string was given.") from error
        return JSONResponse(subscription.public(), 201 if is_new else 200)

    async def get_subscription(self, request: Request) -> Response:
        subscription = self._emulator.subscription(request.path_params["name"])
        if subscription is None:
            raise _ProblemError(404, "There is no such subscription.")
        return JSONResponse(subscription.public())

    async def delete_subscription(self, request: Request) -> Response:
        if not await self._emulator.delete_subscription(request.path_params["name"]):
            raise _ProblemError(404, "There is no such subscription.")
        return Response(status_code=204)

    async def validate(self, request: Request) -> Response:
        if not await self._emulator.validate(request.path_params["name"], request.query_params.get("code", "")):
            raise _ProblemError(404, "No subscription awaits this code.")
        return Response("Webhook successfully validated as a subscription endpoint", media_type="text/plain")

    async def stats(self, _: Request) -> Response:
        return JSONResponse({to_camel(name): count for name, count in self._emulator.public_stats().items()})

    async def set_faults(self, request: Request) -> Response:
        self._emulator.faults = await _parse(request, Faults)
        return Response(status_code=204)

    async def drain(self, request: Request) -> Response:
        drain = await _parse(request, _Drain)
        return JSONResponse({"drained": await self._emulator.drain(drain.timeout_seconds)})

    async def advance_clock(self, request: Request) -> Response:
        advance = await _parse(request, _Advance)
        if not isinstance(self._emulator.clock, ManualClock):
            raise _ProblemError(409, "The clock runs by itself; --time-scale 0 makes it manual.")
        self._emulator.clock.advance(advance.seconds)
        return JSONResponse({"now": self._emulator.clock.now()})


async def _read(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _ProblemError(413, f"The request is larger than {limit_bytes} bytes.")
    return bytes(body)


async def _parse(request: Request, model: type[_Model]) -> _Model:
    """Parses the request's JSON as `model`; an empty body counts as an empty object. No error repeats the body."""
    try:
        return model.model_validate_json(await _read(request, MAX_BATCH_BYTES) or b"{}")
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise _ProblemError(400, "The body is not valid.", problems) from error


class _NoOtherSite:
    """Refuses what a page of another site has a browser send to the control API, which asks for no key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith("/control/"):
            headers = Headers(scope=scope)
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
            is_other = origin is not None and origin.partition("://")[2] != headers.get("host")
            if is_other or site not in ("none", "same-origin"):
                app = _error(403, "Pages of other sites may not use the control API.", ["A browser sent this."])
        await app(scope, receive, send)


class _NormalPath:
    """Ignores the case of a path and a slash at its end, as Event Grid does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["path"].lower().rstrip("/") or "/"
        await self._app(scope, receive, send)


def _error(status: int, message: str, details: Sequence[str]) -> JSONResponse:
    code = _CODES.get(status, "InternalServerError")
    error = {
        "code": code,
        "message": message,
        "details": [{"code": code, "message": detail} for detail in details],
    }
    return JSONResponse({"error": error}, status)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, _ProblemError)
    return _error(error.status, str(error), error.details)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, error.detail, [error.detail])
    response.headers.update(error.headers or {})
    return response


async def _on_bug(_: Request, error: Exception) -> Response:
    return _error(500, "An unexpected error occurred.", [type(error).__name__])
