"""The queues of the v1 API: depths for autoscalers, settings for operators."""

from __future__ import annotations

import asyncio

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import only_a_prefix, unknown_endpoint
from cache_manager.schemas import QueueDepth, QueueDepthList, QueueSettings
from shared.dispatch.registry import Endpoint
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role
from shared.services import Services, ServicesByLoop
from shared.store import Depth, QueueStatus, StoreUnavailable


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "QueueDepths",
        queue_depths,
        route="v1/queues/{*path}",
        methods=["GET"],
        query=["limit", "cursor"],
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
    queues = services.store.queues
    if path := parse.queue_path(req):
        parse.no_page(req)
        depth, status = await _read(path, services)
        is_known = services.registry.endpoint_of(path) is not None or path in services.registry.pipelines
        if not is_known and not _is_used(path, depth, status, services):
            raise unknown_endpoint(path, "no backend is registered for this path, and it has no tasks")
        return json_response(QueueDepth.of(path, depth, status).model_dump(by_alias=True))
    limit, behind = parse.limit(req), parse.queue_cursor(req)
    names = sorted(name for name in {*await queues.paths(), *services.registry.pipelines} if name > behind)
    page = names[:limit]
    depths = await queues.depths(*page) if page else {}
    paths = [path for path in page if depths[path] != Depth()]
    statuses = await asyncio.gather(*map(queues.status, paths))
    found = [QueueDepth.of(path, depths[path], status) for path, status in zip(paths, statuses, strict=True)]
    following = page[-1] if len(names) > limit else None
    return json_response(QueueDepthList(queues=found, next_cursor=following).model_dump(by_alias=True))


async def configure_queue(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    endpoint = parse.endpoint(parse.queue_path(req), "", services.registry)
    settings = await QueueSettings.parse(req.get_body())
    await _check_is_no_mere_prefix(endpoint, services)
    try:
        granted = [await services.store.queues.configure(endpoint.path, settings.changes)]
    except StoreUnavailable as error:
        services.dispatcher.dispatch_granted(error.granted)
        raise
    services.dispatcher.dispatch_granted(granted)
    return json_response(
        QueueDepth.of(endpoint.path, *await _read(endpoint.path, services)).model_dump(by_alias=True)
    )


async def _check_is_no_mere_prefix(endpoint: Endpoint, services: Services) -> None:
    """
    Raises:
        Problem: 404 if tasks go to endpoints below this path and none to it: its settings would do nothing, while an
            operator takes the endpoints below it for paused.
    """
    below = sorted(path for path in await services.store.queues.paths() if path.startswith(endpoint.path + "/"))
    if not below or endpoint.backend.endpoints is not None:  # which list this one, or it would be none
        return
    if not _is_used(endpoint.path, *await _read(endpoint.path, services), services):
        raise only_a_prefix(endpoint.path, below)


async def _read(path: str, services: Services) -> tuple[Depth, QueueStatus]:
    queues = services.store.queues
    depths, status = await asyncio.gather(queues.depths(path), queues.status(path))
    return depths[path], status


def _is_used(path: str, depth: Depth, status: QueueStatus, services: Services) -> bool:
    """Whether the queue has a task or a setting of its own."""
    has_limit = status.limit != services.registry.limit(path)
    return depth != Depth() or status.holding > 0 or status.paused or status.draining or has_limit
