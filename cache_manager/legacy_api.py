"""The legacy platform's two connector functions, which its model services and gateways call (contract A1, A2)."""

from __future__ import annotations

import azure.functions as func

from cache_manager.outcome_problems import task_of
from cache_manager.owner import service_for
from cache_manager.schemas import TaskUpsert, TaskView
from shared.http.functions import HttpFunctions, json_response
from shared.http.problems import invalid
from shared.services import Services, ServicesByLoop
from shared.tasks.ids import is_task_id


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add("CacheConnectorUpsert", cache_connector_upsert, methods=["POST"], takes_body=True, query=None)
    functions.add("CacheConnectorGet", cache_connector_get, methods=["GET"], query=None)


async def cache_connector_upsert(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    task = task_of(await service.upsert(await TaskUpsert.parse(req.get_body())), services.registry)
    task = await service.whole_if_possible(task)
    return json_response(await TaskView.of(task, registry=services.registry).encoded_whole(task))


async def cache_connector_get(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task_id = req.params.get("taskId")
    if not task_id:
        raise invalid("taskId", "the query parameter is missing")
    service = service_for(req, services)
    task = await service.find(task_id) if is_task_id(task_id) else None
    if task is None:
        return func.HttpResponse(status_code=204)
    queue = await service.queue_status(task)
    outage = queue.outage if queue else None
    task = await service.whole(task)
    view = TaskView.of(task, outage=outage, registry=services.registry)
    return json_response(await view.encoded_whole(task))
