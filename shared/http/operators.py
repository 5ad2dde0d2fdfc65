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
from typing import Final, TypedDict, cast

import azure.functions as func

from shared.http.headers import header
from shared.http.owners import check_is_gateway
from shared.http.problems import Problem, invalid
from shared.settings import Settings
from shared.store import KnownBy


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
_NAME_CHARS: Final = 128
_PRINCIPAL_BYTES: Final = 32_768
_ROLE_CLAIM: Final = "roles"
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
    by: KnownBy


class _Claim(TypedDict):
    typ: str
    val: str


class _Principal(TypedDict, total=False):
    role_typ: str
    claims: list[_Claim]


def holder_of(role: Role) -> Operator:
    """The holder of a key that has the *role*."""
    return Operator(None, frozenset(ROLES_OF[role]), "key")


@contextmanager
def acting(operator: Operator) -> Generator[None]:
    """What is answered within is for the *operator*. The gateway may say its name, but give it no further role."""
    token = _acting.set(operator)
    try:
        yield
    finally:
        _acting.reset(token)


def operator_now() -> Operator | None:
    """Who asks now, for the audit and the history: ``name``, None if the app does not know it, and ``by``.

    Within the answer to any request, however far from it. None: no operator asks, but a caller, a model service, or
    whoever has the key of a function of the v1 API.
    """
    return _acting.get()


def operator_of(req: func.HttpRequest, settings: Settings) -> Operator | None:
    """The operator who asks; None if nobody says that it is one.

    Raises:
        Problem: 403 if a caller that is not the gateway names an operator, 400 if the name or a role cannot be one.
    """
    known = _acting.get()
    name, roles = header(req, "x-operator"), header(req, "x-operator-roles")
    if name is None and roles is None:
        return known
    check_is_gateway(req, settings, "operator")
    if name is None or not _NAME.fullmatch(name):
        raise invalid("X-Operator", f"1 to {_NAME_CHARS} printable ASCII characters are allowed")
    told = _roles(roles or "")
    return Operator(name, told if known is None else told & known.roles, "gateway")


def principal_of(req: func.HttpRequest) -> Operator:
    """The operator whom the platform's sign-in (App Service authentication) has let in. To be asked only if that is
    on: otherwise anybody may send the header.

    Raises:
        Problem: 401 if there is none; 403 if another site may have made the browser ask.
    """
    packed = header(req, "x-ms-client-principal") or ""
    name = _shown(header(req, "x-ms-client-principal-name") or "")
    if not packed or not name or len(packed) > _PRINCIPAL_BYTES:
        raise _not_signed_in("The platform's sign-in names no one.")
    # Another site can have the browser send the cookie, but not a header of its choice, nor this word of the browser.
    if header(req, "x-console") is None or header(req, "sec-fetch-site") != "same-origin":
        raise Problem(
            403,
            "another-site",
            "Only the console's own page may ask.",
            "A signed-in browser sends X-Console and Sec-Fetch-Site: same-origin with each request of the page.",
        )
    try:
        principal = cast("_Principal", json.loads(base64.b64decode(packed, validate=True)))
        kinds = {_ROLE_CLAIM, principal.get("role_typ", _ROLE_CLAIM)}
        words = {str(claim["val"]).lower() for claim in principal.get("claims", []) if claim["typ"] in kinds}
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _not_signed_in("What the platform says cannot be read.") from None
    return Operator(name, _with_those_below({role for role in Role if f"console.{role}" in words}), "easyauth")


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


def _roles(text: str) -> frozenset[Role]:
    words = [word.lower() for word in re.split(r"[\s,]+", text) if word]
    if unknown := [word for word in words if word not in ROLES_OF]:
        raise invalid("X-Operator-Roles", f"{', '.join(Role)} are known, not {unknown[0][:40]!r}")
    return _with_those_below({Role(word) for word in words})


def _with_those_below(roles: set[Role]) -> frozenset[Role]:
    return frozenset(below for role in roles for below in ROLES_OF[role])


def _shown(name: str) -> str:
    """A name as far as it can be shown: what turns the direction of a text, or ends a line, could forge another."""
    return "".join(character for character in name if character.isprintable()).strip()[:_NAME_CHARS]


def _not_signed_in(detail: str) -> Problem:
    return Problem(401, "not-signed-in", "Nobody is signed in.", detail)
