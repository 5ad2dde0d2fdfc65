"""What ``CALLBACKS`` says: the destinations that are told of tasks, and the secrets that sign what they are told."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationInfo

MOST_DESTINATIONS: Final = 100
"""Each round of the reconciler asks for each."""
_BEGINNING: Final = "whsec_"
_SECRET_BYTES: Final = range(24, 65)
"""As Standard Webhooks has it."""
_EXPECTED: Final = "must be a JSON object of destination → {url, secret_setting, …}"
_KEY_EXPECTED: Final = "whsec_ and 24 to 64 bytes in base64 are expected"


class DestinationSettings(BaseModel):
    """One entry of ``CALLBACKS``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(max_length=2048)
    secret_setting: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")
    """The app setting that has the secret. That of the same name and ``_PREVIOUS``, if there is one, has the one that
    is being rotated out."""
    events: list[Literal["completed", "failed", "cancelled", "progress"]] = Field(
        default=["completed", "failed", "cancelled"], min_length=1
    )
    owner: str | None = Field(default=None, pattern=r"^[\x21-\x7e]{1,128}$")
    """Whose it is: nobody else may name it, and it is told of this owner's tasks that name none."""


class CallbacksSettings(BaseModel):
    """All of ``CALLBACKS``."""

    model_config = ConfigDict(frozen=True)

    entries: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")], DestinationSettings],
        Field(max_length=MOST_DESTINATIONS),
    ] = {}
    secrets: dict[str, list[SecretStr]] = {}
    """Of each ``secret_setting``, the secret, and the one that is being rotated out."""


def parse_callbacks(value: Any, info: ValidationInfo) -> Any:
    """``CALLBACKS``, as JSON or parsed, in the form of :class:`CallbacksSettings`, with the secrets that the
    environment has (the context of the validation).

    Raises:
        ValueError: it is no JSON object; or a secret is missing or none.
    """
    if isinstance(value, CallbacksSettings):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            raise ValueError(_EXPECTED) from None
    if not isinstance(value, dict):
        raise ValueError(_EXPECTED)
    entries = cast("dict[str, Any]", value)
    environ = {name.upper(): text for name, text in cast("Mapping[str, str]", info.context or {}).items()}
    secrets: dict[str, list[str]] = {}
    for entry in entries.values():
        name = cast("dict[str, Any]", entry).get("secret_setting") if isinstance(entry, dict) else None
        if isinstance(name, str):
            secrets[name] = _secrets(name, environ)
    return {"entries": entries, "secrets": secrets}


def secret_bytes(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_BEGINNING), validate=True)
    except binascii.Error:
        raise ValueError(_KEY_EXPECTED) from None
    if not secret.startswith(_BEGINNING) or len(key) not in _SECRET_BYTES:
        raise ValueError(_KEY_EXPECTED)
    return key


def _secrets(name: str, environ: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for each in (name, f"{name}_PREVIOUS"):
        secret = environ.get(each.upper(), "").strip()
        if not secret:
            continue
        try:
            secret_bytes(secret)
        except ValueError as error:
            raise ValueError(f"setting {each}: {error}") from None
        found.append(secret)
    if not environ.get(name.upper(), "").strip():
        raise ValueError(f"setting {name}: it is missing, and a destination of CALLBACKS needs it")
    return found
