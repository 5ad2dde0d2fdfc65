"""On whose behalf a request is made."""

from __future__ import annotations

import hmac
import re

import azure.functions as func

from cache_manager.tasks import Tasks
from functions_http import header
from shared.problems import Problem, invalid
from shared.services import Services

_OWNER = re.compile(r"[\x21-\x7e]{1,128}")


def tasks_for(req: func.HttpRequest, services: Services) -> Tasks:
    """The operations for whoever makes this request: with an owner only if the gateway vouches for it.

    Raises:
        Problem: 403 if an owner is claimed by who is not the gateway, 400 if it cannot be one.
    """
    owner = header(req, "x-task-owner")
    if owner is None:
        return Tasks(services)
    expected = services.settings.gateway_key
    given = header(req, "x-gateway-key") or ""
    if expected is None or not hmac.compare_digest(given.encode(), expected.get_secret_value().encode()):
        raise Problem(
            403,
            "not-the-gateway",
            "Only the gateway may name an owner.",
            "X-Task-Owner is believed only together with the gateway's X-Gateway-Key.",
        )
    if not _OWNER.fullmatch(owner):
        raise invalid("X-Task-Owner", "1 to 128 printable ASCII characters without blanks are allowed")
    return Tasks(services, owner)
