"""Where Azure Functions ends: turns handlers into HTTP functions, and errors into responses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

import azure.functions as func

from shared import telemetry
from shared.http.error_problems import problem_of
from shared.http.headers import header
from shared.http.operators import Role, acting, check_role, operator_of
from shared.http.owners import not_for_owners, owner_of
from shared.http.problems import Problem, invalid, invalid_fields, length_required, unknown_name
from shared.services import Services, ServicesByLoop
from shared.tasks.ids import is_task_id

__all__ = [
    "HOST_PARAMETERS",
    "HttpFunctions",
    "Operation",
    "encoded",
    "header",
    "json_response",
    "problem_response",
    "query_string",
]

HOST_PARAMETERS: Final = ("code", "clientid")
"""Query parameters of the Functions host, in lower case. It takes them in any case."""
_WITHOUT_BODY: Final = (204, 304)
_OF_TASKS: Final = ("v1/tasks/{id}", "v1/batches/{id}")
"""With which the routes begin that name a task or a batch."""

Handler = Callable[[func.HttpRequest, Services], Awaitable[func.HttpResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A handler with what its requests may be, as :meth:`HttpFunctions.add` takes it."""

    name: str
    handler: Handler
    methods: Sequence[str]
    route: str
    counted: bool
    takes_body: bool
    query: Sequence[str] | None
    for_owners: bool
    role: Role | None

    async def answer(self, req: func.HttpRequest, services: ServicesByLoop) -> func.HttpResponse:
        if self.takes_body and (lost := _lost_body(req)):
            return problem_response(lost)
        task_id = req.route_params.get("id", "") if self.route.startswith(_OF_TASKS) else ""
        with telemetry.request_about(task_id) if is_task_id(task_id) else nullcontext():
            try:
                return await self._answer(req, services)
            except Exception as error:
                return problem_response(problem_of(error))

    async def _answer(self, req: func.HttpRequest, services_by_loop: ServicesByLoop) -> func.HttpResponse:
        settings = services_by_loop.settings
        # Of each request, also where no owner makes a difference: nobody else's word may pass for the gateway's.
        if owner_of(req, settings) is not None and not self.for_owners:
            raise not_for_owners()
        operator = operator_of(req, settings)
        check_role(operator, self.role)
        if self.query is not None:
            _check_query(req.url, self.query)
        services = services_by_loop.current()
        limits = services.limits
        with (
            acting(operator) if operator else nullcontext(),
            limits.requests.hold() if self.counted else nullcontext(),
            limits.body(len(req.get_body())),
        ):
            return await self.handler(req, services)


_operations: WeakKeyDictionary[func.FunctionApp, list[Operation]] = WeakKeyDictionary()


class HttpFunctions:
    """Registers a room's handlers as HTTP functions of the *app*."""

    def __init__(self, app: func.FunctionApp, services: ServicesByLoop) -> None:
        self._app = app
        self._services = services

    @property
    def operations(self) -> Sequence[Operation]:
        """What all rooms have added to the app."""
        return _operations.get(self._app, ())

    def add(
        self,
        name: str,
        handler: Handler,
        *,
        methods: list[str],
        route: str | None = None,
        auth_level: func.AuthLevel = func.AuthLevel.FUNCTION,
        counted: bool = True,
        takes_body: bool = False,
        query: Sequence[str] | None = (),
        for_owners: bool = True,
        role: Role | None = None,
    ) -> None:
        """Register *handler* as the HTTP function *name*, which is its route too if none is given.

        The limit to the requests in flight applies only if it is *counted*. If it *takes a body*, a body that the
        Functions host has lost is refused. A request may have the query parameters in *query* and no others, since to
        ignore one would be to answer another question; None: it may have any. If it is not *for owners*, a request
        in the name of one is refused: what it shows or changes is everybody's. An operator needs the *role*; None:
        it is nothing that operators do.
        """
        path = route or name
        operation = Operation(name, handler, methods, path, counted, takes_body, query, for_owners, role)
        _operations.setdefault(self._app, []).append(operation)

        async def answer(req: func.HttpRequest) -> func.HttpResponse:
            return await operation.answer(req, self._services)

        self.add_answer(name, answer, methods=methods, route=path, auth_level=auth_level)

    def add_answer(
        self,
        name: str,
        answer: Callable[[func.HttpRequest], Awaitable[func.HttpResponse]],
        *,
        methods: list[str],
        route: str,
        auth_level: func.AuthLevel = func.AuthLevel.FUNCTION,
    ) -> None:
        """Register what *answers* each request, errors included, as the HTTP function *name*."""

        async def invoke(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
            is_from_host = bool(context.trace_context.trace_parent)
            with telemetry.invocation_span(name, _trace_headers(req, context), is_from_host=is_from_host) as span:
                response = await answer(req)
                _describe_body(req, response)
                telemetry.answered_request(span, req.method, route, req.url, response.status_code)
                return response

        # The worker tells functions apart by these names and reads the signature above.
        invoke.__name__ = invoke.__qualname__ = name
        self._app.function_name(name)(self._app.route(route=route, methods=methods, auth_level=auth_level)(invoke))


def query_string(url: str) -> str:
    """The query of a request's URL. A URL parser would raise an error for what some clients send as their host."""
    return url.partition("?")[2]


def _lost_body(req: func.HttpRequest) -> Problem | None:
    """What is wrong if the Functions host did not hand over a body that the request announces: an empty one would be
    taken for the client's."""
    if req.get_body():
        return None
    if header(req, "transfer-encoding") is not None:  # the host passes on only what has a Content-Length
        return length_required()
    if (header(req, "content-length") or "0").strip("0"):
        return invalid("Content-Length", "it announces a body, and none has arrived")
    return None


def _describe_body(req: func.HttpRequest, response: func.HttpResponse) -> None:
    """Add to the headers what the Functions host does not find out. Without the length it sends chunks, and a client
    does not see that an answer was cut off."""
    headers = response.headers
    if "Cache-Control" not in headers:  # of what is a task's, or says how things are at the moment
        headers.add("Cache-Control", "no-store")
    if response.status_code in _WITHOUT_BODY:
        headers["Content-Type"] = ""  # the host takes it out, and would otherwise say text/plain
    elif req.method != "HEAD" or "Content-Length" not in headers:  # the answer to HEAD may have one already
        headers.add("Content-Length", str(len(response.get_body())))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoded(document: Any) -> bytes:
    return _encode(document).encode()


def json_response(
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    mimetype: str = "application/json",
) -> func.HttpResponse:
    """A response of a JSON document, or of the bytes of one."""
    return func.HttpResponse(
        document if isinstance(document, bytes) else encoded(document),
        status_code=status,
        # Among the headers: if it is missing there, the library finds that out by an exception.
        headers={"Content-Type": mimetype, **(headers or {})},
    )


def _check_query(url: str, known: Sequence[str]) -> None:
    if "?" not in url:
        return
    # Of the URL, since the host leaves out parameters without a value.
    names = dict.fromkeys(name for name, _ in parse_qsl(query_string(url), keep_blank_values=True))
    unknown = [name for name in names if name not in known and name.lower() not in HOST_PARAMETERS]
    if unknown:
        raise invalid_fields(unknown_name(name, "query parameter", known) for name in unknown)


def problem_response(problem: Problem) -> func.HttpResponse:
    return json_response(
        problem.document, problem.document["status"], problem.headers, mimetype="application/problem+json"
    )


def _trace_headers(req: func.HttpRequest, context: func.Context) -> dict[str, str]:
    # The host's own span if it made one, else what the caller sent.
    traced = context.trace_context
    return {
        "traceparent": traced.trace_parent or header(req, "traceparent") or "",
        "tracestate": traced.trace_state or "",
    }
