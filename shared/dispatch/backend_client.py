"""The call to a model service: what it may reach, how long it may take, what its answer means.

aiohttp is imported when it is needed: it would take a quarter of the app's start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from shared import telemetry
from shared.dispatch.registry import BackendRegistry, Endpoint

if TYPE_CHECKING:
    import aiohttp

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
    """The backend has no room now, and may have said when it will."""

    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The backend did not answer, or a gateway in its place."""

    reason: str
    was_sent: bool = True
    """Whether the backend may have the task all the same."""


@dataclass(frozen=True, slots=True)
class NotFound:
    """The backend does not know the path, or a gateway does not know the backend."""

    reason: str = "answered 404"


@dataclass(frozen=True, slots=True)
class Erred:
    """The backend answered that it failed, which may be temporary."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The backend will never take this request."""

    reason: str


Answer = Accepted | Busy | Unreachable | NotFound | Erred | Rejected


class BackendTransport(Protocol):
    """How a backend is called. The simulation and tests have their own."""

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: bytes | AsyncIterable[bytes], timeout_s: float
    ) -> Answer:
        """POST a task. *headers* have the ``Content-Length`` of a body that comes piece by piece."""
        ...

    async def aclose(self) -> None: ...


class BackendClient:
    """One connection pool for all backends, opened at the first call. Follows no redirect, uses no proxy, and reads
    nothing of an answer but its status and ``Retry-After``; little else of it comes into memory."""

    def __init__(self, registry: BackendRegistry) -> None:
        self._registry = registry
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: bytes | AsyncIterable[bytes], timeout_s: float
    ) -> Answer:
        import aiohttp
        from yarl import URL

        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._open().post(
                URL(endpoint.url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                telemetry.answered(response.status)
                answer = _meaning(response.status, response.headers.get("Retry-After"))
                # The rest of a short answer is read so that the connection can be used again.
                with suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(1):
                        await response.content.read(_DRAIN_BYTES)
                return answer
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Unreachable("could not be reached", was_sent=False)
        except TimeoutError:
            return Unreachable("did not answer in time")
        except (aiohttp.ClientError, OSError):
            return Unreachable("could not be reached")

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            from shared.dispatch.guarded_resolver import GuardedResolver

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, resolver=GuardedResolver(self._registry)),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
                max_headers=_MAX_HEADERS,
            )
        return self._session


def _meaning(status: int, retry_after: str | None) -> Answer:
    if 200 <= status < 300:
        return Accepted()
    if status in (429, 503):
        return Busy(_seconds(retry_after))
    if status in (502, 504):  # a gateway's, in place of a backend that is not there
        return Unreachable(f"answered {status}")
    if status == 404:
        return NotFound()
    if status == 408 or status >= 500:
        return Erred(f"answered {status}")
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
