"""The way to Redis: one client per event loop, a circuit breaker per partition, scripts by name."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
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
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from shared.resilience.circuit_breaker import CircuitBreaker, CircuitOpen
from shared.store.redis.client import CALL_TIMEOUT_S, RedisClient, eviction_policies, reconnect
from shared.store.redis.durability import Durability, WriteUnacknowledged, is_acknowledged
from shared.store.redis.partitions import HASH_TAGS
from shared.store.redis.pipelining import EVERYWHERE, CommandPrefix, Pipelines
from shared.store.redis.scripts import read_scripts
from shared.store.redis.subscriptions import Listener, Subscriptions
from shared.tasks.outcomes import Created, Existing, Granted, TooLate

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
_SCANNED_AT_ONCE: Final = 1000
_PATIENCE_S = 0.5
"""How long a call waits for the probe after an earlier one got no answer: enough to connect anew."""
# Temporary errors for which redis-py has no type: a script that blocks all others, a full disk, replicas that lag.
# If a script met the error, Redis 6.2 puts the code within its text.
_TEMPORARY = re.compile(r"(?:^|: -)(BUSY|MISCONF|NOREPLICAS|UNKILLABLE|OOM|READONLY) ")
_FOREIGN: Final = re.compile(r"WRONGTYPE |Bad data format in input")
"""What Redis says of a key that somebody else has written. Steps fail by it until it is removed, see mending.py."""
_OF_A_SCRIPT_OR_TYPE: Final = re.compile(r"WRONGTYPE |user_script")
_NOT_PERMITTED: Final = re.compile(r"NOPERM |ACL failure in script|has no permissions|can't run this command")
NOT_PERMITTED: Final = "Redis does not let the app's user do what it needs: allow it +@all ~* &*"


class StoreUnavailable(Exception):
    """Raised if Redis cannot be asked now. Whether the step was taken is unknown; repeating it is safe.

    Attributes:
        granted: slots that were granted to other tasks before the step failed.
    """

    granted: Sequence[Granted] = ()


class StoreNotPermitted(StoreUnavailable):
    """Raised if Redis refuses the app's user a command, a key or a channel."""


class NotAcknowledged(StoreUnavailable):
    """Raised if a step was taken, and its write did not arrive in time where ``DURABILITY`` wants it.

    Attributes:
        reply: what the script answered.
        outcome: what came of a task's creation apart from its queue.
    """

    outcome: Created | Existing | TooLate | None = None

    def __init__(self, reply: Any) -> None:
        super().__init__("NotAcknowledged")
        self.reply = reply


_SCRIPTS: Final = {
    name: (source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    for name, source in read_scripts().items()
}


_GET: Final = CommandPrefix(b"GET")
_TWO_SLOTS: Final = HASH_TAGS[:2]
"""Keys that no single node of a cluster has."""


@cache
def _script_prefix(script: str, *keys: str) -> CommandPrefix:
    source, sha = _SCRIPTS[script]
    words = (word.encode() for word in (sha, str(len(keys)), *keys))
    return CommandPrefix(
        b"EVALSHA",
        *words,
        source=source,
        is_combined=keys == _TWO_SLOTS,
        is_acknowledged=is_acknowledged(script),
    )


@cache
def _combined_prefix(name: str) -> CommandPrefix:
    return _script_prefix(f"combined/{name}", *_TWO_SLOTS)


@cache
def _steps_prefix(name: str) -> CommandPrefix:
    """Of one command for several steps of one caller."""
    combined = _combined_prefix(name)
    return CommandPrefix(*combined.words, source=combined.source, is_acknowledged=combined.is_acknowledged)


class RedisLink:
    """Calls Redis, and tells an outage from a bug.

    Args:
        open_redis: opens a client for the running event loop; called again after a failure to connect.
        durability: where the write of a step must have arrived before its caller hears of it.
    """

    def __init__(self, open_redis: Callable[[], Awaitable[RedisClient]], durability: Durability = "none") -> None:
        self._open_redis = open_redis
        self._durability: Durability = durability
        self._pipelines: Pipelines | None = None
        self._opening: asyncio.Future[Pipelines] | None = None
        self._is_clustered = False
        self.has_met_foreign_keys = False
        """Whether a step has failed as a key was not what the app had written, as far as that can be told."""
        self._subscriptions = Subscriptions(self._client, _SCRIPTS["task/publish_command"][0])
        # One for each partition on a cluster: one node alone may be gone.
        self._circuits: defaultdict[str, CircuitBreaker] = defaultdict(
            lambda: CircuitBreaker(_SILENT, patience_s=_PATIENCE_S)
        )

    @property
    def is_clustered(self) -> bool:
        """Whether several servers have the partitions; known from the first answer on."""
        return self._is_clustered

    async def ping(self) -> None:
        """
        Raises:
            StoreUnavailable: Redis does not answer.
        """
        await self._call(EVERYWHERE, lambda: self._send_single(lambda redis: cast("Any", redis).ping()))

    async def eviction_policies(self) -> frozenset[str] | None:
        """What each primary does when it is full, such as ``noeviction``; None if Redis does not say."""
        try:
            return await self._send_single(eviction_policies)
        except (
            RedisError,
            OSError,
        ):  # a managed Redis may keep it to itself; whether it answers at all, a ping tells
            return None

    async def get(self, tag: str, key: str) -> bytes | None:
        """The string at *key*, which begins with *tag*.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        return await self._call(tag, lambda: self._ask(tag, _GET, (key.encode(),)))

    async def keys(self) -> AsyncIterator[dict[str, list[bytes]]]:
        """All keys of the partitions, some at a time: by hash tag, the names without it. A key that comes or goes
        meanwhile may be missing or appear twice, others not.

        Raises:
            StoreUnavailable: Redis or one of its nodes does not answer.
        """
        unavailable: StoreUnavailable | None = None
        client = cast("Any", await self._client())
        # Node by node: the cluster client's own scan loses its way after the first page of one.
        for server in client.get_primaries() if self._is_clustered else [client]:
            cursor = -1
            while cursor:
                words = "SCAN", max(0, cursor), "MATCH", "{*", "COUNT", _SCANNED_AT_ONCE
                try:
                    cursor, keys = await server.execute_command(*words)
                except (RedisError, OSError) as error:  # what the other nodes hold is told all the same
                    unavailable = StoreUnavailable(type(error).__name__)
                    break
                found: dict[str, list[bytes]] = {tag: [] for tag in HASH_TAGS}
                for key in keys:
                    tag, brace, name = key.partition(b"}")
                    found.setdefault((tag + brace).decode(errors="replace"), []).append(name)
                yield {tag: found[tag] for tag in HASH_TAGS}
        if unavailable is not None:
            raise unavailable

    def script(self, name: str, tag: str, *args: bytes | str) -> Coroutine[Any, Any, Any]:
        """Run a script by its name, such as ``task/apply``, on the keys under the hash *tag*.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        encoded = tuple([arg if isinstance(arg, bytes) else arg.encode() for arg in args])
        return self._call(tag, lambda: self._ask(tag, _script_prefix(name, tag), encoded))

    async def combined(self, name: str, *args: bytes) -> Any | None:
        """Run a script of ``lua/combined/``, which reaches the keys of all partitions.

        None if several servers have the partitions: nothing was done.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if self._is_clustered:
            return None
        prefix = _combined_prefix(name)
        try:
            return await self._call(EVERYWHERE, lambda: self._ask(EVERYWHERE, prefix, args))
        except ClusterCrossSlotError:
            self._is_clustered = True
            return None

    async def combined_steps(self, name: str, *args: bytes) -> list[Any] | None:
        """As :meth:`combined` for several steps of one caller, which are taken in their order: with the arguments of
        each after the other's. Returns the reply of each, or its error."""
        if self._is_clustered:
            return None
        prefix = _steps_prefix(name)
        try:
            return await self._call(EVERYWHERE, lambda: self._ask(EVERYWHERE, prefix, args))
        except ClusterCrossSlotError:
            self._is_clustered = True
            return None

    def listen(self, tag: str, channel: str) -> AbstractAsyncContextManager[Listener]:
        """Listen to the *channel*, which begins with *tag*, whether Redis answers or not."""
        return self._subscriptions.listen(tag, channel)

    async def aclose(self) -> None:
        await self._subscriptions.aclose()
        if self._pipelines is not None:
            await self._pipelines.aclose()
            self._pipelines = None

    async def _call(self, tag: str, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            circuit = self._circuits[tag if self._is_clustered else EVERYWHERE]
            return await circuit.call(call, probe=lambda: self._send_single(lambda redis: redis.get(tag)))
        except WriteUnacknowledged as error:
            raise NotAcknowledged(error.reply) from error
        except ReadOnlyError as error:
            await self._leave_replica()
            raise StoreUnavailable(type(error).__name__) from error
        except NoPermissionError as error:
            raise StoreNotPermitted(f"{NOT_PERMITTED}: {error}") from error
        except _UNAVAILABLE as error:
            raise StoreUnavailable(type(error).__name__) from error
        except ResponseError as error:
            if _NOT_PERMITTED.search(str(error)):
                raise StoreNotPermitted(f"{NOT_PERMITTED}: {error}") from error
            temporary = _TEMPORARY.search(str(error))
            if temporary is None:
                text = str(error)
                self.has_met_foreign_keys = self.has_met_foreign_keys or bool(_OF_A_SCRIPT_OR_TYPE.search(text))
                if not _FOREIGN.search(text):
                    raise
                raise StoreUnavailable("a key is not what the app had written, and will be removed") from error
            if temporary[1] == "READONLY":
                await self._leave_replica()
            raise StoreUnavailable(temporary[1]) from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error

    def _ask(self, tag: str, prefix: CommandPrefix, args: tuple[bytes, ...]) -> Awaitable[Any]:
        if self._pipelines is None:
            return self._open_and_ask(tag, prefix, args)
        return self._pipelines.ask(tag, prefix, args)

    async def _open_and_ask(self, tag: str, prefix: CommandPrefix, args: tuple[bytes, ...]) -> Any:
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT_S
        async with asyncio.timeout_at(deadline):
            pipelines = await self._open()
        return await pipelines.ask(tag, prefix, args, deadline)

    async def _send_single(self, call: Callable[[RedisClient], Awaitable[Any]]) -> Any:
        # Twice, for Python 3.11's wait_for, which redis-py uses, swallows a cancellation that comes as it ends.
        async with asyncio.timeout(CALL_TIMEOUT_S + 0.5), asyncio.timeout(CALL_TIMEOUT_S):
            return await call(await self._client())

    async def _client(self) -> RedisClient:
        return (await self._open()).client

    async def _open(self) -> Pipelines:
        if self._pipelines is not None:
            return self._pipelines
        # All callers wait for the same attempt to connect, so with Redis gone none queues behind another. It goes on
        # when they have given up, and the next caller finds the client that it opens.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open_anew())
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        return await asyncio.shield(self._opening)

    async def _open_anew(self) -> Pipelines:
        self._pipelines = Pipelines(await self._open_redis(), self._durability)
        self._is_clustered = self._is_clustered or isinstance(self._pipelines.client, RedisCluster)
        return self._pipelines

    async def _leave_replica(self) -> None:
        # A connection stays open when its server is no longer the primary. A new one leads to the present primary.
        if self._pipelines is not None:
            await reconnect(self._pipelines.client)
            self._subscriptions.reconnect()
