"""The call to a destination: what it may reach, how it is signed, what its answer means."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shared.dispatch.backend_client import retry_after_s
from shared.dispatch.destinations import Destination
from shared.dispatch.registry import BackendRegistry
from shared.tasks.callback import CallbackMessage
from shared.tasks.task import Task
from shared.version import VERSION

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S: Final = 15.0
"""How long a destination may take to answer."""
GONE: Final = 410
_THROTTLED: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """
    Attributes:
        text: the status, or a word: ``timeout``, ``unreachable``, ``endless``.
        retry_after_s: when it wants to be tried again, if it says so.
        is_throttled: whether it takes nothing of any task for now.
    """

    text: str
    is_taken: bool = False
    is_gone: bool = False
    retry_after_s: float | None = None
    is_throttled: bool = False


class CallbackTransport(Protocol):
    """How a destination is called. Tests and benchmarks have their own."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer: ...

    async def aclose(self) -> None: ...


def message_id(task: Task, message: CallbackMessage) -> str:
    """By which a destination knows a message that comes again. A task may have the id of one that was removed."""
    text = f"{task.id} {task.created_ms} {message.number}"
    return f"msg_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def signed_headers(destination: Destination, name: str, body: bytes, now_s: int) -> dict[str, str]:
    """The headers by which a destination knows that a message is the app's: Standard Webhooks' signatures, one by
    each key.

    Args:
        name: the message's id.
    """
    signed = f"{name}.{now_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in destination.keys)
    return {
        "Content-Type": "application/json",
        "User-Agent": f"TaskBackbone/{VERSION}",
        "webhook-id": name,
        "webhook-timestamp": str(now_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


class CallbackClient:
    """The calls to all destinations, over connections of their own. Uses no proxy and follows no redirect. Of an
    answer it reads the head."""

    def __init__(self, registry: BackendRegistry) -> None:
        self._registry = registry
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
        import aiohttp

        from shared.dispatch.bounded_answers import EndlessAnswer

        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._post(url, headers, body)
        except TimeoutError:
            return CallbackAnswer("timeout")
        except EndlessAnswer:
            return CallbackAnswer("endless")
        except (aiohttp.ClientError, OSError, ValueError):
            return CallbackAnswer("unreachable")

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
        from shared.dispatch.connections import Response, StaleConnection

        session = self._open()
        try:
            response = await session.post(url, data=body, headers=headers, allow_redirects=False)
        except StaleConnection:  # it closed the connection of an earlier call
            response = await session.post(url, data=body, headers=headers, allow_redirects=False)
        assert isinstance(response, Response)
        try:
            status = response.status
            return CallbackAnswer(
                str(status),
                is_taken=response.is_acceptance,
                is_gone=status == GONE,
                retry_after_s=retry_after_s(response.headers.get("Retry-After")),
                is_throttled=status in _THROTTLED,
            )
        finally:
            if not response.content.is_eof():
                response.abort()
            response.release()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            from shared.dispatch.bounded_answers import Turns
            from shared.dispatch.connections import open_session

            self._session = open_session(self._registry, Turns())
        return self._session
