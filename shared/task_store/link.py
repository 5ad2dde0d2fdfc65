"""The way to Redis: one client for an event loop, a circuit breaker for each partition, scripts by name."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any, Final, cast

from redis import exceptions
from redis.asyncio import RedisCluster
from redis.exceptions import (
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from shared.circuit import Circuit, CircuitOpen
from shared.task_store.connection import CALL_TIMEOUT_S, RedisClient, reconnect
from shared.task_store.packing import TAGS
from shared.task_store.pipelines import EVERYWHERE, Pipelines, Words
from shared.task_store.sources import read_scripts

_UNAVAILABLE = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    TryAgainError,
    ClusterError,
    RedisClusterException,
    CircuitOpen,
)
_SILENT = (exceptions.ConnectionError, exceptions.TimeoutError, RedisClusterException, OSError)
_PATIENCE_S = 0.5
"""How long a call waits where an earlier one got no answer: enough to connect anew."""
# Errors that pass and for which redis-py has no type: a script that blocks all others, a disk that is full, replicas
# that lag. Redis 6.2 has the code of an error that struck within a script in the midst of its text.
_PASSING = re.compile(r"(?:^|: -)(BUSY|MISCONF|NOREPLICAS|UNKILLABLE|OOM|READONLY) ")


class StoreUnavailable(Exception):
    """Raised when Redis cannot be asked now. Whether the step was done is unknown; repeating it is safe."""


_SCRIPTS: Final = {
    name: (source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    for name, source in read_scripts().items()
}


_GET: Final = Words(b"GET")


_TWO_SLOTS: Final = tuple(f"{{{tag}}}" for tag in TAGS[:2])
"""Keys that a cluster has not on one server."""


@cache
def _first_words(script: str, *tags: str) -> Words:
    source, sha = _SCRIPTS[script]
    words = (word.encode() for word in (sha, str(len(tags)), *tags))
    return Words(b"EVALSHA", *words, source=source, is_common=tags == _TWO_SLOTS)


@cache
def _joint_words(name: str) -> Words:
    return _first_words(f"joint/{name}", *_TWO_SLOTS)


class RedisLink:
    """Calls Redis, and tells apart what passes from what is a fault.

    Args:
        open_redis: opens a client for the running event loop; called again after a failure to connect.
    """

    def __init__(self, open_redis: Callable[[], Awaitable[RedisClient]]) -> None:
        self._open_redis = open_redis
        self._pipelines: Pipelines | None = None
        self._opening: asyncio.Future[Pipelines] | None = None
        self._is_spread = False
        # One for each partition where they are spread: one node alone may be gone.
        self._circuits: defaultdict[str, Circuit] = defaultdict(lambda: Circuit(_SILENT, patience_s=_PATIENCE_S))

    async def ping(self) -> None:
        """
        Raises:
            StoreUnavailable: Redis does not answer.
        """
        await self._call(EVERYWHERE, lambda: self._alone(lambda redis: cast("Any", redis).ping()))

    async def get(self, tag: str, key: str) -> bytes | None:
        """The string at *key*, which begins with *tag*.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        return await self._call(tag, lambda: self._ask(tag, _GET, (key.encode(),)))

    def script(self, name: str, tag: str, *args: bytes | str) -> Coroutine[Any, Any, Any]:
        """Run a script of ``scripts/`` on the keys under *tag*.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        words = tuple([arg if isinstance(arg, bytes) else arg.encode() for arg in args])
        return self._call(tag, lambda: self._ask(tag, _first_words(name, tag), words))

    async def joint(self, name: str, *words: bytes) -> Any | None:
        """Run a script of ``joint_scripts/``, which reaches the keys of all partitions.

        None where several servers have the partitions: nothing was done.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if self._is_spread:
            return None
        first = _joint_words(name)
        try:
            return await self._call(EVERYWHERE, lambda: self._ask(EVERYWHERE, first, words))
        except ClusterCrossSlotError:
            self._is_spread = True
            return None

    async def aclose(self) -> None:
        if self._pipelines is not None:
            await self._pipelines.aclose()
            self._pipelines = None

    async def _call(self, tag: str, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            circuit = self._circuits[tag if self._is_spread else EVERYWHERE]
            return await circuit.call(call, probe=lambda: self._alone(lambda redis: redis.get(tag)))
        except ReadOnlyError as error:
            await self._leave_replica()
            raise StoreUnavailable(type(error).__name__) from error
        except _UNAVAILABLE as error:
            raise StoreUnavailable(type(error).__name__) from error
        except ResponseError as error:
            passing = _PASSING.search(str(error))
            if passing is None:
                raise
            if passing[1] == "READONLY":
                await self._leave_replica()
            raise StoreUnavailable(passing[1]) from error
        except (RedisError, OSError, AttributeError) as error:
            # AttributeError: what redis-py's cluster client has been seen to raise while a primary is failing over.
            raise StoreUnavailable(type(error).__name__) from error

    def _ask(self, tag: str, first: Words, args: tuple[bytes, ...]) -> Awaitable[Any]:
        return self._pipelines.ask(tag, first, args) if self._pipelines else self._open_and_ask(tag, first, args)

    async def _open_and_ask(self, tag: str, first: Words, args: tuple[bytes, ...]) -> Any:
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT_S
        async with asyncio.timeout_at(deadline):
            pipelines = await self._open()
        return await pipelines.ask(tag, first, args, deadline)

    async def _alone(self, call: Callable[[RedisClient], Awaitable[Any]]) -> Any:
        # Twice, for Python 3.11's wait_for, which redis-py uses, swallows a cancellation that comes as it ends.
        async with asyncio.timeout(CALL_TIMEOUT_S + 0.5), asyncio.timeout(CALL_TIMEOUT_S):
            return await call((await self._open()).client)

    async def _open(self) -> Pipelines:
        if self._pipelines is not None:
            return self._pipelines
        # All who wait for a connection wait for the same attempt: with Redis gone, none queues behind another. It
        # goes on when they have given up, and the client it opens is there for the next.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open_anew())
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        return await asyncio.shield(self._opening)

    async def _open_anew(self) -> Pipelines:
        self._pipelines = Pipelines(await self._open_redis())
        self._is_spread = self._is_spread or isinstance(self._pipelines.client, RedisCluster)
        return self._pipelines

    async def _leave_replica(self) -> None:
        # A connection outlives its server's being the primary; a new one is led to who is it now.
        if self._pipelines is not None:
            await reconnect(self._pipelines.client)
