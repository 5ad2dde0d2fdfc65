"""The queues of the v1 API: depths for autoscalers, settings for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.audit import audited, queue_action
from cache_manager.outcome_problems import only_a_prefix, unknown_endpoint
from cache_manager.queue_schemas import (
    BackendState,
    QueueDepth,
    QueueDepthList,
    QueueOwner,
    QueueSettings,
    without_ages,
)
from shared.dispatch.registry import Endpoint
from shared.http.conditional import json_unless_known
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role, operator_now
from shared.http.paging import page_limit
from shared.services import Services, ServicesByLoop
from shared.store import Depth, QueueStatus, StoreUnavailable
from shared.tasks.owner_bounds import UNBOUNDED, OwnerBounds


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "QueueDepths",
        queue_depths,
        route="v1/queues/{*path}",
        methods=["GET"],
        query=["limit", "cursor", "all"],
        for_owners=False,
        role=Role.READ,
    )
    functions.add(
        "ConfigureQueue",
        configure_queue,
        route="v1/queues/{*path}",
        methods=["PATCH"],
        takes_body=True,
        for_owners=False,
        role=Role.OPERATE,
    )


async def queue_depths(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    path = parse.queue_path(req)
    if not path:
        return await _all_queues(req, services)
    parse.no_page(req)
    depth, status = await _read(path, services)
    is_known = services.registry.endpoint_of(path) is not None or path in services.registry.pipelines
    if not is_known and not _is_used(path, depth, status, services):
        raise unknown_endpoint(path, "no backend is registered for this path, and it has no tasks")
    [queue] = await _shown(services, [(path, depth, status)])
    if operator_now() is not None:
        queue.owners = [QueueOwner.of(share) for share in await services.store.queues.largest_owners(path)]
    return json_unless_known(req, queue.document(), without_ages=without_ages([queue]))


async def configure_queue(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    endpoint = parse.endpoint(parse.queue_path(req), "", services.registry)
    settings = await QueueSettings.parse(req.get_body())
    await _check_may_be_set(endpoint, services)
    operator = operator_now()
    by = operator.name if operator else None
    try:
        async with audited(req, services, queue_action(settings.changes), endpoint.path):
            granted = [await services.store.queues.configure(endpoint.path, settings.changes, by=by)]
    except StoreUnavailable as error:
        services.dispatcher.dispatch_granted(error.granted)
        raise
    services.dispatcher.dispatch_granted(granted)
    [queue] = await _shown(services, [(endpoint.path, *await _read(endpoint.path, services))])
    return json_response(queue.document())


async def _all_queues(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    limit, behind, with_idle = page_limit(req), parse.queue_cursor(req), parse.flag(req, "all")
    queues = services.store.queues
    names, registered = await _names(services, with_idle=with_idle)
    following = sorted(name for name in names if name > behind)
    page = following[:limit]
    depths = await queues.depths(*page) if page else {}
    paths = [path for path in page if with_idle or depths[path] != Depth()]
    statuses = await asyncio.gather(*map(queues.status, paths))
    found = [
        (path, depths[path], status)
        for path, status in zip(paths, statuses, strict=True)
        if path in registered or _is_used(path, depths[path], status, services)
    ]
    shown = await _shown(services, found)
    cursor = page[-1] if len(following) > limit else None
    document = QueueDepthList(queues=shown, next_cursor=cursor).document()
    return json_unless_known(req, document, without_ages=[cursor, without_ages(shown)])


async def _names(services: Services, *, with_idle: bool) -> tuple[set[str], set[str]]:
    """The queues to look at, and those of them that are listed though they may be idle and without settings."""
    registered = {*services.registry.pipelines}
    used = registered | await services.store.queues.paths()
    if not with_idle:
        return used, registered
    used |= await services.store.queues.paths_with_settings()
    registered |= services.registry.endpoint_paths(used)
    return used | registered, registered


async def _shown(services: Services, queues: Sequence[tuple[str, Depth, QueueStatus]]) -> list[QueueDepth]:
    names_operator = operator_now() is not None
    registry = services.registry
    endpoints = {path: registry.endpoint_of(path) for path, _, _ in queues if path not in registry.pipelines}
    prefixes = {endpoint.backend.prefix for endpoint in endpoints.values() if endpoint is not None}
    answering = await services.store.queues.answering(prefixes)

    def state(path: str, depth: Depth, status: QueueStatus) -> BackendState:
        if path not in endpoints:  # a pipeline, whose steps have backends
            return "unknown"
        endpoint = endpoints[path]
        if endpoint is None or not endpoint.is_registered:
            return "unregistered"
        if status.is_down:
            return "down"
        if status.is_full:
            return "full"
        return "up" if depth.running or endpoint.backend.prefix in answering else "unknown"

    def bounds(path: str) -> OwnerBounds:
        endpoint = endpoints.get(path)
        return endpoint.backend.per_owner if endpoint else UNBOUNDED

    return [QueueDepth.of(*each, state(*each), bounds(each[0]), names_operator=names_operator) for each in queues]


async def _check_may_be_set(endpoint: Endpoint, services: Services) -> None:
    """
    Raises:
        Problem: 404 if tasks go to endpoints below this path and none to it: its settings would do nothing, while an
            operator takes the endpoints below it for paused.
        TooManyEndpoints: there is nothing at this path yet, and its backend has as many endpoints as it may.
    """
    if _is_used(endpoint.path, *await _read(endpoint.path, services), services):
        return
    below = sorted(path for path in await services.store.queues.paths() if path.startswith(endpoint.path + "/"))
    if below and endpoint.backend.endpoints is None:  # else the list has this one
        raise only_a_prefix(endpoint.path, below)
    await services.endpoint_bound.admit(endpoint)


async def _read(path: str, services: Services) -> tuple[Depth, QueueStatus]:
    queues = services.store.queues
    depths, status = await asyncio.gather(queues.depths(path), queues.status(path))
    return depths[path], status


def _is_used(path: str, depth: Depth, status: QueueStatus, services: Services) -> bool:
    """Whether the queue has a task or a setting of its own."""
    has_limit = status.limit != services.registry.limit(path)
    has_rate = status.rate != services.registry.rate(path)
    return depth != Depth() or status.holding > 0 or status.paused or status.draining or has_limit or has_rate
