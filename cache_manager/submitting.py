"""Where a submitted task goes, and how a model service sends one on: what the v1 API reads of that from requests."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import unknown_batch, unknown_endpoint
from shared.backend_settings import MAX_STEPS
from shared.dispatch.registry import BackendRegistry, Endpoint, Route, UnknownBackend
from shared.http.functions import header
from shared.http.problems import invalid
from shared.store import SentOn
from shared.tasks.ids import is_task_id
from shared.tasks.task import PipelineStep, ThenTask

PIPELINE_HEADER: Final = "Pipeline"
BATCH_HEADER: Final = "Batch"
NEXT_BODY_HEADER: Final = "X-Next-Body"
_BETWEEN_STEPS: Final = re.compile(r"\s*,\s*(?=/|\Z)")
"""A query may have commas too, but a slash behind one has to be escaped."""


@dataclass(frozen=True, slots=True)
class Way:
    """The endpoints that a task is to go through.

    Attributes:
        route: the one that it is submitted to, and those that follow.
        asked: what follows as the request writes it, in one way; empty if nothing does.
    """

    route: Route
    asked: str


def way(req: func.HttpRequest, registry: BackendRegistry) -> Way:
    """
    Raises:
        Problem: 404 that names the path that is no endpoint; 400 if ``Pipeline`` is no list of paths.
    """
    return way_of(parse.submitted_path(req), parse.backend_query(req.url), header(req, PIPELINE_HEADER), registry)


def way_of(path: str, query: str, text: str | None, registry: BackendRegistry) -> Way:
    """
    Args:
        text: what ``Pipeline`` says; None if it is not there.

    Raises:
        Problem: as :func:`way`.
    """
    first = _route(path, query, registry)
    if text is None:
        return Way(first, "")
    steps = _BETWEEN_STEPS.split(text.strip())
    if not all(step.startswith("/") for step in steps) or len(steps) > MAX_STEPS:
        raise invalid(PIPELINE_HEADER, f"1 to {MAX_STEPS} paths are expected, with commas between")
    routes = [_route(*_parted(step), registry) for step in steps]
    endpoints = (*first.endpoints, *(endpoint for route in routes for endpoint in route.endpoints))
    if len(endpoints) > MAX_STEPS + 1:
        raise invalid(PIPELINE_HEADER, f"it leads a task through more than {MAX_STEPS + 1} endpoints")
    asked = ", ".join(f"{route.path}?{route.endpoints[0].query}" for route in routes)
    return Way(Route(endpoints, first.name), asked)


def then_route(text: str, registry: BackendRegistry) -> Route:
    """Where the task goes that a batch is to begin when its children have ended.

    Raises:
        Problem: 404 that names the path that is no endpoint.
    """
    return _route(*_parted(text), registry)


def then_task(route: Route) -> ThenTask:
    first = route.endpoints[0]
    asked = f"{route.path}?{first.query}" if first.query else route.path
    steps = tuple(PipelineStep(step.path, step.query, **step.backend.bounds) for step in route.endpoints)
    return ThenTask(asked, route.name, steps)


def batch_of(req: func.HttpRequest) -> str | None:
    """The batch that a submitted task is to be a child of.

    Raises:
        Problem: 404 if it cannot be one.
    """
    text = header(req, BATCH_HEADER)
    if text is not None and not is_task_id(text):
        raise unknown_batch()
    return text


def next_endpoint(req: func.HttpRequest, registry: BackendRegistry) -> Endpoint:
    """
    Raises:
        Problem: 400 if there is no such endpoint.
    """
    try:
        return registry.endpoint(parse.submitted_path(req), parse.backend_query(req.url))
    except UnknownBackend as error:
        raise invalid("path", str(error)) from None


async def sent_on(req: func.HttpRequest, endpoint: Endpoint, content_type: str, encoding: str) -> SentOn:
    """How a model service sends its task on to the *endpoint*.

    Raises:
        Problem: 400 if it is not clear what becomes the body.
    """
    named = header(req, NEXT_BODY_HEADER)
    body = "given" if named is None else named.strip().lower()
    if body not in ("given", "result", "current") or (named is not None and body == "given"):
        raise invalid(NEXT_BODY_HEADER, "result or current is expected")
    if body != "given" and req.get_body():
        raise invalid(NEXT_BODY_HEADER, "with it, the request has no body")
    kind = f"{endpoint.path}?{endpoint.query}\n{body}\n{content_type}\n{encoding}\n".encode()
    # In a thread: it takes a while for a large body.
    digest = await asyncio.to_thread(lambda: hashlib.sha256(kind + req.get_body()).hexdigest())
    return SentOn(body, digest[:32])


def _route(path: str, query: str, registry: BackendRegistry) -> Route:
    try:
        return registry.route(path, query)
    except UnknownBackend as error:
        raise unknown_endpoint(path, str(error)) from None


def _parted(step: str) -> tuple[str, str]:
    path, _, query = step.partition("?")
    return path, query
