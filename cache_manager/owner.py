"""On whose behalf a request is made."""

from __future__ import annotations

import hmac
import re

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.batch_service import BatchService
from cache_manager.task_service import TaskService
from shared.http.functions import header
from shared.http.problems import Problem, invalid
from shared.services import Services

_OWNER = re.compile(r"[\x21-\x7e]{1,128}")
_PORT = re.compile(r":\d+\Z")


def service_for(req: func.HttpRequest, services: Services) -> TaskService:
    """The operations for this request's caller. It has an owner only if the gateway vouches for it.

    Raises:
        Problem: 403 if a caller that is not the gateway names an owner, 400 if the name cannot be one, or for a bad
            X-Task-Slots.
    """
    owner = header(req, "x-task-owner")
    if owner is None:
        return TaskService(services, client=_client(req), told=parse.told_slots(req))
    given = (header(req, "x-gateway-key") or "").encode()
    # Each is compared, whatever came out before: the time says nothing of which one it was.
    keys = [key.get_secret_value().encode() for key in services.settings.gateway_keys]
    if not sum(hmac.compare_digest(given, key) for key in keys):
        raise Problem(
            403,
            "not-the-gateway",
            "Only the gateway may name an owner.",
            "X-Task-Owner is believed only together with the gateway's X-Gateway-Key.",
        )
    if not _OWNER.fullmatch(owner):
        raise invalid("X-Task-Owner", "1 to 128 printable ASCII characters without blanks are allowed")
    return TaskService(services, owner)


def batches_for(req: func.HttpRequest, services: Services) -> BatchService:
    """The operations on batches for this request's caller, as :func:`service_for`."""
    return BatchService(services, service_for(req, services).owner)


def _client(req: func.HttpRequest) -> str:
    """What tells this caller from others: the key, and the address from which the request came to Azure, which is the
    last one. Those before it are what the caller says."""
    key = header(req, "x-functions-key") or req.params.get("code") or ""
    address = (header(req, "x-forwarded-for") or "").rpartition(",")[2].strip()
    return f"{key} {_PORT.sub('', address)}"
