"""On whose behalf a request is made."""

from __future__ import annotations

import re

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.batch_service import BatchService
from cache_manager.task_service import TaskService
from shared.http.functions import header
from shared.http.operators import operator_now
from shared.http.owners import owner_of
from shared.services import Services

_PORT = re.compile(r":\d+\Z")


def service_for(req: func.HttpRequest, services: Services) -> TaskService:
    """The operations for this request's caller. It has an owner only if the gateway vouches for it.

    Raises:
        Problem: 403 if a caller that is not the gateway names an owner, 400 if the name cannot be one, or for a bad
            X-Task-Slots.
    """
    owner, operator = owner_of(req, services.settings), operator_now()
    by = None if operator is None else operator.name or ""
    if owner is None:
        return TaskService(services, client=_client(req), told=parse.told_slots(req), by=by)
    return TaskService(services, owner, by=by)


def batches_for(req: func.HttpRequest, services: Services) -> BatchService:
    """The operations on batches for this request's caller, as :func:`service_for`."""
    service = service_for(req, services)
    return BatchService(services, service.owner, service.by)


def _client(req: func.HttpRequest) -> str:
    """What tells this caller from others: the key, and the address from which the request came to Azure, which is the
    last one. Those before it are what the caller says."""
    key = header(req, "x-functions-key") or req.params.get("code") or ""
    address = (header(req, "x-forwarded-for") or "").rpartition(",")[2].strip()
    return f"{key} {_PORT.sub('', address)}"
