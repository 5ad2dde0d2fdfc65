"""Checks the tokens that Microsoft Entra ID issues to Event Grid for its deliveries. They prove the sender without a
key.

PyJWT and aiohttp are imported at their first use, so that the app starts sooner.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp
    import jwt

EVENT_GRID_APP_ID = "4962773b-9cdb-44cf-a8bf-237846a00ab7"
"""The id of Event Grid's own application. It is the same in every tenant."""

KEYS_MAX_AGE_S = 24 * 3600.0
REFETCH_INTERVAL_S = 60.0
"""The least time between two fetches of the keys that unknown key ids cause. Senders can choose any key id."""
RETRY_INTERVAL_S = 5.0
LEEWAY_S = 300
_FETCH_TIMEOUT_S = 5.0
_MAX_KEYS_BYTES = 1024 * 1024


class Untrusted(Exception):
    """Raised if a request has no token that proves Event Grid as its sender. The message is for the log only."""


class KeysUnavailable(Exception):
    """Raised if Entra ID does not give the tenant's signing keys. Nothing can be proven for now."""


class TokenVerifier:
    """Checks the tokens of one tenant. Belongs to one event loop.

    Parameters:
        authority: the origin of Entra ID, such as ``https://login.microsoftonline.com``.
        tenant_id: the tenant that must have issued the tokens.
        audience: the required audience: the webhook's application in Entra ID.
        clock: a monotonic clock in seconds, for the age of the signing keys.
    """

    def __init__(
        self, authority: str, tenant_id: str, audience: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        tenant_id = tenant_id.lower()
        # The application's registration decides which of the two versions of tokens Entra ID issues.
        self._issuers = (f"https://sts.windows.net/{tenant_id}/", f"{authority}/{tenant_id}/v2.0")
        self._audience = audience
        self._keys_url = f"{authority}/{tenant_id}/discovery/v2.0/keys"
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._expires_at_s = self._fetch_from_s = -float("inf")
        self._fetching = asyncio.Lock()

    async def verify(self, authorization: str | None) -> None:
        """Check that *authorization* is a bearer token of Event Grid for this webhook.

        Raises:
            Untrusted: it is not.
            KeysUnavailable: Entra ID does not give the keys.
        """
        import jwt

        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Untrusted("no bearer token")
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except Exception as error:  # anybody may have sent the text; whatever is wrong with it, it proves nothing
            raise Untrusted(type(error).__name__) from None
        key = await self._key(key_id)
        if key is None:
            raise Untrusted("no key of the tenant's")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuers,
                leeway=LEEWAY_S,
                options={"require": ["exp", "nbf", "iss", "aud"]},
            )
        except Exception as error:
            raise Untrusted(type(error).__name__) from None
        if EVENT_GRID_APP_ID not in (claims.get("appid"), claims.get("azp")):
            raise Untrusted("another application's token")

    async def _key(self, key_id: object) -> jwt.PyJWK | None:
        if not isinstance(key_id, str):
            return None
        if not self._is_fresh() or key_id not in self._keys:
            async with self._fetching:
                await self._refresh(key_id)
        return self._keys.get(key_id)

    def _is_fresh(self) -> bool:
        return self._clock() < self._expires_at_s

    async def _refresh(self, key_id: str) -> None:
        """Fetch the keys if they are too old, or if they lack *key_id*, as after a rollover."""
        if self._is_fresh() and key_id in self._keys:
            return  # another request has fetched them meanwhile
        now_s = self._clock()
        if now_s >= self._fetch_from_s:
            self._fetch_from_s = now_s + RETRY_INTERVAL_S
            self._keys = await self._fetch()
            self._fetch_from_s = now_s + REFETCH_INTERVAL_S
            self._expires_at_s = now_s + KEYS_MAX_AGE_S
        elif not self._is_fresh():
            raise KeysUnavailable

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        import aiohttp
        import jwt

        try:
            async with (
                _open_session() as session,
                session.get(self._keys_url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise KeysUnavailable
                document = bytearray()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    document += chunk
                    if len(document) > _MAX_KEYS_BYTES:
                        raise KeysUnavailable
            keys = jwt.PyJWKSet.from_json(document.decode())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError, AttributeError, jwt.PyJWTError):
            raise KeysUnavailable from None
        return {key.key_id: key for key in keys if key.key_id}


def _open_session() -> aiohttp.ClientSession:
    import aiohttp

    from shared.dispatch.bounded_answers import Turns
    from shared.dispatch.connections import BoundedConnector

    connector = BoundedConnector(force_close=True)
    connector.turns = Turns()
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=_FETCH_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
