"""Run the steps of ``_core``: with requests, with requests in threads, or with aiohttp.

None follows a redirect, keeps a cookie, or decodes content. Proxies of the environment are used. An answer that does
not end is none.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from typing import Any, Callable, TypeVar

from . import errors
from ._core import Answer, Call, NoAnswer, Sleep, Steps, Work
from ._payload import CHUNK_BYTES, MOST_BYTES, Payload

T = TypeVar("T")
_CONNECTIONS = 32
_LEAST_BYTES_PER_S = 16 * 1024
"""An answer that comes more slowly, on the whole, counts as silence."""
_CLOSE_S = 1.0
_NOT_TRUSTED = "The server's certificate is not trusted."
_QUERY = re.compile(r"\?[^\s'\"]+")
"""Of a URL in an error's text: it may carry a permission."""


def run_sync(steps: Steps[T], transport: Requests | None = None, pause: Callable[[float], None] = time.sleep) -> T:
    """Run *steps* in this thread."""
    transport = transport or SHARED
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Work):
                    value = step.do()
                else:
                    value = pause(step.seconds) if isinstance(step, Sleep) else transport.send(step)
            except NoAnswer as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


async def run_async(steps: Steps[T], transport: Aiohttp | Requests) -> T:
    """Run *steps* in this event loop."""
    import asyncio

    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Work):
                    value = await done(step)
                else:
                    value = await (asyncio.sleep(step.seconds) if isinstance(step, Sleep) else transport.asend(step))
            except NoAnswer as error:
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


async def done(work: Work) -> Any:
    """Do it in a thread. If this is cancelled, the work is halted, and not waited for."""
    import asyncio

    try:
        return await asyncio.get_running_loop().run_in_executor(None, work.do)
    except asyncio.CancelledError:
        work.halt()
        raise


run_in_threads = run_async
"""With a ``Requests``: each call is in a thread, and each pause in the loop."""


class Requests:
    """Calls by requests, from any number of threads. After a fork, each process has its own connections."""

    def __init__(self, threads: int = 16, make: Callable[[], Any] | None = None) -> None:
        self._lock = threading.Lock()
        self._number = threads
        self._make = make or new_session
        self._pid = 0
        self._own: Any = None

    def send(self, call: Call) -> Answer:
        """Make the call. NoAnswer: there is none, or no whole one; Unreachable: there never will be one."""
        session = self.session
        from urllib3.exceptions import HTTPError

        failure: Exception
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
            failure = errors.Unreachable(f"No call can be made: {_words(error)}")
        except (OSError, HTTPError) as error:
            is_trusted = "CERTIFICATE_VERIFY_FAILED" not in str(error)
            failure = NoAnswer(_words(error)) if is_trusted else errors.Unreachable(_NOT_TRUSTED)
        else:
            return self._answer(call, response)
        raise failure  # without a cause, since the text of that has the URL, and so the permission that it carries

    def _answer(self, call: Call, response: Any) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        stream = _Stream(response, _Pace(call, response.status_code, headers))
        answer = Answer(response.status_code, headers, stream=stream)
        return answer if call.streamed and answer.is_success else answer._replace(body=b"".join(stream), stream=None)

    async def asend(self, call: Call) -> Answer:
        """As ``send``, which a thread does."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._of_process()[1], self.send, call)

    @property
    def session(self) -> Any:
        return self._of_process()[0]

    def close(self) -> None:
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own[0].close()
            own[1].shutdown(wait=False)

    def _of_process(self) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._own is None or self._pid != os.getpid():
                threads = ThreadPoolExecutor(self._number, thread_name_prefix="backbone-call")
                self._own, self._pid = (self._make(), threads), os.getpid()
            return self._own


def new_session(pools: Mapping[str, Any] | None = None) -> Any:
    """
    Parameters:
        pools: urllib3's, for what goes through no proxy.
    """
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    from ._bounds import pools as bounded

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *rest: Any, **options: Any) -> None:
            super().init_poolmanager(*rest, **options)
            manager: Any = self.poolmanager
            manager.pool_classes_by_scheme = bounded() if pools is None else pools

        def proxy_manager_for(self, *rest: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*rest, **options)
            manager.pool_classes_by_scheme = bounded()
            return manager

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(pool_maxsize=_CONNECTIONS))
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


SHARED = Requests()


class _Body:
    """A body as requests sends it: with ``Content-Length``, since it has a length.

    It goes in parts, since a socket's timeout is for all that is sent at once.
    """

    def __init__(self, body: bytes | Payload) -> None:
        self._body = body

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._body, Payload):
            return iter(self._body)
        starts = range(0, len(self._body), CHUNK_BYTES)
        return (self._body[start : start + CHUNK_BYTES] for start in starts)


def _sendable(body: bytes | Payload | None) -> Any:
    if body is None or (isinstance(body, bytes) and len(body) <= CHUNK_BYTES):
        return body
    return _Body(body) if len(body) else b""


class _Stream:
    """The bytes of an answer as they come over the wire. NoAnswer is raised when they break off."""

    def __init__(self, response: Any, pace: _Pace) -> None:
        self._response = response
        self._pace = pace

    def __iter__(self) -> Iterator[bytes]:
        from http.client import HTTPException

        from urllib3.exceptions import HTTPError

        raw = self._response.raw
        try:
            while True:
                began_s = time.monotonic()
                if hasattr(raw, "read1"):  # since urllib3 2.1; ``read`` would wait for more
                    chunk = raw.read1(CHUNK_BYTES, decode_content=False)
                else:
                    chunk = raw._fp.read1(CHUNK_BYTES)
                self._pace.count(chunk, began_s)
                if not chunk:
                    raw.release_conn()
                    return
                yield chunk
        except (OSError, HTTPError, HTTPException) as error:
            raise NoAnswer(f"the answer broke off: {_words(error)}") from error
        finally:
            self.close()

    def close(self) -> None:
        self._response.close()


class _Pace:
    """Whether an answer comes fast enough and whole. The time that its reader takes in between does not count."""

    def __init__(self, call: Call, status: int, headers: Mapping[str, str]) -> None:
        length, is_chunked = headers.get("content-length", ""), "transfer-encoding" in headers
        self.timeout_s = call.timeout_s
        self._most = math.inf if call.streamed and 200 <= status < 300 else MOST_BYTES
        self._expected = int(length) if length.isdigit() and not is_chunked and status != 304 else None
        self._is_framed = is_chunked or self._expected is not None or status in (204, 304)
        self._received = 0
        self._waited_s = 0.0

    def count(self, chunk: bytes, began_s: float) -> None:
        """Count what a read returned; nothing means the end."""
        self._waited_s += time.monotonic() - began_s
        self._received += len(chunk)
        if not chunk and self._expected is not None and self._received != self._expected:
            raise NoAnswer(f"the answer broke off after {self._received:,} of {self._expected:,} bytes")
        if not self._received and not self._is_framed:
            raise NoAnswer("the answer broke off before its body")
        if self._received > self._most:
            raise NoAnswer(f"the answer has more than {self._most:,} bytes")
        if chunk and self._waited_s > self.timeout_s + self._received / _LEAST_BYTES_PER_S:
            raise NoAnswer(f"the answer came too slowly: {self._received:,} bytes in {self._waited_s:.0f} s")


def _words(error: BaseException) -> str:
    """What an error of a connection comes to, in a few words: those of its innermost cause."""
    if "Timeout" in type(error).__name__:
        return f"silence for too long ({type(error).__name__})"
    inner: list[Any] = [error]
    for _ in range(9):  # since causes may go round in a circle
        beside = None if inner[0].__suppress_context__ else inner[0].__context__
        within = (getattr(inner[0], "reason", None), *inner[0].args, inner[0].__cause__, beside)
        inner = [cause for cause in within if isinstance(cause, BaseException)] or inner
    number = getattr(inner[0], "errno", None) or 0  # below 0: of a name that is unknown
    text = os.strerror(number) if number > 0 and "SSL" not in type(inner[0]).__name__ else str(inner[0])
    return f"{type(inner[0]).__name__}: {_QUERY.sub('?…', text)[:200]}"


class Aiohttp:
    """Calls by aiohttp, in one event loop at a time."""

    def __init__(self) -> None:
        try:
            import aiohttp
        except ImportError as error:
            raise ImportError('AsyncTaskClient needs aiohttp: pip install "taskbackbone[async]"') from error
        self._aiohttp = aiohttp
        self._session: Any = None
        self._loop: Any = None

    async def asend(self, call: Call) -> Answer:
        """As ``Requests.send``; the stream of the answer is asynchronous."""
        response, failure = await self._head(call)
        if failure is not None:
            raise failure  # without a cause, since the repr of aiohttp's errors has the request's headers
        headers = {name.lower(): value for name, value in response.headers.items()}
        stream = _AsyncStream(response, _Pace(call, response.status, headers))
        answer = Answer(response.status, headers, stream=stream)
        if call.streamed and answer.is_success:
            return answer
        return answer._replace(body=b"".join([chunk async for chunk in stream]), stream=None)

    async def _head(self, call: Call) -> tuple[Any, Exception | None]:
        """The response, of which only the head has been read, or why there is none."""
        import asyncio

        body = _AsyncBody(call.body)
        asked = asyncio.ensure_future(self._ask(call, body))
        try:
            while not (await asyncio.wait({asked}, timeout=call.timeout_s))[0]:
                if time.monotonic() - body.moved_s >= call.timeout_s:
                    return None, NoAnswer(f"silence for {call.timeout_s:g} s")
            return asked.result(), None
        except self._aiohttp.ClientConnectorCertificateError:
            return None, errors.Unreachable(_NOT_TRUSTED)
        except ValueError as error:
            return None, errors.Unreachable(f"No call can be made: {_words(error)}")
        except (OSError, self._aiohttp.ClientError, asyncio.TimeoutError) as error:
            return None, body.failure or NoAnswer(_words(error))
        finally:
            asked.cancel()

    async def _ask(self, call: Call, body: _AsyncBody) -> Any:
        import asyncio

        from yarl import URL

        from ._bounds import connector

        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = self._aiohttp.ClientSession(
                connector=connector(),
                trust_env=True,
                auto_decompress=False,
                cookie_jar=self._aiohttp.DummyCookieJar(),
            )
        length = {} if call.body is None else {"Content-Length": str(call.size)}
        return await self._session.request(
            call.method,
            URL(call.url, encoded=True),
            headers={**call.headers, **length},
            data=body.chunks() if call.size else None,
            timeout=self._aiohttp.ClientTimeout(total=None, sock_connect=call.timeout_s),
            allow_redirects=False,
        )

    async def close(self) -> None:
        import asyncio
        from contextlib import suppress

        session, self._session = self._session, None
        if session is not None:
            with suppress(asyncio.TimeoutError):  # it would wait for a server that takes no more of a body
                await asyncio.wait_for(session.close(), _CLOSE_S)


class _AsyncBody:
    """A body as aiohttp sends it, which notes when a part of it was last taken, and what became of its source."""

    def __init__(self, body: bytes | Payload | None) -> None:
        self._body = _Body(body or b"")
        self.moved_s = time.monotonic()
        self.failure: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        import asyncio

        loop, chunks, left = asyncio.get_running_loop(), iter(self._body), len(self._body)
        try:
            while left:
                chunk = await loop.run_in_executor(None, next, chunks)
                self.moved_s, left = time.monotonic(), left - len(chunk)
                yield chunk
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.moved_s = time.monotonic()


class _AsyncStream:
    """As ``_Stream``."""

    def __init__(self, response: Any, pace: _Pace) -> None:
        self._response = response
        self._pace = pace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        import asyncio

        from aiohttp import ClientError

        try:
            while True:
                began_s = time.monotonic()
                chunk = await asyncio.wait_for(self._response.content.readany(), self._pace.timeout_s)
                self._pace.count(chunk, began_s)
                if not chunk:
                    return
                yield chunk
        except (OSError, ClientError, asyncio.TimeoutError) as error:
            failure = _words(error)
        finally:
            await self.close()
        raise NoAnswer(f"the answer broke off: {failure}")

    async def close(self) -> None:
        self._response.close()


def alone(_: Any) -> float:
    return 1


def each(
    work: Callable[[list[Any]], list[T]], items: Iterable[Any], limit: int, weigh: Callable[[Any], float] = alone
) -> Iterator[T]:
    """What *work* returns for *items*, in their order; it is called *limit* times at a time.

    Each time it gets as many of those that wait for it as weigh no more than 1, by *weigh*, or only the next one.
    """
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    threads, waiting, new = ThreadPoolExecutor(limit, "backbone-item"), deque[Any](), deque[Any]()
    lock, held = threading.Lock(), 0.0

    def run() -> None:
        with lock:
            group = _next_of(new)
        try:
            for (_, _, end), value in zip(group, work([item for item, _, _ in group]) if group else ()):
                end.set_result(value)
        except BaseException as error:
            for _, _, end in group:
                end.set_exception(error)

    try:
        for item in items:
            waiting.append((item, weigh(item), Future[T]()))
            held += waiting[-1][1]
            new.append(waiting[-1])
            threads.submit(run)
            while waiting and (held > limit or waiting[0][2].done()):
                _, weight, end = waiting.popleft()
                held -= weight
                yield end.result()
        while waiting:
            yield waiting.popleft()[2].result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


async def aeach(
    work: Callable[[list[Any]], Awaitable[list[T]]],
    items: AsyncIterator[Any],
    limit: int,
    weigh: Callable[[Any], float] = alone,
) -> AsyncIterator[T]:
    """The same in an event loop."""
    import asyncio
    from collections import deque

    loop, waiting, new = asyncio.get_running_loop(), deque[Any](), deque[Any]()
    running, held = set[Any](), 0.0

    async def run() -> None:
        group: list[Any] = []
        try:
            while group := _next_of(new):
                for (_, _, end), value in zip(group, await work([item for item, _, _ in group])):
                    end.set_result(value)
        except Exception as error:
            for _, _, end in group:
                end.set_exception(error)
        finally:
            running.discard(asyncio.current_task())

    try:
        async for item in items:
            waiting.append((item, weigh(item), loop.create_future()))
            held += waiting[-1][1]
            new.append(waiting[-1])
            if len(running) < limit:
                running.add(asyncio.ensure_future(run()))
            while waiting and (held > limit or waiting[0][2].done()):
                _, weight, end = waiting.popleft()
                held -= weight
                yield await end
        while waiting:
            yield await waiting.popleft()[2]
    finally:
        left = [*running, *(end for _, _, end in waiting)]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _next_of(new: Any) -> list[Any]:
    """Take away what goes together: items with their weights and what waits for their ends."""
    group, weight = list[Any](), 0.0
    while new and (not group or weight + new[0][1] <= 1):
        weight += new[0][1]
        group.append(new.popleft())
    return group
