"""A dispatch by reference: the backend gets the URL of a body that lies in Blob Storage, and reads it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shared.settings import LONGEST_URL_S
from shared.tasks.digests import repr_digest
from shared.tasks.task import Content

BODY_HEADER: Final = "X-Task-Body"
BODY_LENGTH_HEADER: Final = "X-Task-Body-Length"
_LEASES: Final = 2
"""For how many leases the URL is valid at least: a service may be silent for one, and then read."""


class TooLarge(Exception):
    """Raised if a body is larger than what passes through the app, and its backend takes no reference."""


@dataclass(frozen=True, slots=True)
class BodyReference:
    """Where a backend reads a body."""

    url: str = field(repr=False)


def reading_s(setting_s: float, lease_s: float) -> float:
    """How long the URL of a dispatch is valid."""
    return min(max(setting_s, _LEASES * lease_s), LONGEST_URL_S)


def reference_headers(reference: BodyReference, body: Content) -> dict[str, str]:
    """What a dispatch by reference says in place of the body."""
    return {
        "Content-Length": "0",
        BODY_HEADER: reference.url,
        BODY_LENGTH_HEADER: str(body.size_bytes),
        **repr_digest(body.sha256),
    }
