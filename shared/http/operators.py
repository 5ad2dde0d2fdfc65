"""Who operates the app, and in which roles: the gateway says so, the platform's sign-in, or the key of one of the
console's functions."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, cast

import azure.functions as func

from shared.http.headers import header
from shared.http.owners import check_is_gateway
from shared.http.problems import Problem, invalid
from shared.settings import Settings


class Role(StrEnum):
    """What an operator may do."""

    READ = "read"
    """See queues, tasks and their history."""
    CONTENT = "content"
    """See bodies and results too."""
    OPERATE = "operate"
    """Change tasks and queues too."""


ROLES_OF: Final = {
    Role.READ: (Role.READ,),
    Role.CONTENT: (Role.READ, Role.CONTENT),
    Role.OPERATE: (Role.READ, Role.CONTENT, Role.OPERATE),
}
"""A role, and those that it has with it."""
_NAME: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")
_PRINCIPAL_BYTES: Final = 32_768
_acting: ContextVar[Operator | None] = ContextVar("acting", default=None)


@dataclass(frozen=True, slots=True)
class Operator:
    """
    Attributes:
        name: None if the app does not know it, as of a key's holder.
        by: how it knows.
    """

    name: str | None
    roles: frozenset[Role]
    by: Literal["key", "gateway", "easyauth"]


def holder_of(role: Role) -> Operator:
    """The holder of a key that has the *role*."""
    return Operator(None, frozenset(ROLES_OF[role]), "key")


@contextmanager
def acting(operator: Operator) -> Generator[None]:
    """What is answered within is for the *operator*, whatever the request's headers say."""
    token = _acting.set(operator)
    try:
        yield
    finally:
        _acting.reset(token)


def operator_of(req: func.HttpRequest, settings: Settings) -> Operator | None:
    """The operator who asks; None if nobody says that it is one.

    Raises:
        Problem: 403 if a caller that is not the gateway names an operator, 400 if the name or a role cannot be one.
    """
    name = header(req, "x-operator")
    if name is None or _acting.get() is not None:
        return _acting.get()
    check_is_gateway(req, settings, "X-Operator")
    if not _NAME.fullmatch(name):
        raise invalid("X-Operator", "1 to 128 printable ASCII characters are allowed")
    return Operator(name, _roles(header(req, "x-operator-roles") or "", "X-Operator-Roles"), "gateway")


def principal_of(req: func.HttpRequest) -> Operator:
    """The operator whom the platform's sign-in (App Service authentication) has let in. To be asked only if that is
    on: otherwise anybody may send the header.

    Raises:
        Problem: 401 if there is none; 403 if another site may have made the browser ask.
    """
    packed = header(req, "x-ms-client-principal") or ""
    name = header(req, "x-ms-client-principal-name")
    if not packed or not name or len(packed) > _PRINCIPAL_BYTES:
        raise Problem(401, "not-signed-in", "Nobody is signed in.", "The platform's sign-in names no one.")
    if header(req, "x-console") is None or header(req, "sec-fetch-site") != "same-origin":
        raise Problem(
            403,
            "another-site",
            "Only the console's own page may ask.",
            "A signed-in browser sends X-Console and Sec-Fetch-Site: same-origin with each request of the page.",
        )
    try:
        claims = cast("dict[str, Any]", json.loads(base64.b64decode(packed, validate=True))).get("claims", [])
        words = [str(claim["val"]) for claim in claims if str(claim["typ"]).rpartition("/")[2] in ("roles", "role")]
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Problem(
            401, "not-signed-in", "Nobody is signed in.", "What the platform says cannot be read."
        ) from None
    found = {role for role in Role for word in words if word.lower() in (role, f"console.{role}")}
    return Operator(name[:128], _with_those_below(found), "easyauth")


def check_role(operator: Operator | None, role: Role | None) -> None:
    """
    Raises:
        Problem: 403 if an operator asks for what none of its roles may.
    """
    if operator is None or (role is not None and role in operator.roles):
        return
    wanted = f"It takes the role {role}." if role else "It is for callers and model services."
    has = ", ".join(sorted(operator.roles)) or "none"
    raise Problem(403, "role-missing", "The operator may not do this.", f"{wanted} The operator has: {has}.")


def _roles(text: str, name: str) -> frozenset[Role]:
    words = [word.lower() for word in re.split(r"[\s,]+", text) if word]
    if unknown := [word for word in words if word not in set(Role)]:
        raise invalid(name, f"{', '.join(Role)} are known, not {unknown[0][:40]!r}")
    return _with_those_below({Role(word) for word in words})


def _with_those_below(roles: set[Role]) -> frozenset[Role]:
    return frozenset(below for role in roles for below in ROLES_OF[role])
