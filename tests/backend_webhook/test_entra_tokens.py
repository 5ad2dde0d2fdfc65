"""The token of a delivery: which tokens are accepted; all others are refused."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from backend_webhook.entra_tokens import (
    EVENT_GRID_APP_ID,
    KEYS_MAX_AGE_S,
    REFETCH_INTERVAL_S,
    RETRY_INTERVAL_S,
    KeysUnavailable,
    TokenVerifier,
    Untrusted,
)
from tests.entra_double import EntraDouble


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def entra() -> Iterator[EntraDouble]:
    with EntraDouble() as entra:
        yield entra


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(entra: EntraDouble, clock: Clock) -> TokenVerifier:
    return TokenVerifier(entra.authority, entra.tenant_id, entra.audience, clock)


def version_2(entra: EntraDouble) -> dict[str, Any]:
    """The claims in which a version 2 token differs."""
    issuer = f"{entra.authority}/{entra.tenant_id}/v2.0"
    return {"iss": issuer, "appid": None, "azp": EVENT_GRID_APP_ID, "ver": "2.0"}


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


async def test_a_token_of_event_grid_is_accepted_in_either_version(
    entra: EntraDouble, verifier: TokenVerifier
) -> None:
    await verifier.verify(f"Bearer {entra.token()}")
    await verifier.verify(f"bearer {entra.token(**version_2(entra))}")
    assert entra.fetches == [entra.keys_path], "the keys are cached"


async def test_the_tenant_id_may_be_written_in_capital_letters(entra: EntraDouble) -> None:
    verifier = TokenVerifier(entra.authority, entra.tenant_id.upper(), entra.audience)
    await verifier.verify(f"Bearer {entra.token()}")


NOW_S = int(time.time())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"aud": "api://another-application"}, id="issued for another application"),
        pytest.param({"aud": []}, id="no audience"),
        pytest.param({"aud": None}, id="no audience"),
        pytest.param({"iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/"}, id="another tenant"),
        pytest.param({"iss": "https://sts.windows.net/"}, id="no tenant"),
        pytest.param({"iss": ["https://sts.windows.net/"]}, id="an issuer that is no text"),
        pytest.param({"iss": None}, id="no issuer"),
        pytest.param({"exp": NOW_S - 3600}, id="expired"),
        pytest.param({"exp": None}, id="never expires"),
        pytest.param({"exp": "soon"}, id="an expiry that is no number"),
        pytest.param({"nbf": NOW_S + 3600}, id="not valid yet"),
        pytest.param({"nbf": None}, id="no beginning"),
        pytest.param({"appid": "11111111-1111-1111-1111-111111111111"}, id="another application's"),
        pytest.param({"appid": None}, id="no application's"),
        pytest.param({"appid": [EVENT_GRID_APP_ID]}, id="an application that is no text"),
    ],
)
async def test_a_token_with_another_claim_is_refused(
    changed: dict[str, Any], entra: EntraDouble, verifier: TokenVerifier
) -> None:
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {entra.token(**changed)}")


async def test_a_token_signed_with_another_key_is_refused(entra: EntraDouble, verifier: TokenVerifier) -> None:
    forged = entra.token(key=generate_private_key(65537, 2048))
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {forged}")


async def test_a_token_that_was_changed_after_signing_is_refused(entra: EntraDouble, verifier: TokenVerifier) -> None:
    header, _, signature = entra.token(appid="11111111-1111-1111-1111-111111111111").split(".")
    claims = base64.urlsafe_b64encode(json.dumps(entra.claims()).encode()).rstrip(b"=").decode()
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {header}.{claims}.{signature}")


async def test_a_token_without_a_signature_is_refused(entra: EntraDouble, verifier: TokenVerifier) -> None:
    unsigned = jwt.encode(entra.claims(), None, algorithm="none", headers={"kid": "key-1"})
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {unsigned}")


async def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(
    entra: EntraDouble, verifier: TokenVerifier
) -> None:
    public_key = entra.keys["key-1"].public_key()
    content = ".".join(encoded(json.dumps(part)) for part in ({"alg": "HS256", "kid": "key-1"}, entra.claims()))
    for form in (serialization.Encoding.PEM, serialization.Encoding.DER):
        secret = public_key.public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo)
        signature = base64.urlsafe_b64encode(hmac.digest(secret, content.encode(), "sha256")).rstrip(b"=").decode()
        with pytest.raises(Untrusted):
            await verifier.verify(f"Bearer {content}.{signature}")


async def test_a_published_key_of_another_kind_is_not_used(entra: EntraDouble, verifier: TokenVerifier) -> None:
    secret = b"a key that anybody can read here"
    key = {"kty": "oct", "kid": "key-1", "alg": "HS256", "k": base64.urlsafe_b64encode(secret).decode()}
    entra.garbage = json.dumps({"keys": [key]}).encode()
    token = jwt.encode(entra.claims(), secret, algorithm="HS256", headers={"kid": "key-1"})
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer \u00e4.\u00f6.\u00fc",
        f"Bearer {encoded('{}')}.{encoded('{}')}.{encoded('x')}",
        f"Bearer {encoded(json.dumps({'alg': 'RS256', 'kid': 5}))}.{encoded('{}')}.{encoded('x')}",
        f"Bearer {encoded(json.dumps({'alg': 'RS256', 'kid': ['key-1']}))}.{encoded('{}')}.{encoded('x')}",
        f"Bearer {encoded(json.dumps({'alg': ['RS256'], 'kid': 'key-1'}))}.{encoded('{}')}.{encoded('x')}",
        f"Bearer {encoded(json.dumps({'alg': 'RS256', 'kid': 'key-1'}))}.{encoded('[]')}.{encoded('x')}",
        f"Bearer {encoded('[' * 20_000)}.{encoded('{}')}.{encoded('x')}",
    ],
    ids=lambda text: repr(text)[:40],
)
async def test_a_header_without_a_token_is_refused(authorization: str | None, verifier: TokenVerifier) -> None:
    with pytest.raises(Untrusted):
        await verifier.verify(authorization)


async def test_a_header_without_a_token_causes_no_fetch_of_the_keys(
    entra: EntraDouble, verifier: TokenVerifier
) -> None:
    for authorization in (None, "Basic x", "Bearer x", "Bearer a.b.c"):
        with pytest.raises(Untrusted):
            await verifier.verify(authorization)
    assert entra.fetches == []


async def test_a_new_key_of_the_tenant_is_found(entra: EntraDouble, verifier: TokenVerifier, clock: Clock) -> None:
    await verifier.verify(f"Bearer {entra.token()}")
    entra.keys = {"key-2": generate_private_key(65537, 2048)}
    clock.now_s += REFETCH_INTERVAL_S
    await verifier.verify(f"Bearer {entra.token('key-2')}")
    assert len(entra.fetches) == 2


async def test_tokens_with_unknown_key_ids_cause_no_repeated_fetches(
    entra: EntraDouble, verifier: TokenVerifier
) -> None:
    await verifier.verify(f"Bearer {entra.token()}")
    stranger = generate_private_key(65537, 2048)
    for number in range(50):
        with pytest.raises(Untrusted):
            await verifier.verify(f"Bearer {entra.token(f'invented-{number}', stranger)}")
    await verifier.verify(f"Bearer {entra.token()}")
    assert len(entra.fetches) == 1


async def test_a_withdrawn_key_is_accepted_for_a_day_at_most(
    entra: EntraDouble, verifier: TokenVerifier, clock: Clock
) -> None:
    withdrawn = entra.keys["key-1"]
    await verifier.verify(f"Bearer {entra.token()}")
    entra.keys = {"key-2": generate_private_key(65537, 2048)}
    clock.now_s += KEYS_MAX_AGE_S
    with pytest.raises(Untrusted):
        await verifier.verify(f"Bearer {entra.token('key-1', withdrawn)}")


async def test_simultaneous_deliveries_fetch_the_keys_once(entra: EntraDouble, verifier: TokenVerifier) -> None:
    await asyncio.gather(*(verifier.verify(f"Bearer {entra.token()}") for _ in range(50)))
    assert len(entra.fetches) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 403, 404, 500, 503])
async def test_no_token_is_accepted_without_the_keys(
    status: int, entra: EntraDouble, verifier: TokenVerifier
) -> None:
    entra.status = status
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {entra.token()}")
    assert entra.fetches == [entra.keys_path], "no redirect is followed"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [5, {}, {"kty": "RSA"}]}',
        b'{"keys": {}}',
        b"\xff\xfe",
    ],
)
async def test_an_invalid_set_of_keys_is_refused(garbage: bytes, entra: EntraDouble, verifier: TokenVerifier) -> None:
    entra.garbage = garbage
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {entra.token()}")


async def test_an_oversized_set_of_keys_is_refused(entra: EntraDouble, verifier: TokenVerifier) -> None:
    entra.garbage = entra.document.removesuffix(b"}") + b', "x": "' + b"x" * 2_000_000 + b'"}'
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {entra.token()}")


async def test_a_failed_fetch_of_the_keys_is_repeated_after_an_interval_and_not_before(
    entra: EntraDouble, verifier: TokenVerifier, clock: Clock
) -> None:
    entra.status = 503
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(f"Bearer {entra.token()}")
    assert len(entra.fetches) == 1
    entra.status = 200
    clock.now_s += RETRY_INTERVAL_S
    await verifier.verify(f"Bearer {entra.token()}")


async def test_known_keys_are_used_while_the_authority_is_down(
    entra: EntraDouble, verifier: TokenVerifier, clock: Clock
) -> None:
    await verifier.verify(f"Bearer {entra.token()}")
    entra.status = 503
    clock.now_s += KEYS_MAX_AGE_S - 1
    await verifier.verify(f"Bearer {entra.token()}")
    clock.now_s += 1
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {entra.token()}")


async def test_no_token_is_accepted_if_the_authority_does_not_listen() -> None:
    with EntraDouble() as gone:
        token = gone.token()
    verifier = TokenVerifier(gone.authority, gone.tenant_id, gone.audience)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA:", b" ", id="blanks in a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="small chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x", id="a body"),
    ],
)
async def test_an_answer_that_does_not_end_is_cut(
    start: bytes, repeated: bytes, entra: EntraDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend_webhook.entra_tokens._FETCH_TIMEOUT_S", 3600.0)  # it is hung up on before
    cut = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(start)
            while True:
                writer.write(repeated * 1000)
                await writer.drain()
                await asyncio.sleep(0)  # the loop is the fetch's, too
        except OSError:
            cut.set()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        port = server.sockets[0].getsockname()[1]
        verifier = TokenVerifier(f"http://127.0.0.1:{port}", entra.tenant_id, entra.audience)
        async with asyncio.timeout(60):
            with pytest.raises(KeysUnavailable):
                await verifier.verify(f"Bearer {entra.token()}")
            await cut.wait()
