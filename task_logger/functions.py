"""The two metric timers of the existing platform, and the queue-depth endpoint that autoscalers read."""

from __future__ import annotations

import asyncio
import logging

import azure.functions as func

from functions_http import http_function, json_response
from shared import telemetry
from shared.backends import UnknownBackend
from shared.problems import Problem
from shared.services import Services, current_services
from shared.task_store import Depth, StoreUnavailable
from task_logger.depths import QueueDepth, QueueDepthList, QueueSettings

log = logging.getLogger("task_backbone")

blueprint = func.Blueprint()

_seen: set[str] = set()


@blueprint.function_name("TaskQueueLogger")
@blueprint.timer_trigger("timer", schedule="*/30 * * * * *", run_on_startup=False, use_monitor=True)
async def task_queue_logger(timer: func.TimerRequest) -> None:
    for path, depth in (await _depths(current_services())).items():
        telemetry.depth(path, "created", depth.created)
    await asyncio.to_thread(telemetry.flush)


@blueprint.function_name("TaskProcessLogger")
@blueprint.timer_trigger("timer", schedule="0 */5 * * * *", run_on_startup=False, use_monitor=True)
async def task_process_logger(timer: func.TimerRequest) -> None:
    for path, depth in (await _depths(current_services())).items():
        telemetry.depth(path, "dispatched", depth.dispatched)
        telemetry.depth(path, "running", depth.running)
        telemetry.depth(path, "completed", depth.completed)
        telemetry.depth(path, "failed", depth.failed)
    await asyncio.to_thread(telemetry.flush)


@http_function(blueprint, "QueueDepths", route="v1/queues/{*path}", methods=["GET"])
async def queue_depths(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    name = _path(req)
    if name:
        return json_response((await _queue(services, name)).model_dump(by_alias=True))
    depths = await services.store.depths()
    names = sorted(depths)
    statuses = await asyncio.gather(*(services.queues.status(name) for name in names))
    queues = [QueueDepth.of(name, depths[name], status) for name, status in zip(names, statuses, strict=True)]
    return json_response(QueueDepthList(queues=queues).model_dump(by_alias=True))


@http_function(blueprint, "ConfigureQueue", route="v1/queues/{*path}", methods=["PATCH"])
async def configure_queue(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    name = _path(req)
    try:
        services.backends.endpoint(name)
    except UnknownBackend as error:
        raise Problem(404, "unknown-endpoint", "There is no such endpoint.", f"{name!r}: {error}.") from None
    granted = await services.queues.configure(name, QueueSettings.parse(req.get_body()).changes)
    services.dispatcher.hand_on(name, granted)
    return json_response((await _queue(services, name)).model_dump(by_alias=True))


async def _queue(services: Services, name: str) -> QueueDepth:
    depths, status = await asyncio.gather(services.store.depths(name), services.queues.status(name))
    return QueueDepth.of(name, depths[name], status)


def _path(req: func.HttpRequest) -> str:
    path = (req.route_params.get("path") or "").lstrip("/")
    return "/" + path if path else ""


async def _depths(services: Services) -> dict[str, Depth]:
    # A path whose last task was removed is reported as 0, or its gauge would keep its last value for ever.
    try:
        depths = await services.store.depths()
    except StoreUnavailable as error:
        # What else is waiting to be sent tells of the outage.
        log.warning("the queue depths could not be read, and will be: %s", error)
        return {}
    _seen.update(depths)
    return {path: depths.get(path, Depth()) for path in _seen}
