"""The batches of the v1 API (contract B17)."""

from __future__ import annotations

import hashlib

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.audit import audited
from cache_manager.batch_schemas import BatchList, BatchView, NewBatchRequest
from cache_manager.callback_api import callback_of
from cache_manager.outcome_problems import unknown_batch
from cache_manager.owner import batches_for
from cache_manager.submitting import then_route, then_task
from cache_manager.task_api import outcome_response
from shared import telemetry
from shared.http.conditional import json_unless_known
from shared.http.functions import HttpFunctions
from shared.http.operators import Role
from shared.http.paging import page_limit
from shared.services import Services, ServicesByLoop
from shared.store import Listing
from shared.tasks.callback import WantedCallback
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Refused
from shared.tasks.task import NewBatch, ThenTask


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "CreateBatch", create_batch, route="v1/batches", methods=["POST"], takes_body=True, role=Role.OPERATE
    )
    functions.add(
        "ListBatches", list_batches, route="v1/batches", methods=["GET"], query=["limit", "cursor"], role=Role.READ
    )
    functions.add("SealBatch", seal_batch, route="v1/batches/{id}/seal", methods=["POST"], role=Role.OPERATE)


async def create_batch(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    request, key = await NewBatchRequest.parse(req.get_body() or b"{}"), parse.idempotency_key(req)
    then = None if request.then is None else await _then_task(request.then, services)
    batches = batches_for(req, services)
    callback = callback_of(req, services.destinations, batches.owner)
    new = NewBatch(
        await services.store.keyed_ids.id_of(batches.owner or "", "batches", key) if key else new_task_id(),
        request.name or "",
        then,
        parse.priority(req),
        telemetry.traceparent(),
        batches.owner or "",
        _fingerprint(request.name or "", then.asked if then else "", callback) if key else "",
        callback,
    )
    async with audited(req, services, "create batch", new.id, is_callers=True):
        created = await batches.create(new)
        return outcome_response(created, services, 202, {"Location": parse.location(req, new.id)})


async def _then_task(path: str, services: Services) -> ThenTask:
    route = then_route(path, services.registry)
    await services.endpoint_bound.admit_later(*route.endpoints)
    return then_task(route)


def _fingerprint(name: str, then: str, callback: WantedCallback | None) -> str:
    """What tells whether two batches with the same idempotency key are the same."""
    told = f"\nCallback: {callback.destination}" if callback else ""
    return hashlib.sha256(f"{name}\n{then}{told}".encode()).hexdigest()[:32]


async def list_batches(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    page = await batches_for(req, services).page(Listing(limit=page_limit(req), before=parse.list_cursor(req)))
    listed = BatchList(
        batches=[BatchView.of_batch(batch) for batch in page.tasks],
        next_cursor=parse.cursor_text(page.next) if page.next else None,
    )
    return json_unless_known(req, listed.model_dump_json(by_alias=True).encode())


async def seal_batch(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    batch_id = parse.task_id(req)
    async with audited(req, services, "seal", batch_id, is_callers=True):
        outcome = await batches_for(req, services).seal(batch_id)
        if isinstance(outcome, Refused):
            raise unknown_batch()
    return outcome_response(outcome, services)
