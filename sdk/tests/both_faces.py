"""The asynchronous client, driven as if it were the synchronous one, so that a test is written once for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from taskbackbone.client import AsyncResult, AsyncSchedules, AsyncTask, AsyncTaskClient


class Blocking:
    """*subject* with its coroutines and asynchronous iterators run to their ends in *loop*."""

    def __init__(self, subject: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._subject = subject
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._subject, name)
        return self._call(value) if callable(value) else self._wrapped(value)

    def __iter__(self) -> Iterator[Any]:
        iterator = aiter_of(self._subject)
        while True:
            try:
                value = self._loop.run_until_complete(iterator.__anext__())
            except StopAsyncIteration:
                return
            yield self._wrapped(value)

    def __repr__(self) -> str:
        return repr(self._subject)

    def _call(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            value = method(*args, **options)
            return self._wrapped(self._loop.run_until_complete(value) if inspect.isawaitable(value) else value)

        return call

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._wrapped, value))
        is_ours = isinstance(value, (AsyncTask, AsyncResult, AsyncSchedules)) or inspect.isasyncgen(value)
        return Blocking(value, self._loop) if is_ours else value


def aiter_of(subject: Any) -> Any:
    return subject.__aiter__()


class BlockingClient(Blocking):
    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._subject.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def blocking_client(*args: Any, **options: Any) -> Any:
    """An ``AsyncTaskClient`` that is called without ``await``; its ``close`` ends the loop too."""
    return BlockingClient(AsyncTaskClient(*args, **options), asyncio.new_event_loop())
