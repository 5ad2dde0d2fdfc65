"""What the backbone calls when a task has ended, on the side that is called."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union, cast

from .errors import InvalidCallback

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["verify_callback"]

Secret = Union[str, bytes]


def verify_callback(
    headers: Mapping[str, Any] | Message,
    body: bytes | str,
    secret: Secret | Iterable[Secret],
    *,
    tolerance_s: float = 300.0,
) -> dict[str, Any]:
    """Check that a callback comes from the backbone (Standard Webhooks), and return its body, the task as the API's
    JSON object. A callback may come twice: then its header ``webhook-id`` is the same.

    Parameters:
        headers: of the request, whatever the case of their names.
        body: as it came, not parsed and written again.
        secret: ``whsec_`` and base64, or several of them while one is replaced by another; bytes are the key itself.
        tolerance_s: how far the time of the signature may be from this machine's.

    Raises:
        InvalidCallback: it is not signed, or not with this secret, or long ago, or is no JSON object.
        ValueError: the secret is none.
    """
    given = {str(name).lower(): str(value) for name, value in headers.items()}
    named = [given.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature")]
    if not all(named):
        raise InvalidCallback(
            "The headers webhook-id, webhook-timestamp and webhook-signature are missing.", "unsigned"
        )
    secrets = [secret] if isinstance(secret, (str, bytes)) else list(secret)
    keys = [_key(each) for each in secrets]
    if not keys:
        raise ValueError("There is no secret.")
    content = body.encode() if isinstance(body, str) else bytes(body)
    signed = b".".join([*(part.encode() for part in named[:2]), content])
    right = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    found = [each[3:].encode() for each in named[2].split() if each.startswith("v1,")]
    if not any(hmac.compare_digest(one, other) for one in right for other in found):
        raise InvalidCallback("The callback is not signed with this secret.", "signature")
    moment = named[1]
    if not (moment.isascii() and moment.isdigit() and len(moment) < 16):
        raise InvalidCallback("The header webhook-timestamp is no time.", "time")
    if abs(time.time() - int(moment)) > tolerance_s:
        raise InvalidCallback(f"The callback was signed more than {tolerance_s:g} s before or after now.", "time")
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidCallback("The callback's body is no JSON object.", "body")
    return cast("dict[str, Any]", document)


def _key(secret: Secret) -> bytes:
    """The bytes of a secret. The error has nothing of it."""
    try:
        coded = secret.strip() if isinstance(secret, str) else ""
        key = secret if isinstance(secret, bytes) else base64.b64decode(coded.rpartition("whsec_")[2], validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("A callback's secret is whsec_ and base64.") from None
    return key
