"""Runs a function, on the event loop or in a thread, under the function timeout, and logs its failure."""

import asyncio
import concurrent.futures
import logging
import re
import secrets
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import azure.functions as func

from local.functions_host.http_messages import Response
from local.functions_host.indexing import Function

_log = logging.getLogger("local.functions_host")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_thread_local = threading.local()


class InvocationFailed(Exception):
    """Raised when a function did not give a result that the host can use. The failure is in the log already."""


@dataclass(frozen=True, slots=True)
class RetryContext:
    retry_count: int = 0
    max_retry_count: int = 0
    exception: BaseException | None = None


@dataclass(frozen=True, slots=True)
class TraceContext:
    trace_parent: str
    trace_state: str
    attributes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], function: str) -> "TraceContext":
        """Returns the caller's trace, or a new one."""
        trace_parent = headers.get("traceparent", "")
        attributes = {"OperationName": function}
        if _TRACEPARENT.fullmatch(trace_parent):
            return cls(trace_parent, headers.get("tracestate", ""), attributes)
        return cls(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01", "", attributes)

    # The older names, which the worker still has.
    Traceparent = property(lambda self: self.trace_parent)
    Tracestate = property(lambda self: self.trace_state)
    Attributes = property(lambda self: self.attributes)


class InvocationContext(func.Context):
    def __init__(
        self, function: Function, invocation_id: str, headers: Mapping[str, str], retry: RetryContext
    ) -> None:
        self._function = function
        self._invocation_id = invocation_id
        self._trace_context = TraceContext.from_headers(headers, function.name)
        self._retry_context = retry

    @property
    def invocation_id(self) -> str:
        return self._invocation_id

    @property
    def thread_local_storage(self) -> Any:
        return _thread_local

    @property
    def function_name(self) -> str:
        return self._function.name

    @property
    def function_directory(self) -> str:
        return self._function.directory

    @property
    def trace_context(self) -> Any:
        return self._trace_context

    @property
    def retry_context(self) -> Any:
        return self._retry_context


class Invoker:
    """Runs functions and keeps track of the running ones.

    Parameters:
        timeout_s: host.json's `functionTimeout`, after which all running functions end; None: unlimited.
        thread_count: the size of the pool for functions that are not `async def`; None: Python's default, as in the
            worker.
    """

    def __init__(self, timeout_s: float | None, thread_count: int | None) -> None:
        self._timeout_s = timeout_s
        self._threads = concurrent.futures.ThreadPoolExecutor(thread_count, thread_name_prefix="function")
        self._in_threads: set[concurrent.futures.Future[Any]] = set()
        self._in_flight: set[asyncio.Task[Response | None]] = set()
        self._begun: set[asyncio.Task[Any]] = set()

    def start(
        self,
        function: Function,
        argument: object,
        *,
        headers: Mapping[str, str] | None = None,
        retry: RetryContext | None = None,
    ) -> "asyncio.Task[Response | None]":
        """Starts an invocation. Its result is an HTTP function's response; a failure raises `InvocationFailed`.

        The invocation goes on if the caller stops waiting. But if the caller's task awaits it directly and is
        cancelled, the invocation is cancelled too.
        """
        invocation = asyncio.create_task(self._invoke(function, argument, headers or {}, retry or RetryContext()))
        self._in_flight.add(invocation)
        invocation.add_done_callback(self._ended)
        return invocation

    async def wait(self, timeout_s: float) -> None:
        """Waits for the functions that run now, and no longer than `timeout_s`."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the running functions, and cancels those that still run when the time is up."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=timeout_s)
            for invocation in late:
                invocation.cancel()
            if late:
                await asyncio.wait(late)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def has_busy_threads(self) -> bool:
        """Whether a function still runs in a thread. A thread cannot be stopped and keeps the process from ending."""
        return bool(self._in_threads)

    def _ended(self, invocation: "asyncio.Task[Response | None]") -> None:
        self._in_flight.discard(invocation)
        if not invocation.cancelled():
            # Marks the exception as seen: it is in the log, whether a caller still waits for it or not.
            invocation.exception()

    async def _invoke(
        self, function: Function, argument: object, headers: Mapping[str, str], retry: RetryContext
    ) -> Response | None:
        invocation_id = str(uuid.uuid4())
        arguments = {function.trigger["name"]: argument}
        if function.takes_context:
            arguments["context"] = InvocationContext(function, invocation_id, headers, retry)
        timeout = asyncio.timeout(self._timeout_s)
        this = asyncio.current_task()
        assert this is not None
        self._begun.add(this)
        try:
            async with timeout:
                if function.is_async:
                    _thread_local.invocation_id = invocation_id
                    result = await function.handler(**arguments)
                else:
                    running = self._threads.submit(_call_in_thread, function, arguments, invocation_id)
                    self._in_threads.add(running)
                    running.add_done_callback(self._in_threads.discard)
                    result = await asyncio.wrap_future(running)
            return function.encode(result)
        except (Exception, asyncio.CancelledError) as error:
            reason = f" after functionTimeout, {self._timeout_s:g} s" if timeout.expired() else ""
            _log.exception("Executed 'Functions.%s' (Failed, Id=%s)%s", function.name, invocation_id, reason)
            if timeout.expired():
                self._end_all_but(this)
            raise InvocationFailed(f"Exception while executing function: Functions.{function.name}") from error
        finally:
            self._begun.discard(this)

    def _end_all_but(self, overdue: "asyncio.Task[Any]") -> None:
        """Ends the other invocations, because the real host restarts the worker in which they all run."""
        for invocation in self._begun - {overdue}:
            invocation.cancel()


def _call_in_thread(function: Function, arguments: Mapping[str, object], invocation_id: str) -> Any:
    _thread_local.invocation_id = invocation_id
    try:
        return function.handler(**arguments)
    finally:
        _thread_local.invocation_id = None
