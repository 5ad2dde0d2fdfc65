"""The call to a model service: what it may reach, how long it may take, what its answer means.

aiohttp is imported when it is needed: it takes a quarter of what the app's start would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from shared import telemetry
from shared.backends import BackendRegistry, Endpoint

MAX_CONNECTIONS = 100
CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_AFTER_S = 3600.0
_DRAIN_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 8 * 1024
_MAX_HEADERS = 100


@dataclass(frozen=True, slots=True)
class Accepted:
    """The backend took the task."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The backend has no room now, and may have said when."""

    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The call failed in a way that may pass. The backend may have the task all the same."""

    reason: str
    answered: bool = False
    """Whether the backend itself gave an answer, if one that is none."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The backend will never take this request."""

    reason: str


Answer = Accepted | Busy | Unreachable | Rejected


class BackendClient:
    """One connection pool to all backends. Follows no redirect, knows no proxy, takes nothing from an answer but its
    status and ``Retry-After``, and of what else comes only a little into memory."""

    def __init__(self, backends: BackendRegistry) -> None:
        import aiohttp

        from shared.resolver import GuardedResolver

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, resolver=GuardedResolver(backends)),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
        )

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: bytes | AsyncIterable[bytes], timeout_s: float
    ) -> Answer:
        """*headers* have the ``Content-Length`` of a body that comes piece by piece."""
        import aiohttp
        from yarl import URL

        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session.post(
                URL(endpoint.url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                telemetry.answered(response.status)
                answer = _meaning(response.status, response.headers.get("Retry-After"))
                # A short answer is read away so that the connection can be used again.
                with suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(1):
                        await response.content.read(_DRAIN_BYTES)
                return answer
        except TimeoutError:
            return Unreachable("did not answer in time")
        except (aiohttp.ClientError, OSError):
            return Unreachable("could not be reached")

    async def aclose(self) -> None:
        await self._session.close()


def _meaning(status: int, retry_after: str | None) -> Answer:
    if 200 <= status < 300:
        return Accepted()
    if status in (429, 503):
        return Busy(_seconds(retry_after))
    if status in (404, 408) or status >= 500:
        # 502 and 504 are a gateway's word for a backend that is not there.
        return Unreachable(f"answered {status}", answered=status not in (502, 504))
    return Rejected(f"answered {status}")


def _seconds(retry_after: str | None) -> float | None:
    """``Retry-After`` as seconds from now: a number or an HTTP date (RFC 9110, 10.2.3); nonsense is None."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after) if retry_after.strip().isdigit() else _until(parsedate_to_datetime(retry_after))
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def _until(moment: datetime) -> float:
    return (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
