"""Secrets that the suite plants, and the search for them in everything that its processes print and send."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from local.azurite import ACCOUNT_KEY

_PLANTED = rb"planted-[a-z-]+-[0-9a-f]{16}"
_BEARER_TOKEN = rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}"
_SIGNATURE = rb"[?&]sig=[\w%+/]{16,}"
_LEAST_KEY_CHARS = 16

exported: list[str] = []
"""Everything that was sent to the doubles of Application Insights."""


def planted(what: str) -> str:
    """A new secret with a recognizable form. *what* describes it, in lower-case letters and hyphens."""
    return f"planted-{what}-{secrets.token_hex(8)}"


def leaks(directory: Path, sent: Iterable[str] = ()) -> list[str]:
    """The positions of secrets in the log files below *directory* and in the *sent* texts, without the secrets.

    This finds planted secrets, bearer tokens, signed URLs, the storage account's key, and the keys of the stacks
    below *directory*.
    """
    keys = {file.read_bytes() for file in directory.rglob("*key") if file.is_file()}
    known = (re.escape(key) for key in (ACCOUNT_KEY.encode(), *keys) if len(key) >= _LEAST_KEY_CHARS)
    secret = re.compile(b"|".join((_PLANTED, _BEARER_TOKEN, _SIGNATURE, *known)))
    found: list[str] = []
    for log in sorted(directory.rglob("*.log")):
        with log.open("rb") as lines:
            found += [f"{log}:{number}" for number, line in enumerate(lines, 1) if secret.search(line)]
    return found + [f"telemetry {number}" for number, text in enumerate(sent) if secret.search(text.encode())]


@pytest.fixture(scope="session", autouse=True)
def nothing_secret_is_printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the worker's last test if a secret was printed. Set up first, so that it ends after all processes."""
    yield
    if found := leaks(tmp_path_factory.getbasetemp(), exported):
        pytest.fail("secrets were printed: " + ", ".join(found), pytrace=False)
