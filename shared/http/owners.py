"""Whose behalf a request is on: the gateway names the owner, and nobody else may."""

from __future__ import annotations

import hmac
import re
from typing import Final, Literal

import azure.functions as func

from shared.http.headers import header
from shared.http.problems import Problem, invalid
from shared.settings import Settings

_OWNER: Final = re.compile(r"[\x21-\x7e]{1,128}")
_HEADERS: Final = {"owner": "X-Task-Owner", "operator": "X-Operator"}


def owner_of(req: func.HttpRequest, settings: Settings) -> str | None:
    """The owner in whose name a request comes; None if it names none.

    Raises:
        Problem: 403 if a caller that is not the gateway names an owner, 400 if the name cannot be one.
    """
    owner = header(req, "x-task-owner")
    if owner is None:
        return None
    check_is_gateway(req, settings, "owner")
    return checked_owner(owner, "X-Task-Owner")


def checked_owner(text: str, name: str) -> str:
    """An owner's name, as the header or parameter *name* has it.

    Raises:
        Problem: 400 if it cannot be one.
    """
    if not _OWNER.fullmatch(text):
        raise invalid(name, "1 to 128 printable ASCII characters without blanks are allowed")
    return text


def check_is_gateway(req: func.HttpRequest, settings: Settings, named: Literal["owner", "operator"]) -> None:
    """
    Args:
        named: whom the request names.

    Raises:
        Problem: 403 if it does not come from the gateway.
    """
    given = (header(req, "x-gateway-key") or "").encode()
    # Each is compared, whatever came out before: the time says nothing of which one it was.
    keys = [key.get_secret_value().encode() for key in settings.gateway_keys]
    if not sum(hmac.compare_digest(given, key) for key in keys):
        raise Problem(
            403,
            "not-the-gateway",
            f"Only the gateway may name an {named}.",
            f"{_HEADERS[named]} is believed only together with the gateway's X-Gateway-Key.",
        )


def not_for_owners() -> Problem:
    return Problem(
        403,
        "not-for-owners",
        "No owner may do this.",
        "What this function shows or changes belongs to all owners. It answers requests that name none.",
    )
