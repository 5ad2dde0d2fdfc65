"""Calls by aiohttp, for ``run_async``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from . import errors
from ._core import Answer, Call, NoAnswer
from ._drivers import LONGEST_ERROR_BYTES, Pace, parts, words
from ._payload import Payload

_CLOSE_S = 1.0


class Aiohttp:
    """Calls by aiohttp, in one event loop at a time.

    Raises:
        ImportError: aiohttp is not installed.
    """

    def __init__(self) -> None:
        try:
            import aiohttp
        except ImportError as error:
            raise ImportError('AsyncTaskClient needs aiohttp: pip install "taskbackbone[async]"') from error
        self._aiohttp = aiohttp
        self._session: Any = None
        self._loop: Any = None

    async def send(self, call: Call) -> Answer:
        """As ``Requests.send``; the stream of the answer is asynchronous."""
        response, failure = await self._head(call)
        if failure is not None:
            raise failure  # without a cause, since the repr of aiohttp's errors has the request's headers
        headers = {name.lower(): value for name, value in response.headers.items()}
        stream = _AsyncStream(response, Pace.of(response.status, headers, call.timeout_s))
        if call.streamed and 200 <= response.status < 300:
            return Answer(response.status, headers, stream=stream)
        return Answer(response.status, headers, await stream.whole(is_error=response.status >= 300))

    async def _head(self, call: Call) -> tuple[Any, Exception | None]:
        """The response, of which only the head has been read, or why there is none."""
        import asyncio

        session, body = self._own_session(), _AsyncBody(call.body)
        asked = asyncio.ensure_future(self._ask(session, call, body))
        try:
            while not (await asyncio.wait({asked}, timeout=call.timeout_s))[0]:
                if time.monotonic() - body.moved_s >= call.timeout_s:
                    return None, NoAnswer(f"silence for {call.timeout_s:g} s")
            return asked.result(), None
        except self._aiohttp.ClientConnectorCertificateError as error:
            return None, errors.Unreachable(f"The server's certificate is not trusted: {words(error)}")
        except ValueError as error:
            return None, errors.Unreachable(f"No call can be made: {words(error)}")
        except (OSError, self._aiohttp.ClientError, asyncio.TimeoutError) as error:
            return None, body.failure or NoAnswer(words(error))
        finally:
            asked.cancel()

    async def _ask(self, session: Any, call: Call, body: _AsyncBody) -> Any:
        from yarl import URL

        headers = dict(call.headers)
        if call.body is not None:
            headers["Content-Length"] = str(call.size)
        return await session.request(
            call.method,
            URL(call.url, encoded=True),
            headers=headers,
            data=body.chunks() if call.size else None,
            timeout=self._aiohttp.ClientTimeout(total=None, sock_connect=call.timeout_s),
            allow_redirects=False,
        )

    def _own_session(self) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = self._aiohttp.ClientSession(
                trust_env=True, auto_decompress=False, cookie_jar=self._aiohttp.DummyCookieJar()
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        import asyncio
        from contextlib import suppress

        session, self._session = self._session, None
        if session is not None:
            with suppress(asyncio.TimeoutError):  # it would wait for a server that takes no more of a body
                await asyncio.wait_for(session.close(), _CLOSE_S)


class _AsyncBody:
    """A body as aiohttp sends it, which notes when a part of it was last taken, and what became of its source."""

    def __init__(self, body: bytes | Payload | None) -> None:
        self._body = body
        self.moved_s = time.monotonic()
        self.failure: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            if isinstance(self._body, Payload):
                import asyncio

                loop, read = asyncio.get_running_loop(), iter(self._body)
                while chunk := await loop.run_in_executor(None, next, read, b""):
                    self.moved_s = time.monotonic()
                    yield chunk
            else:
                for chunk in parts(self._body or b""):
                    self.moved_s = time.monotonic()
                    yield chunk
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.moved_s = time.monotonic()


class _AsyncStream:
    """As ``_Stream``."""

    def __init__(self, response: Any, pace: Pace) -> None:
        self._response = response
        self._pace = pace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        import asyncio

        from aiohttp import ClientError

        failure = ""
        try:
            while True:
                self._pace.begin()
                chunk = await asyncio.wait_for(self._response.content.readany(), self._pace.timeout_s)
                self._pace.end(len(chunk))
                if not chunk:
                    return
                yield chunk
        except (OSError, ClientError, asyncio.TimeoutError) as error:
            failure = words(error)
        finally:
            self._response.close()
        raise NoAnswer(f"the answer broke off: {failure}")

    async def whole(self, *, is_error: bool) -> bytes:
        body = bytearray()
        async for chunk in self:
            body += chunk
            if is_error and len(body) > LONGEST_ERROR_BYTES:
                break
        return bytes(body)

    async def close(self) -> None:
        self._response.close()
