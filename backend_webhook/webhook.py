"""``BackendWebhook``: takes Event Grid's deliveries (contract A6)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from typing import Final
from weakref import WeakKeyDictionary

import azure.functions as func

from backend_webhook.deliveries import BadEvent, DispatchEvent, Event, Handshake, LegacyEvent, parse
from backend_webhook.entra_tokens import KeysUnavailable, TokenVerifier, Untrusted
from shared.bodies import BlobsUnavailable
from shared.dispatch.dispatcher import Dispatched
from shared.dispatch.registry import UnknownBackend
from shared.http.error_problems import problem_of
from shared.http.functions import HttpFunctions, header, json_response
from shared.http.legacy_json import LEGACY_CONTENT_TYPE
from shared.http.problems import FieldError, Problem, invalid, unavailable
from shared.services import Services, ServicesByLoop
from shared.settings import Settings
from shared.store import StoreUnavailable
from shared.tasks.outcomes import Existing, SlotGrant
from shared.tasks.task import NewTask, State

log = logging.getLogger("task_backbone")

_ORIGIN: Final = re.compile(r"[\x20-\x7e]{1,255}")
_MOST_LOGGED: Final = 20
_verifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, TokenVerifier] = WeakKeyDictionary()

Result = Dispatched | BadEvent | StoreUnavailable | BlobsUnavailable


class Unhandled(StrEnum):
    """Why an event was not handled."""

    INVALID = "invalid"
    """To deliver it again does not help."""
    UNAVAILABLE = "unavailable"
    """Redis or Blob Storage does not answer: it is to be delivered again."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    # With an application in Entra ID, deliveries bring a token; otherwise a function key.
    has_tokens = services.settings.webhook_tenant_id is not None
    # Not counted: dispatches have a limit of their own, and a task beyond it returns to its queue. If the app refused
    # deliveries, Event Grid would hold back all events for this endpoint.
    HttpFunctions(app, services).add(
        "BackendWebhook",
        backend_webhook,
        methods=["POST", "OPTIONS"],
        auth_level=func.AuthLevel.ANONYMOUS if has_tokens else func.AuthLevel.FUNCTION,
        counted=False,
        takes_body=True,
        query=None,
        for_owners=False,
    )


async def backend_webhook(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    await _authenticate(req, services)
    if req.method == "OPTIONS":
        return _cloud_events_handshake(req)
    _check_subscription(req, services.settings)
    events = await parse(req.get_body(), services.settings.event_grid_topic_id)
    if isinstance(events[0], Handshake) and len(events) == 1:
        return json_response({"validationResponse": events[0].code})
    return _response(await asyncio.gather(*(_handle(services, event) for event in events)))


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
        # Event Grid does not retry it: a foreign subscription must not make it think that the app is down.
        raise Problem(
            403,
            "wrong-subscription",
            "The delivery is another subscription's.",
            "The header aeg-subscription-name does not name the subscription that this app expects.",
        )


def _response(results: Sequence[Result]) -> func.HttpResponse:
    """What became of each event. The status tells Event Grid what to do with all of them."""
    bad: list[FieldError] = [
        {"pointer": f"/{index}", "detail": str(result)}
        for index, result in enumerate(results)
        if isinstance(result, BadEvent)
    ]
    if bad:
        details = dict.fromkeys(error["detail"] for error in bad)
        log.warning("%s bad events in a delivery: %s", len(bad), "; ".join(islice(details, _MOST_LOGGED)))
    words = [_word(result) for result in results]
    for result in results:
        if isinstance(result, (StoreUnavailable, BlobsUnavailable)):
            # Delivered again, an event that was handled is a duplicate and dropped.
            problem = problem_of(result)
            problem.document["results"] = words
            raise problem
    if bad:
        raise Problem(
            400,
            "invalid-event",
            "An event cannot be handled.",
            "See errors.",
            errors=bad,
            members={"results": words},
        )
    return json_response({"results": words})


def _word(result: Result) -> Dispatched | Unhandled:
    match result:
        case Dispatched():
            return result
        case BadEvent():
            return Unhandled.INVALID
        case _:
            return Unhandled.UNAVAILABLE


async def _handle(services: Services, event: Event | BadEvent) -> Result:
    try:
        match event:
            case DispatchEvent():
                return await services.dispatcher.dispatch(event.task_id, event.attempt, event.traceparent)
            case LegacyEvent():
                return await _take_in(services, event)
            case Handshake():
                return BadEvent("a handshake must come alone")
            case BadEvent():
                return event
    except (BadEvent, StoreUnavailable, BlobsUnavailable) as error:
        return error


async def _take_in(services: Services, event: LegacyEvent) -> Dispatched:
    """Take in an event of the legacy platform's publisher, which kept no task here, so that it cannot be lost."""
    try:
        endpoint = services.registry.resolve(event.url)
    except UnknownBackend as error:
        raise BadEvent(f"subject: {error}") from None
    task = await services.store.get(event.task_id)
    if event.body is not None and task is None:
        content = await services.bodies.put(event.task_id, LEGACY_CONTENT_TYPE, event.body)
        new = NewTask(
            event.task_id,
            endpoint.path,
            **endpoint.backend.bounds,
            query=endpoint.query,
            body=content,
            inline_body=event.body,
        )
        created = await services.store.create_unqueued(new)
        if isinstance(created, Existing):
            await services.bodies.discard(content)
        task = created.task
    if task is None:
        raise BadEvent("data: the task is not known, and there is no body to make it from")
    if task.state is not State.CREATED:
        return Dispatched.DROPPED
    granted = await services.store.enqueue(task)
    if not services.dispatcher.dispatch_granted([granted], but=SlotGrant.of(task)):
        return Dispatched.WAITING
    return await services.dispatcher.dispatch(task.id, task.attempt)


def _cloud_events_handshake(req: func.HttpRequest) -> func.HttpResponse:
    origin = header(req, "webhook-request-origin")
    if not origin:
        raise invalid("WebHook-Request-Origin", "the header is missing")
    if not _ORIGIN.fullmatch(origin):  # it goes into the answer, and the Functions host sends ASCII only
        raise invalid("WebHook-Request-Origin", "at most 255 printable ASCII characters are allowed")
    return func.HttpResponse(
        status_code=200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*", "Allow": "POST"}
    )
