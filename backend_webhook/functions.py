from __future__ import annotations

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

import azure.functions as func

from backend_webhook.backend_client import BackendClient
from backend_webhook.dispatcher import Dispatched, Dispatcher
from backend_webhook.events import BadEvent, ClassicEvent, DispatchEvent, Handshake, read, split
from functions_http import header, http_function, json_response
from shared.backends import UnknownBackend
from shared.bodies import BlobsUnavailable
from shared.problems import FieldError, Problem, invalid
from shared.services import Services
from shared.task_store import Existing, NewTask, StoreUnavailable

log = logging.getLogger("task_backbone")

blueprint = func.Blueprint()

CLASSIC_CONTENT_TYPE = "application/json; charset=utf-8"

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, BackendClient] = WeakKeyDictionary()


@http_function(blueprint, "BackendWebhook", methods=["POST", "OPTIONS"])
async def backend_webhook(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    if req.method == "OPTIONS":
        return _cloud_events_handshake(req)
    try:
        deliveries = split(req.get_body())
    except BadEvent as error:
        raise invalid("", str(error)) from None
    if len(deliveries) == 1 and isinstance(handshake := _try_read(deliveries[0]), Handshake):
        return json_response({"validationResponse": handshake.code})
    dispatcher = Dispatcher(services, _client(services))
    results = await asyncio.gather(*(_handle(dispatcher, delivery) for delivery in deliveries))
    for result in results:
        if isinstance(result, (StoreUnavailable, BlobsUnavailable)):
            # Delivered again, what was done is a duplicate and dropped.
            raise result
    bad: list[FieldError] = [
        {"pointer": f"/{index}", "detail": str(result)}
        for index, result in enumerate(results)
        if isinstance(result, BadEvent)
    ]
    if bad:
        log.warning("bad events in a delivery: %s", "; ".join(error["detail"] for error in bad))
        raise Problem(400, "invalid-event", "An event cannot be handled.", "See errors.", errors=bad)
    return json_response({"results": [str(result) for result in results]})


async def _handle(
    dispatcher: Dispatcher, delivery: Any
) -> Dispatched | BadEvent | StoreUnavailable | BlobsUnavailable:
    try:
        event = read(delivery)
        if isinstance(event, DispatchEvent):
            return await dispatcher.dispatch(event.task_id, event.attempt, event.traceparent)
        if isinstance(event, ClassicEvent):
            return await _dispatch_classic(dispatcher, event)
        raise BadEvent("a handshake must come alone")
    except (BadEvent, StoreUnavailable, BlobsUnavailable) as error:
        return error


async def _dispatch_classic(dispatcher: Dispatcher, event: ClassicEvent) -> Dispatched:
    """The former platform's publisher kept no task here: its event is taken in first, so that it cannot be lost."""
    services = dispatcher.services
    try:
        endpoint = services.backends.resolve(event.url)
    except UnknownBackend as error:
        raise BadEvent(f"subject: {error}") from None
    if event.body is not None:
        content = await services.bodies.put(event.task_id, CLASSIC_CONTENT_TYPE, event.body)
        created = await services.store.create(
            NewTask(
                event.task_id,
                endpoint.path,
                endpoint.backend.lease_s,
                query=endpoint.query,
                body=content,
                inline_body=event.body,
            )
        )
        if isinstance(created, Existing):
            await services.bodies.discard(content)
    elif await services.store.get(event.task_id) is None:
        raise BadEvent("data: the task is not known, and there is no body to make it from")
    return await dispatcher.dispatch(event.task_id, None, "")


def _cloud_events_handshake(req: func.HttpRequest) -> func.HttpResponse:
    origin = header(req, "webhook-request-origin")
    if not origin:
        raise invalid("WebHook-Request-Origin", "the header is missing")
    return func.HttpResponse(
        status_code=200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*", "Allow": "POST"}
    )


def _try_read(delivery: Any) -> Any:
    try:
        return read(delivery)
    except BadEvent:
        return None


def _client(services: Services) -> BackendClient:
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        client = _clients[loop] = BackendClient(services.backends)
    return client
