"""Run the steps of ``_core``: with requests, with requests in threads, or with aiohttp.

None follows a redirect, keeps a cookie, or decodes content. Proxies of the environment are used.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import errors
from ._core import Answer, Call, NoAnswer, Sleep, Steps
from ._payload import CHUNK_BYTES, Payload

if TYPE_CHECKING:
    from ._aiohttp import Aiohttp

T = TypeVar("T")
_CONNECTIONS = 32
_LEAST_BYTES_PER_S = 16 * 1024
"""An answer that comes more slowly, on the whole, counts as silence."""
_BAD_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
LONGEST_ERROR_BYTES = 1024 * 1024


def run_sync(steps: Steps[T], transport: Requests | None = None) -> T:
    """Run *steps* in this thread."""
    transport = transport or _shared
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    value = None
                else:
                    value = transport.send(step)
            except NoAnswer as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


async def run_in_threads(steps: Steps[T], transport: Requests | None = None) -> T:
    """Run *steps* in this event loop, with each call in a thread and each pause in the loop."""
    import asyncio

    transport = transport or _shared
    loop = asyncio.get_running_loop()

    async def send(call: Call) -> Answer:
        return await loop.run_in_executor(transport.threads, transport.send, call)

    return await _run(steps, send)


async def run_async(steps: Steps[T], transport: Aiohttp) -> T:
    """Run *steps* in this event loop, with an ``Aiohttp`` of ``_aiohttp``."""
    return await _run(steps, transport.send)


async def _run(steps: Steps[T], send: Any) -> T:
    import asyncio

    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    value = None
                else:
                    value = await send(step)
            except NoAnswer as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


class Requests:
    """Calls by requests, from any number of threads. After a fork, each process has its own connections.

    Parameters:
        threads: how many calls ``run_in_threads`` makes at a time.
    """

    def __init__(self, threads: int = 16) -> None:
        self._lock = threading.Lock()
        self._number = threads
        self._pid = 0
        self._session: Any = None
        self._threads: Any = None

    def send(self, call: Call) -> Answer:
        """
        Raises:
            NoAnswer: there was none, or no whole one.
            Unreachable: there never will be one.
            BodyUnreadable: by its source.
        """
        session = self._own().session
        from urllib3.exceptions import HTTPError

        try:
            response = session.request(
                call.method,
                call.url,
                headers=call.headers,
                data=_sendable(call.body),
                timeout=call.timeout_s,
                allow_redirects=False,
                stream=True,
            )
        except ValueError as error:  # such as a bad proxy in the environment
            raise errors.Unreachable(f"No call can be made: {words(error)}") from error
        except (OSError, HTTPError) as error:
            if _BAD_CERTIFICATE in str(error):  # and stays so
                raise errors.Unreachable(f"The server's certificate is not trusted: {words(error)}") from error
            raise NoAnswer(words(error)) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        stream = _Stream(response, Pace.of(response.status_code, headers, call.timeout_s))
        if call.streamed and 200 <= response.status_code < 300:
            return Answer(response.status_code, headers, stream=stream)
        return Answer(response.status_code, headers, stream.whole(is_error=response.status_code >= 300))

    @property
    def session(self) -> Any:
        """The process's ``requests.Session``."""
        return self._own()._session

    @property
    def threads(self) -> Any:
        """The process's executor for calls."""
        own = self._own()
        with self._lock:
            if own._threads is None:
                from concurrent.futures import ThreadPoolExecutor

                own._threads = ThreadPoolExecutor(self._number, thread_name_prefix="backbone-call")
        return own._threads

    def close(self) -> None:
        """Close the connections, and the threads once they are done."""
        with self._lock:
            session, threads, self._session, self._threads = self._session, self._threads, None, None
        if session is not None:
            session.close()
        if threads is not None:
            threads.shutdown(wait=False)

    def _own(self) -> Requests:
        with self._lock:
            if self._session is None or self._pid != os.getpid():
                self._session, self._threads, self._pid = _new_session(), None, os.getpid()
        return self


def _new_session() -> Any:
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


_shared = Requests()


class _Body:
    """A body as requests sends it: with ``Content-Length``, since it has a length.

    It goes in parts, since a socket's timeout is for all that is sent at once.
    """

    def __init__(self, body: bytes | Payload) -> None:
        self._body = body

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body) if isinstance(self._body, Payload) else parts(self._body)


def _sendable(body: bytes | Payload | None) -> Any:
    if body is None or (isinstance(body, bytes) and len(body) <= CHUNK_BYTES):
        return body
    return _Body(body) if len(body) else b""


def parts(body: bytes) -> Iterator[bytes]:
    whole = memoryview(body)
    for start in range(0, len(whole), CHUNK_BYTES):
        yield bytes(whole[start : start + CHUNK_BYTES])


class _Stream:
    """The bytes of an answer as they come over the wire.

    Iterating raises NoAnswer when they break off, or come too slowly.
    """

    def __init__(self, response: Any, pace: Pace) -> None:
        self._response = response
        self._pace = pace

    def __iter__(self) -> Iterator[bytes]:
        from http.client import HTTPException

        from urllib3.exceptions import HTTPError

        raw, pace = self._response.raw, self._pace
        try:
            while True:
                pace.begin()
                chunk = _read1(raw)
                pace.end(len(chunk))
                if not chunk:
                    raw.release_conn()
                    break
                yield chunk
        except (OSError, HTTPError, HTTPException) as error:
            raise NoAnswer(f"the answer broke off: {words(error)}") from error
        finally:
            self.close()

    def whole(self, *, is_error: bool) -> bytes:
        """All of it; of an error, its beginning."""
        body = bytearray()
        for chunk in self:
            body += chunk
            if is_error and len(body) > LONGEST_ERROR_BYTES:
                self.close()
                break
        return bytes(body)

    def close(self) -> None:
        self._response.close()


def _read1(raw: Any) -> bytes:
    """What there is of an answer, but one byte at least: ``read`` would wait for more."""
    if hasattr(raw, "read1"):  # since urllib3 2.1
        return raw.read1(CHUNK_BYTES, decode_content=False)
    return raw._fp.read1(CHUNK_BYTES)


class Pace:
    """Looks whether an answer comes fast enough and whole, but not how long its reader takes in between."""

    def __init__(self, timeout_s: float, expected: int | None, *, is_framed: bool) -> None:
        self.timeout_s = timeout_s
        self._expected = expected
        self._is_framed = is_framed
        self._received = 0
        self._waited_s = 0.0
        self._began_s = 0.0

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], timeout_s: float) -> Pace:
        length, is_chunked = headers.get("content-length", ""), "transfer-encoding" in headers
        expected = int(length) if length.isdigit() and not is_chunked and status != 304 else None
        return cls(timeout_s, expected, is_framed=is_chunked or expected is not None or status in (204, 304))

    def begin(self) -> None:
        self._began_s = time.monotonic()

    def end(self, received: int) -> None:
        """Count what a read returned; nothing means the end.

        Raises:
            NoAnswer: it is not the whole, or took too long.
        """
        self._waited_s += time.monotonic() - self._began_s
        self._received += received
        if not received and self._expected is not None and self._received != self._expected:
            raise NoAnswer(f"the answer broke off after {self._received:,} of {self._expected:,} bytes")
        if not self._received and not self._is_framed:
            raise NoAnswer("the answer broke off before its body")
        if received and self._waited_s > self.timeout_s + self._received / _LEAST_BYTES_PER_S:
            raise NoAnswer(f"the answer came too slowly: {self._received:,} bytes in {self._waited_s:.0f} s")


def words(error: BaseException) -> str:
    """What an error of a connection comes to, in a few words."""
    system, last = None, error
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        one = pending.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        last = one
        if isinstance(one, OSError) and one.strerror:
            system = one
        pending += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    if system is not None:
        code = system.errno or 0  # below 0: of a name that is unknown
        return f"{os.strerror(code) if code > 0 else system.strerror} ({type(error).__name__})"
    if "Timeout" in type(error).__name__ or isinstance(error, TimeoutError):
        return f"silence for too long ({type(error).__name__})"
    return f"{type(last).__name__}: {str(last)[:200]}".rstrip(": ")
