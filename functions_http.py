"""Where Azure Functions ends: turns a handler into an HTTP function, and domain errors into responses."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import azure.functions as func
from opentelemetry.trace import StatusCode

from shared import telemetry
from shared.bodies import BlobsUnavailable
from shared.limits import Overloaded
from shared.problems import Problem, overloaded, unavailable
from shared.services import Services, current_services
from shared.task_store import StoreUnavailable

log = logging.getLogger("task_backbone")

Handler = Callable[[func.HttpRequest, Services], Awaitable[func.HttpResponse]]


def http_function(
    blueprint: func.Blueprint,
    name: str,
    *,
    methods: list[str],
    route: str | None = None,
    auth_level: func.AuthLevel = func.AuthLevel.FUNCTION,
    counted: bool = True,
) -> Callable[[Handler], Handler]:
    """Register a handler as the HTTP function *name*; without a route, that is its route too.

    Only if it is *counted* does the limit to the requests in flight apply to it.
    """

    def register(handler: Handler) -> Handler:
        async def invoke(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
            with telemetry.server_span(name, _trace_headers(req, context)) as span:
                response = await _answer(handler, req, counted)
                # Without the method, Application Insights would show neither the status nor that it failed.
                span.set_attributes(
                    {"http.request.method": req.method, "http.response.status_code": response.status_code}
                )
                if response.status_code >= 500:  # what is 4xx, it takes for a failure by itself
                    span.set_status(StatusCode.ERROR)
                return response

        # The worker tells functions apart by these names and reads the signature above.
        invoke.__name__ = invoke.__qualname__ = name
        blueprint.function_name(name)(
            blueprint.route(route=route or name, methods=methods, auth_level=auth_level)(invoke)
        )
        return handler

    return register


def header(req: func.HttpRequest, name: str) -> str | None:
    """A request header; the library's mapping has no types."""
    headers = cast("Mapping[str, str]", req.headers)
    if name not in headers:  # whose get() would raise and catch an exception
        return None
    return headers[name]


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_response(
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    mimetype: str = "application/json",
) -> func.HttpResponse:
    """A response of a JSON document, or of the bytes of one."""
    return func.HttpResponse(
        document if isinstance(document, bytes) else _encode(document).encode(),
        status_code=status,
        # Among the headers: where it is missing there, the library finds that out by an exception.
        headers={"Content-Type": mimetype, **(headers or {})},
    )


async def _answer(handler: Handler, req: func.HttpRequest, counted: bool) -> func.HttpResponse:
    try:
        services = current_services()
        limits = services.limits
        with limits.requests.hold() if counted else nullcontext(), limits.body(len(req.get_body())):
            return await handler(req, services)
    except Problem as problem:
        return _problem_response(problem)
    except Overloaded as error:
        return _problem_response(overloaded(str(error)))
    except StoreUnavailable as error:
        log.warning("Redis does not answer: %s", error)
        return _problem_response(unavailable("The task store"))
    except BlobsUnavailable as error:
        log.warning("Blob Storage does not answer: %s", error)
        return _problem_response(unavailable("Blob Storage"))
    except Exception:
        log.exception("A handler failed")
        return _problem_response(
            Problem(500, "internal-error", "The app failed.", "This is a fault of the app; its log says more.")
        )


def _problem_response(problem: Problem) -> func.HttpResponse:
    return json_response(
        problem.document, problem.document["status"], problem.headers, mimetype="application/problem+json"
    )


def _trace_headers(req: func.HttpRequest, context: func.Context) -> dict[str, str]:
    # The host's own span, when it made one, else what the caller sent.
    traced = context.trace_context
    return {
        "traceparent": traced.trace_parent or header(req, "traceparent") or "",
        "tracestate": traced.trace_state or "",
    }
