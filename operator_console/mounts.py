"""The v1 API for operators: mounts of its operations below the console. One key opens all that a role may do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import azure.functions as func

from shared.http.error_problems import problem_of
from shared.http.functions import HttpFunctions, Operation, problem_response
from shared.http.operators import Operator, Role, acting, holder_of, principal_of
from shared.http.problems import Problem
from shared.services import ServicesByLoop

READING: Final = ["GET", "HEAD"]
METHODS: Final = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
V1: Final = "v1/"


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    for name, role, methods in (
        ("ConsoleRead", Role.READ, READING),
        ("ConsoleContent", Role.CONTENT, READING),
        ("ConsoleOperate", Role.OPERATE, METHODS),
    ):
        mount = _Mount(functions, services, role)
        functions.add_answer(name, mount.answer, methods=methods, route=f"console/{role}/{{*path}}")
    # Whom the platform signs in has no key. The function answers nobody else.
    functions.add_answer(
        "ConsoleSession",
        _Mount(functions, services, None).answer,
        methods=METHODS,
        route="console/session/{*path}",
        auth_level=func.AuthLevel.ANONYMOUS,
    )


@dataclass(frozen=True, slots=True)
class _Mount:
    """Answers below ``console/ROLE/`` as the app does below ``v1/``.

    Attributes:
        role: that of the key's holder; None: the platform says who asks.
    """

    functions: HttpFunctions
    services: ServicesByLoop
    role: Role | None

    async def answer(self, req: func.HttpRequest) -> func.HttpResponse:
        try:
            operator = self._operator(req)
            operation, values = _found(self.functions.operations, req)
        except Exception as error:
            return problem_response(problem_of(error))
        mounted = f"/console/{self.role or 'session'}/"
        with acting(operator):
            response = await operation.answer(_below_v1(req, mounted, values), self.services)
        if response.status_code == 202:
            # Where this operator may look. What else has a Location, a 303, leads to the storage.
            root, _, rest = response.headers.get("Location", "").rpartition(f"/{V1}")
            if rest:
                response.headers["Location"] = f"{root}{mounted}{rest}"
        return response

    def _operator(self, req: func.HttpRequest) -> Operator:
        if self.role is not None:
            return holder_of(self.role)
        if not self.services.settings.website_auth_enabled:
            raise Problem(404, "no-sign-in", "There is no sign-in.", "App Service authentication is not on.")
        return principal_of(req)


def _found(operations: Sequence[Operation], req: func.HttpRequest) -> tuple[Operation, Mapping[str, str]]:
    """What v1 has at the path below the mount, and the parameters in it."""
    path = V1 + req.route_params.get("path", "")
    for operation in sorted(operations, key=lambda known: _precedence(known.route)):
        if req.method in operation.methods and (match := _pattern(operation.route).fullmatch(path)):
            return operation, {name: value for name, value in match.groupdict().items() if value}
    raise Problem(404, "no-such-operation", "The app has no such operation.", "The console's paths are those of v1.")


@cache
def _precedence(route: str) -> tuple[int, ...]:
    """As the Functions host goes: what is written out before parameters, and those of all that follows last."""
    return tuple(2 if segment.startswith("{*") else segment.startswith("{") for segment in route.split("/"))


@cache
def _pattern(route: str) -> re.Pattern[str]:
    """Of the routes of the v1 API: segments, parameters of one segment, and one of all that follows."""
    pattern = ""
    for segment in route.split("/"):
        if segment.startswith("{*"):
            pattern += f"(?:/(?P<{segment[2:-1]}>.*))?"
        elif segment.startswith("{"):
            pattern += f"/(?P<{segment[1:-1]}>[^/]+)"
        else:
            pattern += "/" + re.escape(segment)
    return re.compile(pattern.removeprefix("/") + "/?", re.IGNORECASE | re.DOTALL)


def _below_v1(req: func.HttpRequest, mounted: str, values: Mapping[str, str]) -> func.HttpRequest:
    url = re.sub(re.escape(mounted), f"/{V1}", req.url, count=1, flags=re.IGNORECASE)
    return func.HttpRequest(
        req.method, url, headers=req.headers, params=req.params, route_params=values, body=req.get_body()
    )
