"""How URLs are signed: with the account's key, or with one that is delegated to a managed identity."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.storage.blob import UserDelegationKey
from azure.storage.blob.aio import ContainerClient

from local.azurite import Azurite
from shared.settings import LONGEST_URL_S
from shared.signed_urls import NoSas, UrlSigner, account_of
from tests.shared.delegation import IDENTITY, TENANT, IdentityEndpoint, certificate

START_S = 1_700_000_000.0
HOUR_S = 3600.0


class Account:
    """The account of a managed identity, which delegates keys, one after the other."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []
        self.error: Exception | None = None
        self.now_s = START_S

    async def get_user_delegation_key(self, begins: datetime, ends: datetime) -> UserDelegationKey:
        self.asked.append((begins, ends))
        if self.error is not None:
            raise self.error
        key = UserDelegationKey()
        key.signed_oid, key.signed_tid, key.signed_service, key.signed_version = IDENTITY, TENANT, "b", "2024-11-04"
        key.signed_start, key.signed_expiry = begins.isoformat(), f"{ends:%Y-%m-%dT%H:%M:%SZ}"
        key.value = "a2V5"
        return key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def signer(self) -> UrlSigner:
        credential = SimpleNamespace(get_token=None)
        container = ContainerClient(
            "https://account.blob.core.windows.net", "box", credential=cast("Any", credential)
        )
        return UrlSigner(container, lambda: cast("Any", self), lambda: self.now_s)


def parts_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def valid_s(url: str, now_s: float) -> float:
    return datetime.fromisoformat(parts_of(url)["se"]).timestamp() - now_s


async def test_a_delegated_key_signs_for_an_hour_and_then_there_is_another() -> None:
    account = Account()
    signer = account.signer()
    for _ in range(3):
        url = (await signer.writing("u-1", HOUR_S)).url
        assert valid_s(url, account.now_s) == HOUR_S
        account.now_s += HOUR_S / 3
    now = datetime.fromtimestamp(START_S, UTC)
    [(begins, ends)] = account.asked
    assert begins < now, "the clock here may be ahead"
    assert timedelta(days=6, hours=23) < ends - now <= timedelta(seconds=LONGEST_URL_S)
    account.now_s += 1
    await signer.writing("u-1", HOUR_S)
    assert len(account.asked) == 2


async def test_while_no_other_key_is_to_be_had_the_old_one_signs_what_it_outlives() -> None:
    account = Account()
    signer = account.signer()
    await signer.writing("u-1", HOUR_S)
    [(_, ends)] = account.asked
    account.error = ServiceRequestError("away")
    account.now_s = ends.timestamp() - HOUR_S
    assert valid_s((await signer.writing("u-1", HOUR_S)).url, account.now_s) == HOUR_S
    account.now_s += 1
    with pytest.raises(ServiceRequestError):
        await signer.writing("u-1", HOUR_S)
    account.error = None
    assert valid_s((await signer.writing("u-1", HOUR_S)).url, account.now_s) == HOUR_S


async def test_no_url_outlives_its_delegated_key() -> None:
    account = Account()
    first = await account.signer().reading("u-1", "2026", LONGEST_URL_S, content_type="a/b", encoding="")
    [(_, ends)] = account.asked
    assert valid_s(first.url, START_S) == ends.timestamp() - START_S
    assert first.expires_ms == ends.timestamp() * 1000


async def test_an_identity_without_the_right_is_told_so_until_it_has_it() -> None:
    account = Account()
    signer = account.signer()
    account.error = HttpResponseError(response=cast("Any", SimpleNamespace(status_code=403, reason="no")))
    with pytest.raises(NoSas, match="role"):
        await signer.writing("u-1", HOUR_S)
    assert signer.refusal
    account.error = ServiceRequestError("away")
    with pytest.raises(ServiceRequestError):
        await signer.writing("u-1", HOUR_S)
    assert signer.refusal, "that nobody answers says nothing of the role"
    account.error = None
    await signer.writing("u-1", HOUR_S)
    assert signer.refusal is None


async def test_a_url_has_the_type_and_encoding_and_shows_itself_nowhere() -> None:
    signed = await Account().signer().reading("u-1", "2026-1", HOUR_S, content_type="text/x; a=b", encoding="gzip")
    parts = parts_of(signed.url)
    assert (parts["rsct"], parts["rsce"]) == ("text/x; a=b", "gzip")
    assert (parts["sr"], parts["sp"], parts["snapshot"], parts["spr"]) == ("bs", "r", "2026-1", "https")
    assert "sig" not in repr(signed)


@pytest.mark.parametrize(
    ("url", "account"),
    [
        ("https://name.blob.core.windows.net/box/blob", "name"),
        ("https://name.blob.core.usgovcloudapi.net/box", "name"),
        ("http://127.0.0.1:10000/devstoreaccount1/box", "devstoreaccount1"),
        ("http://localhost:10000/devstoreaccount1/box", "devstoreaccount1"),
        ("http://[::1]:10000/devstoreaccount1/box", "devstoreaccount1"),
    ],
)
def test_the_account_is_read_from_the_url(url: str, account: str) -> None:
    assert account_of(url) == account


def signature_of(url: str, key_value: str) -> str:
    """The signature of a URL with a delegated key, as Microsoft's *Create a user delegation SAS* describes it."""
    parts, path = parts_of(url), urlsplit(url).path

    def named(*names: str) -> list[str]:
        return [parts.get(name, "") for name in names]

    signed = [
        *named("sp", "st", "se"),
        f"/blob/{account_of(url)}{path}",
        *named("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "skdutid", "sduoid"),
        *named("sip", "spr", "sv", "sr", "snapshot", "ses"),
        *("", ""),  # the headers and parameters that a request must have
        *named("rscc", "rscd", "rsce", "rscl", "rsct"),
    ]
    digest = hmac.new(base64.b64decode(key_value), "\n".join(signed).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


async def test_a_url_is_signed_as_the_service_describes_it() -> None:
    signer = Account().signer()
    for signed in (
        await signer.writing("t-t1/u-1", HOUR_S),
        await signer.reading("u-1", "2026-11-29T21:20:58.1234567Z", HOUR_S, content_type="a/b", encoding="gzip"),
    ):
        assert parts_of(signed.url)["sig"] == signature_of(signed.url, "a2V5")


@pytest.mark.parametrize("of_their_own", [False, True], ids=["the account of the host", "an account of their own"])
def test_a_managed_identity_stores_reads_and_signs(tmp_path: Path, of_their_own: bool) -> None:
    """Azurite with ``--oauth basic`` over TLS, and a double of the identity's endpoint."""
    cert, key = certificate(tmp_path)
    with Azurite(tmp_path / "azurite", in_memory=True, tls=(cert, key)) as azurite, IdentityEndpoint() as identity:
        environment = {
            "PATH": os.environ["PATH"],
            "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "AzureWebJobsStorage__blobServiceUri": "https://host.example.org" if of_their_own else azurite.url,
            **({"BLOB_SERVICE_URI": azurite.url} if of_their_own else {}),
            "SSL_CERT_FILE": str(cert),
            **identity.environment,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.shared.delegated_process"],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    written, found = map(parts_of, json.loads(done.stdout))
    for parts in (written, found):
        assert (parts["skoid"], parts["sktid"], parts["sks"]) == (IDENTITY, TENANT, "b")
        assert parts["spr"] == "https"
    assert (written["sp"], found["sp"], found["sr"]) == ("cw", "r", "bs")
