"""The former platform's two functions, which existing model services and gateways call (contract A1, A2)."""

from __future__ import annotations

import azure.functions as func

from cache_manager.callers import tasks_for
from cache_manager.wire import TaskUpsert, TaskView
from functions_http import http_function, json_response
from shared.problems import invalid
from shared.services import Services
from shared.task_id import is_task_id

blueprint = func.Blueprint()


@http_function(blueprint, "CacheConnectorUpsert", methods=["POST"])
async def cache_connector_upsert(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).upsert(TaskUpsert.parse(req.get_body()))
    return json_response(TaskView.of(task, services.backends).encoded())


@http_function(blueprint, "CacheConnectorGet", methods=["GET"])
async def cache_connector_get(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task_id = req.params.get("taskId")
    if not task_id:
        raise invalid("taskId", "the query parameter is missing")
    task = await tasks_for(req, services).find(task_id) if is_task_id(task_id) else None
    if task is None:
        return func.HttpResponse(status_code=204)
    return json_response(TaskView.of(task, services.backends).encoded())
