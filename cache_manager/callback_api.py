"""The destinations of callbacks in the v1 API (contract B29)."""

from __future__ import annotations

from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.audit import audited
from cache_manager.callback_schemas import CallbackView, ResendRequest, Resent, body_of
from shared.dispatch.destinations import Destination, Destinations
from shared.http.functions import HttpFunctions, header, json_response
from shared.http.operators import Role
from shared.http.owners import not_for_owners, owner_of
from shared.http.problems import Problem, invalid, no_such_task
from shared.services import Services, ServicesByLoop
from shared.tasks.callback import WantedCallback

CALLBACK_HEADER: Final = "Callback"


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    services.keep_running(shape_deliveries)
    functions = HttpFunctions(app, services)
    functions.add("GetCallback", get_callback, route="v1/callbacks/{name}", methods=["GET"], role=Role.READ)
    functions.add(
        "ResendCallbacks",
        resend_callbacks,
        route="v1/callbacks/{name}/resend",
        methods=["POST"],
        takes_body=True,
        role=Role.OPERATE,
    )


async def shape_deliveries(services: Services) -> None:
    """At the process' begin: deliveries do not know how clients see a task."""
    services.deliveries.body_of = body_of


async def get_callback(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    destination = _named(req, services)
    if destination.owner is None and owner_of(req, services.settings) is not None:
        raise not_for_owners()  # it would tell how many tasks others have
    view = CallbackView.of(destination, await services.store.callbacks.state(destination.name))
    return json_response(view.model_dump(by_alias=True))


async def resend_callbacks(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    destination, request = _named(req, services), await ResendRequest.parse(req.get_body() or b"{}")
    owner, name = owner_of(req, services.settings), destination.name
    since_ms = parse.time_ms(request.since, "/Since")
    if request.task_id is not None and since_ms is not None:
        raise invalid("/Since", "it is not taken together with TaskId")
    if request.task_id is None and destination.owner is None and owner is not None:
        raise not_for_owners()
    async with audited(req, services, f"resend to {name}", request.task_id) as action:
        if request.task_id is None:
            resent = await services.store.callbacks.resend_given_up(name, since_ms or 0)
        else:
            found = await services.store.callbacks.resend(name, request.task_id, owner)
            if found is None:
                raise no_such_task()
            resent = found
        action.count = resent
    services.run_beside(services.deliveries.round())
    return json_response(Resent(resent=resent).model_dump(by_alias=True))


def callback_of(req: func.HttpRequest, destinations: Destinations, owner: str | None) -> WantedCallback | None:
    """Whom a submitted task is to tell how it ends; None if the request names nobody.

    Raises:
        Problem: 400 if there is no such destination, or it is another owner's.
    """
    name = header(req, CALLBACK_HEADER)
    if name is None:
        return None
    destination = destinations.find(name.strip(), owner)
    if destination is None:
        raise invalid(CALLBACK_HEADER, "there is no such destination")
    return destination.wanted


def _named(req: func.HttpRequest, services: Services) -> Destination:
    """The destination of the route, as far as the caller may know of it: of one with an owner, nobody else does but
    who speaks for no owner."""
    owner = owner_of(req, services.settings)
    name = req.route_params.get("name") or ""
    destinations = services.destinations
    found = destinations.by_name.get(name) if owner is None else destinations.find(name, owner)
    if found is None:
        raise Problem(
            404, "unknown-destination", "There is no such destination.", "No entry of CALLBACKS has this name."
        )
    return found
