"""The model of all pods, and what its tasks must come to."""

from __future__ import annotations

import hashlib
import time


class NoSuchWord(Exception):
    """The text is for the caller."""


def work(body: bytes, seconds: float) -> bytes:
    """What the model does with a body: it takes so many seconds, and refuses a body that begins with *no*."""
    time.sleep(seconds)
    digest = hashlib.sha256(body).hexdigest()
    if body.startswith(b"no"):
        raise NoSuchWord(f"no such word: {digest[:12]}")
    return digest.encode() + b" " + body[::-1]
