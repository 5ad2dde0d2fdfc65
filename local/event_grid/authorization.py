"""Checks that a publisher holds the topic's key: it sends the key itself, or a token signed with it."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote, unquote_plus, urlsplit

# How .NET prints a DateTimeOffset and a DateTime in the culture en-US, which its SDK and Microsoft's samples use.
_DOTNET_TIMES = ("%m/%d/%Y %I:%M:%S %p %z", "%m/%d/%Y %I:%M:%S %p")
_NARROW_SPACE = "\u202f"  # stands before AM and PM where .NET takes its cultures from ICU


def is_authorized(headers: Mapping[str, str], *, key: str, path: str, now: datetime) -> bool:
    """Checks ``aeg-sas-key``, else ``aeg-sas-token``, against `key`.

    Parameters:
        path: the path of the request; a token for another topic does not open this one. The ``Host`` header names the
            server: a token for another server does not open it either.
        now: wall-clock time, because the publisher's clock set the token's expiry.
    """
    if (given := headers.get("aeg-sas-key")) is not None:
        return hmac.compare_digest(given.encode(), key.encode())
    if (token := headers.get("aeg-sas-token")) is not None:
        return _is_valid_token(token, key=key, host=headers.get("host", ""), path=path, now=now)
    return False


def _is_valid_token(token: str, *, key: str, host: str, path: str, now: datetime) -> bool:
    """A token is ``r=<resource>&e=<expiry>&s=<signature>``; the signature covers everything before ``&s=``."""
    signed, _, signature = token.partition("&s=")
    parts = [part.partition("=") for part in signed.split("&")]
    fields = {name: value for name, _, value in parts}
    if len(fields) < len(parts):
        return False
    try:
        secret = base64.b64decode(key, validate=True)
        expiry = _parse_time(fields["e"])
        resource = urlsplit(unquote(fields["r"]))
    except (binascii.Error, KeyError, ValueError):
        return False
    expected = base64.b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256))
    return (
        hmac.compare_digest(expected, unquote(signature).encode())
        and resource.netloc.lower() == host.lower()
        and _normal(resource.path) == _normal(path)
        and now < expiry
    )


def _normal(path: str) -> str:
    return path.strip("/").lower()


def _parse_time(encoded: str) -> datetime:
    """Reads the expiry as the SDKs write it: in ISO 8601 with spaces as `%20`, or as .NET prints it with them as `+`.

    Raises `ValueError` if it is neither.
    """
    try:
        return _in_utc(datetime.fromisoformat(unquote(encoded)))
    except ValueError:
        text = unquote_plus(encoded).replace(_NARROW_SPACE, " ")
    for form in _DOTNET_TIMES:
        try:
            return _in_utc(datetime.strptime(text, form))  # noqa: DTZ007 - given its zone here
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no time")


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
