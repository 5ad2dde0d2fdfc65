"""The queues of the v1 API: depths for autoscalers, settings for operators."""

from __future__ import annotations

import asyncio

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.schemas import QueueDepth, QueueDepthList, QueueSettings
from shared.http.functions import HttpFunctions, json_response
from shared.services import Services, ServicesByLoop
from shared.store import TaskQueues


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add("QueueDepths", queue_depths, route="v1/queues/{*path}", methods=["GET"])
    functions.add("ConfigureQueue", configure_queue, route="v1/queues/{*path}", methods=["PATCH"], takes_body=True)


async def queue_depths(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    queues = services.store.queues
    if path := parse.queue_path(req):
        return json_response((await _depth(queues, path)).model_dump(by_alias=True))
    depths = await queues.depths()
    paths = sorted(depths)
    statuses = await asyncio.gather(*map(queues.status, paths))
    found = [QueueDepth.of(path, depths[path], status) for path, status in zip(paths, statuses, strict=True)]
    return json_response(QueueDepthList(queues=found).model_dump(by_alias=True))


async def configure_queue(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    path = parse.endpoint(parse.queue_path(req), "", services.registry).path
    queues = services.store.queues
    granted = await queues.configure(path, QueueSettings.parse(req.get_body()).changes)
    services.dispatcher.dispatch_granted([granted])
    return json_response((await _depth(queues, path)).model_dump(by_alias=True))


async def _depth(queues: TaskQueues, path: str) -> QueueDepth:
    depths, status = await asyncio.gather(queues.depths(path), queues.status(path))
    return QueueDepth.of(path, depths[path], status)
