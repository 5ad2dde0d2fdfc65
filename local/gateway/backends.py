"""Backend entities, and the client that calls them."""

from __future__ import annotations

import asyncio
import email.utils
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from local.gateway.errors import PolicyFailed
from local.gateway.limits import Breaker
from local.gateway.messages import Body, Headers, Request, Response

NOT_PASSED_ON = (
    *(
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
    ),
    *("transfer-encoding", "upgrade", "host"),
)
"""Headers of one hop."""
_NO_BODY = (204, 304)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True)
class Backend:
    """A backend entity.

    Parameters:
        url: with what its path begins with.
    """

    name: str
    url: str
    breaker: Breaker


class Client:
    """Calls backends. Bodies stream both ways."""

    def __init__(self) -> None:
        # The stack speaks plain HTTP: to load certificates would take the start 40 ms.
        self._client = httpx.AsyncClient(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            timeout=300,  # but each request has one of its own
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def send(
        self, source: str, method: str, url: str, headers: Headers, body: Body | None, timeout_s: float
    ) -> Response:
        """Send a request; the answer's body is still to come.

        Raises:
            PolicyFailed: there is no answer, or its head did not come in time. *source* is the policy that asks.
        """
        headers = headers.copy()
        headers.remove(*NOT_PASSED_ON)
        if body is None:
            headers.remove("content-length")
            if method in ("POST", "PUT", "PATCH"):
                headers.append("Content-Length", "0")
        elif (kept := body.kept) is not None:
            headers.replace("Content-Length", str(len(kept)))
        elif headers.get("content-length") is None:
            headers.append("Transfer-Encoding", "chunked")
        target = urlsplit(url)
        request = httpx.Request(
            method,
            f"{target.scheme}://{target.netloc}",
            headers=[
                # As they came: httpx would take text for ASCII.
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in (("Host", target.netloc), *headers.lines)
            ],
            content=None if body is None else body.pieces(),
            extensions={
                # As it stands: a parser would write it in another way.
                "target": f"{target.path or '/'}{'?' + target.query if target.query else ''}".encode("latin-1"),
                "timeout": {"connect": timeout_s, "read": None, "write": None, "pool": None},
            },
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._client.send(request, stream=True)
        except (TimeoutError, httpx.TimeoutException):
            raise PolicyFailed(500, source, "Timeout", "The backend has not answered in time.") from None
        except httpx.TransportError as error:
            raise PolicyFailed(
                500, source, "BackendConnectionFailure", "The backend could not be reached.", detail=str(error)
            ) from None
        answered = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw)
        answered.remove(*NOT_PASSED_ON, "date")
        is_empty = method == "HEAD" or answer.status_code in _NO_BODY
        return Response(
            answer.status_code,
            answered,
            None if is_empty else Body(_pieces(answer)),
            answer.reason_phrase,
            close=answer.aclose,
        )


async def forward(client: Client, backend: Backend, request: Request, timeout_s: float) -> Response:
    """Send the request on to the backend, unless its breaker is open.

    Raises:
        PolicyFailed: there is no answer.
    """
    source, breaker = "forward-request", backend.breaker
    if (open_s := breaker.open_s) > 0:
        raise PolicyFailed(
            503,
            source,
            "BackendPoolInactive",
            "The backend is not called for now: its circuit breaker is open.",
            headers=(("Retry-After", str(max(1, round(open_s + 0.5)))),),
        )
    headers = request.headers.copy()
    headers.replace("X-Forwarded-For", ", ".join([*headers.all("X-Forwarded-For"), request.address]))
    headers.replace("traceparent", _next_span(headers.get("traceparent")))
    url = f"{backend.url}{request.url.path}{'?' + request.url.query if request.url.query else ''}"
    try:
        response = await client.send(source, request.method, url, headers, request.body, timeout_s)
    except PolicyFailed as failure:
        breaker.see(None, failure.reason)
        raise
    breaker.see(response.status, retry_after_s=_retry_after_s(response.headers.get("Retry-After")))
    return response


def _next_span(traceparent: str | None) -> str:
    """A span of the gateway's own, in the caller's trace if there is one (W3C)."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    known = match is not None and set(match[1]) != {"0"} and set(match[2]) != {"0"}
    trace, flags = (match[1], match[3]) if match is not None and known else (secrets.token_hex(16), "00")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"


def _retry_after_s(value: str | None) -> float | None:
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
