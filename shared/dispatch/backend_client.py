"""The call to a model service: what it may reach, how long it may take, what its answer means.

aiohttp is imported when it is needed: it would take a quarter of the app's start.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from shared import telemetry
from shared.dispatch.answer_text import text_of
from shared.dispatch.registry import Backend, BackendRegistry, Endpoint
from shared.settings import INLINE_LIMIT_BYTES
from shared.tasks import status_texts
from shared.tasks.media import is_content_encoding, is_content_type
from shared.tasks.task import State
from shared.tasks.told_slots import INSTANCE_HEADER, SLOTS_HEADER, BadSlots, ToldSlots

if TYPE_CHECKING:
    import aiohttp

    from shared.dispatch.connections import Response

MAX_RETRY_AFTER_S = 3600.0
_READ_BYTES = 64 * 1024
_STATUS = re.compile(r"answered (\d{3})\b")
"""With which the reason of an answer begins that is told by its status."""
_ENDLESS = "sent an answer that does not end"
_READING_S = 1.0
_ROOM_STEP_BYTES = 1024 * 1024
COMPLETION_HEADER = "X-Task-Complete"
_ASKED_FOR_BYTES = 1024 * 1024
"""From this size on, a body is sent when the server asks for it (``Expect: 100-continue``). A server that refuses it
and resets the connection might not be heard while it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    told: ToldSlots | None = field(default=None, compare=False)
    """What the instance that answered tells of itself."""


@dataclass(frozen=True, slots=True)
class Accepted(_Answer):
    """The backend took the task."""


@dataclass(frozen=True, slots=True)
class Completed(_Answer):
    """The backend answered with the result."""

    status: str
    content_type: str
    encoding: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Busy(_Answer):
    """The backend has no room now, and may have said when it will."""

    retry_after_s: float | None
    reason: str = field(default="is busy", compare=False)
    text: str = field(default="", compare=False)
    """What the body of the answer says, for the operator; so below."""


@dataclass(frozen=True, slots=True)
class Unreachable(_Answer):
    """The backend did not answer, or a gateway in its place."""

    reason: str
    was_sent: bool = True
    """Whether the backend may have the task all the same."""
    text: str = field(default="", compare=False)
    timed_out: bool = field(default=False, compare=False)
    """Whether it did not answer in time."""


@dataclass(frozen=True, slots=True)
class NotFound(_Answer):
    """The backend does not know the path, or a gateway does not know the backend."""

    reason: str = "answered 404"
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Erred(_Answer):
    """The backend answered that it failed, which may be temporary."""

    reason: str
    text: str = field(default="", compare=False)
    timed_out: bool = field(default=False, compare=False)
    """Whether it did not end its answer in time, or says that something took too long."""


@dataclass(frozen=True, slots=True)
class Rejected(_Answer):
    """The backend will never take this request."""

    reason: str
    text: str = field(default="", compare=False)


Answer = Accepted | Completed | Busy | Unreachable | NotFound | Erred | Rejected


def described(answer: Busy | Unreachable | NotFound | Erred | Rejected) -> str:
    """What the backend did, for the operator."""
    return answer.reason if answer.text in answer.reason else f"{answer.reason}: {answer.text}"


def error_type_of(answer: Busy | Unreachable | NotFound | Erred | Rejected) -> str:
    """What went wrong, in a word that a span may be grouped by: the status, ``timeout``, or what kind of answer it
    was."""
    if status := _STATUS.match(answer.reason):
        return status[1]
    is_timeout = isinstance(answer, (Unreachable, Erred)) and answer.timed_out
    return "timeout" if is_timeout else type(answer).__name__.lower()


class ResultRoom(Protocol):
    """Where the result in an answer may be kept in memory."""

    @property
    def most_bytes(self) -> int: ...

    def take(self, size_bytes: int) -> None:
        """Take room for so many more bytes.

        Raises:
            Overloaded: there is none.
        """
        ...


class BackendTransport(Protocol):
    """How a backend is called. The simulation and tests have their own."""

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: ResultRoom,
    ) -> Answer:
        """POST a task. *headers* have the ``Content-Length`` of a body that comes piece by piece. Such a body is
        iterated again if the request has to be sent again.

        Raises:
            Overloaded: there is no *room* for the result.
        """
        ...

    async def aclose(self) -> None: ...


class BackendClient:
    """The calls to all backends. Uses no proxy, and follows no redirect but one that only adds a slash to the path.
    Of an answer that is not a result, it reads the status, ``Retry-After`` and the beginning of the body; little else
    of it comes into memory."""

    def __init__(self, registry: BackendRegistry) -> None:
        self._registry = registry
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: ResultRoom,
    ) -> Answer:
        import aiohttp

        from shared.dispatch.bounded_answers import EndlessAnswer

        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._call(endpoint.url, headers, body)
                slashed = with_slash(endpoint.url, response.status, response.headers.get("Location"))
                if slashed:
                    response.abort()
                    response = await self._call(slashed, headers, body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Unreachable("could not be reached", was_sent=False)
        except TimeoutError:
            return Unreachable("did not answer in time", timed_out=True)
        except EndlessAnswer:
            return Erred(_ENDLESS)
        except (aiohttp.ClientError, OSError):
            return Unreachable("could not be reached")
        return await _understand(response, endpoint.backend, deadline, room)

    async def aclose(self) -> None:
        for session in self._sessions or ():
            await session.close()

    async def _call(self, url: str, headers: dict[str, str], body: bytes | AsyncIterable[bytes]) -> Response:
        """Send the request, and once more if the connection of an earlier call turns out to be closed. If the server
        got the task all the same, it gets the same attempt twice."""
        import aiohttp
        from yarl import URL

        from shared.dispatch.connections import Response, StaleConnection

        reusing, fresh = self._open()
        target = URL(url, encoded=True)

        async def post(session: aiohttp.ClientSession, *, waits: bool) -> Response:
            response = await session.post(target, data=body, headers=headers, allow_redirects=False, expect100=waits)
            assert isinstance(response, Response)
            return response

        waits = int(headers.get("Content-Length", 0)) >= _ASKED_FOR_BYTES
        try:
            response = await post(reusing, waits=waits)
        except StaleConnection as stale:
            try:
                response = await post(fresh, waits=waits)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                raise stale from None  # this may be the task that has ended the backend
        if waits and response.status == 417:  # It does not know what it is to expect (RFC 9110, 10.1.1).
            response.abort()
            response.release()
            response = await post(fresh, waits=False)
        return response

    def _open(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        if self._sessions is None:
            from shared.dispatch.bounded_answers import Turns
            from shared.dispatch.connections import open_session

            turns = Turns()
            self._sessions = (
                open_session(self._registry, turns),
                open_session(self._registry, turns, reuses_connections=False),
            )
        return self._sessions


async def _understand(response: Response, backend: Backend, deadline: float, room: ResultRoom) -> Answer:
    answer = await _read(response, backend, deadline, room)
    slots = response.headers.get(SLOTS_HEADER)
    if slots is None:
        return answer
    try:
        return replace(answer, told=ToldSlots.parse(slots, response.headers.get(INSTANCE_HEADER)))
    except BadSlots:
        return answer


async def _read(response: Response, backend: Backend, deadline: float, room: ResultRoom) -> Answer:
    try:
        telemetry.answered(response.status)
        if response.is_acceptance and (backend.answers_result or COMPLETION_HEADER in response.headers):
            return await _result(response, deadline, room)
        # The rest of a short answer is read so that the connection can be used again.
        body = await _beginning(response)
        if not response.is_acceptance:
            response.abort()
        elif not response.is_request_sent:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await response.request_sent()
        return _meaning(response, backend, body)
    finally:
        response.release()


async def _result(response: Response, deadline: float, room: ResultRoom) -> Completed | Erred | Rejected:
    import aiohttp

    from shared.dispatch.bounded_answers import EndlessAnswer

    headers = response.headers
    data, size_bytes, taken = BytesIO(), 0, INLINE_LIMIT_BYTES  # which gives what it holds without another copy
    try:
        async with asyncio.timeout_at(deadline):
            while piece := await response.content.readany():
                size_bytes += data.write(piece)
                if size_bytes > room.most_bytes:
                    response.abort()
                    return Rejected(f"answered with more than {room.most_bytes} bytes")
                while size_bytes > taken:
                    room.take(_ROOM_STEP_BYTES)
                    taken += _ROOM_STEP_BYTES
    except EndlessAnswer:
        return Erred(_ENDLESS)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        response.abort()
        timed_out = isinstance(error, TimeoutError)
        return Erred("did not end its answer in time" if timed_out else "broke off its answer", timed_out=timed_out)
    try:
        status = status_texts.completion(headers.get(COMPLETION_HEADER, ""))
    except ValueError:
        status = State.COMPLETED.value
    kind, encoding = headers.get("Content-Type", ""), headers.get("Content-Encoding", "")
    return Completed(
        status,
        kind if is_content_type(kind) else "application/octet-stream",
        encoding if is_content_encoding(encoding) else "",
        data.getvalue(),
    )


async def _beginning(response: Response) -> bytes:
    import aiohttp

    if response.content.is_eof():
        return response.content.read_nowait(_READ_BYTES)
    body = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_READING_S):
            while len(body) < _READ_BYTES and (piece := await response.content.read(_READ_BYTES - len(body))):
                body += piece
    return bytes(body)


def with_slash(url: str, status: int, location: str | None) -> str | None:
    """The URL with a slash at the end of its path, if that is where a redirect leads. A service that is defined at
    ``/x/`` answers so to ``/x``."""
    if location is None or status not in (301, 302, 307, 308):
        return None
    try:
        called, target = urlsplit(url), urlsplit(urljoin(url, location))
        is_same_host = called.hostname == target.hostname and called.port == target.port
    except ValueError:
        return None
    if not is_same_host or target.path != called.path + "/" or target.query != called.query:
        return None
    # Behind a proxy that ends TLS, a service takes its own scheme for http.
    if target.scheme not in (called.scheme, "http"):
        return None
    return urlunsplit(called._replace(path=target.path))


def _meaning(response: Response, backend: Backend, body: bytes) -> Answer:
    status, headers = response.status, response.headers
    if response.is_acceptance:
        return Accepted()
    reason, text = f"answered {status}", text_of(headers.get("Content-Type", ""), body)
    if status in (429, 503) or status in backend.busy:
        return Busy(retry_after_s(headers.get("Retry-After")), reason, text)
    if text and 400 <= status < 500:
        # The caller can act on it. What else a backend says is for the operator.
        reason = f"{reason}: {text}"
    if status in (502, 504):  # a gateway's, in place of a backend that is not there
        return Unreachable(reason, text=text, timed_out=status == 504)
    if status == 404:
        return NotFound(reason, text)
    if status == 408 or status >= 500:
        return Erred(reason, text, timed_out=status == 408)
    return Rejected(reason, text)


def retry_after_s(retry_after: str | None) -> float | None:
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
