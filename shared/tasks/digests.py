"""Digests as headers tell them (RFC 9530)."""

from __future__ import annotations

import base64

REPR_DIGEST = "Repr-Digest"


def repr_digest(sha256: str) -> dict[str, str]:
    """The header with the digest of a content that its client has declared, in hexadecimal digits; none if it is
    empty."""
    return {REPR_DIGEST: f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"} if sha256 else {}
