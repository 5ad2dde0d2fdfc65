"""The policy ``validate-jwt``: tokens of an issuer that publishes its keys (OpenID Connect)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import jwt

from local.gateway.errors import PolicyFailed
from local.gateway.grammar import Node

if TYPE_CHECKING:
    from local.gateway.exchange import Exchange
    from local.gateway.policies import Step

_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]
_TIMEOUT_S = 10
_MOST_BYTES = 1024 * 1024


class Issuer:
    """Who signs, by its OpenID configuration. The keys are fetched again when a token names one that is not known."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._issuer = ""
        self._keys: dict[str | None, jwt.PyJWK] = {}

    async def key(self, key_id: str | None) -> tuple[str, jwt.PyJWK]:
        """The issuer's name, and its key of that id."""
        if key_id not in self._keys:
            await self._fetch()
        if key_id not in self._keys:
            raise jwt.InvalidKeyError("the issuer has no such key")
        return self._issuer, self._keys[key_id]

    async def _fetch(self) -> None:
        async with asyncio.timeout(_TIMEOUT_S), httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
            configuration = await _document(client, self._url)
            keys = await _document(client, configuration["jwks_uri"])
        self._issuer = configuration["issuer"]
        self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(keys).keys}


async def _document(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object; an empty one if it is anything else. Raises ValueError, and what httpx raises."""
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
        async for piece in answer.raise_for_status().aiter_raw():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError("the document is too large")
    document = json.loads(body)
    return document if isinstance(document, dict) else {}


def build(node: Node, _: str) -> Step:
    attributes = node.attributes
    header, status = str(attributes["header-name"]), int(str(attributes.get("failed-validation-httpcode", 401)))
    scheme = str(attributes.get("require-scheme", ""))
    variable = attributes.get("output-token-variable-name")
    audiences = [str(text) for text in node.texts("audiences", "audience")]
    (config,) = node.of("openid-config")
    issuer = Issuer(str(config.attributes["url"]))

    async def step(exchange: Exchange) -> None:
        given, token = (exchange.request.headers.get(header) or "").partition(" ")[::2]
        if not scheme:
            given, token = "", token or given
        if not token or given.lower() != scheme.lower():
            raise PolicyFailed(status, "validate-jwt", "TokenNotPresent", "JWT not present.")
        try:
            head = jwt.get_unverified_header(token)
            name, key = await issuer.key(head.get("kid"))
            claims = jwt.decode(
                token, key, algorithms=_ALGORITHMS, audience=audiences, issuer=name, options={"require": ["exp"]}
            )
        except (jwt.PyJWTError, httpx.HTTPError, TimeoutError, ValueError, LookupError, RecursionError) as error:
            raise PolicyFailed(
                status, "validate-jwt", "TokenInvalid", "Invalid JWT.", detail=type(error).__name__
            ) from None
        if variable is not None:
            await exchange.shared.evaluator.assign_token(exchange.id, str(variable), head, claims)

    return step
