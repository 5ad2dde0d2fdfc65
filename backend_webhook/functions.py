from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

import azure.functions as func

from backend_webhook.entra import KeysUnavailable, TokenVerifier, Untrusted
from backend_webhook.events import BadEvent, ClassicEvent, DispatchEvent, Handshake, read, split
from functions_http import header, http_function, json_response
from shared.backends import UnknownBackend
from shared.bodies import BlobsUnavailable
from shared.dispatcher import Dispatched
from shared.problems import FieldError, Problem, invalid, unavailable
from shared.services import Services, process_settings
from shared.settings import Settings
from shared.task import State
from shared.task_store import Existing, NewTask, StoreUnavailable

log = logging.getLogger("task_backbone")

blueprint = func.Blueprint()

CLASSIC_CONTENT_TYPE = "application/json; charset=utf-8"

_verifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, TokenVerifier] = WeakKeyDictionary()


class Undone(StrEnum):
    """Why an event was not handled."""

    INVALID = "invalid"
    """No repetition makes it right."""
    UNAVAILABLE = "unavailable"
    """Redis or Blob Storage does not answer: it is to be delivered again."""


def auth_level(settings: Settings) -> func.AuthLevel:
    """Where the webhook has an application in Entra ID, deliveries bring a token; else a function key."""
    return func.AuthLevel.ANONYMOUS if settings.webhook_tenant_id else func.AuthLevel.FUNCTION


# Not counted: dispatches have a limit of their own, beyond which a task is put back; Event Grid, refused, would hold
# back all events to this endpoint.
@http_function(
    blueprint,
    "BackendWebhook",
    methods=["POST", "OPTIONS"],
    auth_level=auth_level(process_settings()),
    counted=False,
)
async def backend_webhook(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    await _authenticate(req, services)
    if req.method == "OPTIONS":
        return _cloud_events_handshake(req)
    _check_subscription(req, services.settings)
    try:
        deliveries = split(req.get_body())
    except BadEvent as error:
        raise invalid("", str(error)) from None
    topic_id = services.settings.event_grid_topic_id
    if len(deliveries) == 1 and isinstance(handshake := _try_read(deliveries[0], topic_id), Handshake):
        return json_response({"validationResponse": handshake.code})
    results = await asyncio.gather(*(_handle(services, delivery) for delivery in deliveries))
    return _answer(results)


async def _authenticate(req: func.HttpRequest, services: Services) -> None:
    settings = services.settings
    if not settings.webhook_tenant_id:
        return  # the Functions host has checked the key
    loop = asyncio.get_running_loop()
    verifier = _verifiers.get(loop)
    if verifier is None:
        assert settings.webhook_audience is not None
        verifier = _verifiers[loop] = TokenVerifier(
            settings.webhook_authority, settings.webhook_tenant_id, settings.webhook_audience
        )
    try:
        await verifier.verify(header(req, "authorization"))
    except Untrusted as error:
        log.warning("refused a delivery without a valid token: %s", error)
        raise Problem(
            401,
            "not-authenticated",
            "The request is not authenticated.",
            "A token that Microsoft Entra ID issued to Event Grid for this webhook is expected.",
            headers={"WWW-Authenticate": "Bearer"},
        ) from None
    except KeysUnavailable:
        log.warning("Entra ID does not give its signing keys")
        raise unavailable("Microsoft Entra ID") from None


def _check_subscription(req: func.HttpRequest, settings: Settings) -> None:
    expected = settings.event_grid_subscription
    if expected and (header(req, "aeg-subscription-name") or "").casefold() != expected.casefold():
        log.warning("refused a delivery of another subscription")
        # Not retried by Event Grid: a foreign subscription must not make it think that the app is down.
        raise Problem(
            403,
            "wrong-subscription",
            "The delivery is another subscription's.",
            "The header aeg-subscription-name does not name the subscription that this app expects.",
        )


def _answer(results: list[Dispatched | BadEvent | StoreUnavailable | BlobsUnavailable]) -> func.HttpResponse:
    """What became of each event; the status is what Event Grid must do with all of them."""
    bad: list[FieldError] = [
        {"pointer": f"/{index}", "detail": str(result)}
        for index, result in enumerate(results)
        if isinstance(result, BadEvent)
    ]
    if bad:
        log.warning("bad events in a delivery: %s", "; ".join(error["detail"] for error in bad))
    told = [
        result
        if isinstance(result, Dispatched)
        else (Undone.INVALID if isinstance(result, BadEvent) else Undone.UNAVAILABLE)
        for result in results
    ]
    for result in results:
        if isinstance(result, (StoreUnavailable, BlobsUnavailable)):
            # Delivered again, what was done is a duplicate and dropped.
            what = "The task store" if isinstance(result, StoreUnavailable) else "Blob Storage"
            log.warning("%s does not answer: %s", what, result)
            problem = unavailable(what)
            problem.document["results"] = told
            raise problem
    if bad:
        raise Problem(
            400,
            "invalid-event",
            "An event cannot be handled.",
            "See errors.",
            errors=bad,
            members={"results": told},
        )
    return json_response({"results": told})


async def _handle(services: Services, delivery: Any) -> Dispatched | BadEvent | StoreUnavailable | BlobsUnavailable:
    try:
        event = read(delivery, services.settings.event_grid_topic_id)
        if isinstance(event, DispatchEvent):
            return await services.dispatcher.dispatch(event.task_id, event.attempt, event.traceparent)
        if isinstance(event, ClassicEvent):
            return await _take_in(services, event)
        raise BadEvent("a handshake must come alone")
    except (BadEvent, StoreUnavailable, BlobsUnavailable) as error:
        return error


async def _take_in(services: Services, event: ClassicEvent) -> Dispatched:
    """The former platform's publisher kept no task here: its event is taken in first, so that it cannot be lost."""
    try:
        endpoint = services.backends.resolve(event.url)
    except UnknownBackend as error:
        raise BadEvent(f"subject: {error}") from None
    task = await services.store.get(event.task_id)
    if event.body is not None and task is None:
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
        task = created.task
    if task is None:
        raise BadEvent("data: the task is not known, and there is no body to make it from")
    if task.state is not State.CREATED:
        return Dispatched.DROPPED
    if not await services.dispatcher.enter(task):
        return Dispatched.WAITING
    return await services.dispatcher.dispatch(task.id, task.attempt)


def _cloud_events_handshake(req: func.HttpRequest) -> func.HttpResponse:
    origin = header(req, "webhook-request-origin")
    if not origin:
        raise invalid("WebHook-Request-Origin", "the header is missing")
    return func.HttpResponse(
        status_code=200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*", "Allow": "POST"}
    )


def _try_read(delivery: Any, topic_id: str | None) -> Any:
    try:
        return read(delivery, topic_id)
    except BadEvent:
        return None
