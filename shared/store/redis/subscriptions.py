"""Hears what the scripts publish, over one connection to each server for all that listen in this process.

redis-py's own subscriptions connect again in silence. Who listens here learns that messages may have been missed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from redis.exceptions import ConnectionError as RedisConnectionError

from shared.store.redis.client import CALL_TIMEOUT_S, REPLY_TIMEOUT_S, ClusterClient, RedisClient, own_connection

log = logging.getLogger("task_backbone")

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_SILENCE_S: Final = 30.0
"""After that long without a message, the server is asked whether it is still there."""
_COMMANDS: Final = {b"SPUBLISH": ("SSUBSCRIBE", "SUNSUBSCRIBE"), b"PUBLISH": ("SUBSCRIBE", "UNSUBSCRIBE")}


class Listener:
    """Hears one channel."""

    __slots__ = ("_has_news", "_message")

    def __init__(self) -> None:
        self._has_news = asyncio.Event()
        self._message: bytes | None = None

    async def news(self) -> bytes | None:
        """Wait for a message, and return the latest. None if messages may have been missed: so at first, when the
        channel begins to be heard, and after each interruption."""
        await self._has_news.wait()
        self._has_news.clear()
        message, self._message = self._message, None
        return message

    def hear(self, message: bytes | None) -> None:
        self._message = message or self._message
        self._has_news.set()


class _Channel:
    """A channel that somebody listens to.

    Attributes:
        line: the connection that it belongs to; None while it has none.
        is_heard: whether the server has confirmed that.
    """

    __slots__ = ("is_heard", "line", "listeners", "name", "tag")

    def __init__(self, tag: str, name: bytes) -> None:
        self.tag = tag
        self.name = name
        self.listeners: set[Listener] = set()
        self.line: _Line | None = None
        self.is_heard = False

    def hear(self, message: bytes | None) -> None:
        for listener in self.listeners:
            listener.hear(message)


class Subscriptions:
    """What one event loop listens to.

    Args:
        open_client: gives the client of that loop.
        publish_command: the script that tells how changes are published on a server.
    """

    def __init__(self, open_client: Callable[[], Awaitable[RedisClient]], publish_command: str) -> None:
        self._open_client = open_client
        self._publish_command = publish_command
        self._channels: dict[bytes, _Channel] = {}
        self._unplaced: dict[str, list[_Channel]] = {}
        """By hash tag: the channels whose server is being found out."""
        self._doubtful: set[str] = set()
        """Tags whose server was lost: another one may have them now."""
        self._lines: dict[Any, _Line] = {}
        self._failures: Counter[Any] = Counter()
        """By node or hash tag: how often in a row it could not be listened to."""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self, tag: str, name: str) -> AsyncGenerator[Listener]:
        """Listen to the channel *name*, which begins with the hash *tag*. See :meth:`Listener.news` for when it is
        heard."""
        channel, listener = self._channels.get(name.encode()), Listener()
        if channel is None:
            channel = self._channels[name.encode()] = _Channel(tag, name.encode())
            self._place(channel)
        channel.listeners.add(listener)
        if channel.is_heard or self._failures[tag] > 1 or (channel.line and self._failures[channel.line.node] > 1):
            listener.hear(None)
        try:
            yield listener
        finally:
            channel.listeners.discard(listener)
            if not channel.listeners:
                del self._channels[channel.name]
                if channel.line is not None:
                    channel.line.remove(channel)

    def reconnect(self) -> None:
        """Leave all connections: a server may have changed its part."""
        for line in self._lines.values():
            line.end()

    async def aclose(self) -> None:
        while tasks := [*self._tasks]:  # one that ends may have begun another
            self.reconnect()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._lines.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _place(self, channel: _Channel) -> None:
        """Give the channel to the connection of the server that has it, as soon as that is known."""
        if channel.tag not in self._unplaced:
            self._unplaced[channel.tag] = []
            self._start(self._place_all(channel.tag))
        self._unplaced[channel.tag].append(channel)

    async def _place_all(self, tag: str) -> None:
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    client, node = await self._node_of(tag)
                break
            except Exception as error:  # whatever it is, the channels must not be forgotten
                await self._pause(tag, self._unplaced[tag], error)
        del self._failures[tag]
        channels = [channel for channel in self._unplaced.pop(tag) if channel.listeners]
        if channels and node not in self._lines:
            self._lines[node] = _Line(client, node, self._publish_command)
            self._start(self._serve(self._lines[node]))
        for channel in channels:
            self._lines[node].add(channel)
            if self._failures[node] > 1:
                channel.hear(None)

    async def _node_of(self, tag: str) -> tuple[RedisClient, Any]:
        client = await self._open_client()
        if not isinstance(client, ClusterClient):
            return client, None
        node = None if tag in self._doubtful else client.node_of(tag)
        if node is None:
            await client.execute_command("GET", tag)  # the client learns from the answer which node has it
            node = client.node_of(tag)
        if node is None:
            raise RedisConnectionError("the topology is not known")
        self._doubtful.discard(tag)
        return client, node

    async def _serve(self, line: _Line) -> None:
        failure: Exception | None = None
        try:
            await line.serve()
        except Exception as error:  # whatever it is, the channels get another connection
            failure = error
        if failure is None or line.has_lasted:
            del self._failures[line.node]
        if failure is not None:
            # The channels that come meanwhile join, so there is one attempt at a time.
            await self._pause(line.node, line.lose(), failure)
        del self._lines[line.node]
        for channel in line.give_up():
            self._doubtful.add(channel.tag)
            self._place(channel)

    async def _pause(self, key: Any, channels: Collection[_Channel], error: Exception) -> None:
        """Wait before the next attempt, the longer the more have failed."""
        self._failures[key] += 1
        if self._failures[key] == 2:
            log.warning("changes of tasks cannot be heard, and are looked for until they can: %r", error)
        if self._failures[key] > 1:
            # Those that listen look for themselves meanwhile: perhaps the app may not subscribe, and may read.
            for channel in channels:
                channel.hear(None)
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures[key] - 1, 10))
        await asyncio.sleep(pause_s * (0.5 + random.random() / 2))


class _Line:
    """One connection, and the channels that it hears."""

    def __init__(self, client: RedisClient, node: Any, publish_command: str) -> None:
        self.node = node
        self._heard_s: float | None = None
        self._client = client
        self._publish_command = publish_command
        self._channels: dict[bytes, _Channel] = {}
        self._joining: dict[bytes, _Channel] = {}
        self._leaving: set[bytes] = set()
        self._has_work = asyncio.Event()
        self._left: Counter[bytes] = Counter()
        """Channels that the server is to leave, and has not confirmed."""
        self._unanswered = 0
        self._patience: asyncio.Timeout | None = None
        self._is_over = False

    def add(self, channel: _Channel) -> None:
        channel.line = self
        self._channels[channel.name] = self._joining[channel.name] = channel
        self._has_work.set()

    def remove(self, channel: _Channel) -> None:
        del self._channels[channel.name]
        if self._joining.pop(channel.name, None) is None:
            self._leaving.add(channel.name)
            self._has_work.set()

    @property
    def has_lasted(self) -> bool:
        """Whether it was heard for so long that the next failure is the first of others."""
        return self._heard_s is not None and asyncio.get_running_loop().time() - self._heard_s > _LONGEST_PAUSE_S

    def lose(self) -> Collection[_Channel]:
        """Hear the channels no more, and return them."""
        for channel in self._channels.values():
            channel.is_heard = False
        return self._channels.values()

    def give_up(self) -> list[_Channel]:
        """Let go of all channels, and return them."""
        channels, self._channels = [*self.lose()], {}
        for channel in channels:
            channel.line = None
        return channels

    def end(self) -> None:
        # Beside any cancellation: Python 3.11's wait_for, which redis-py uses, swallows one that comes as it ends.
        self._is_over = True
        self._has_work.set()
        self._hurry(0)

    async def serve(self) -> None:
        """Hear the channels until the connection is lost, or for as long as there are any.

        Raises:
            RedisError, OSError, TimeoutError: the connection is lost.
        """
        connection = own_connection(self._client, self.node)
        try:
            await connection.connect()
            await connection.send_command("EVAL", self._publish_command, 0, check_health=False)
            commands = _COMMANDS[await connection.read_response()]
            writer = asyncio.ensure_future(self._write(connection, *commands))
            try:
                await self._read(connection)
            finally:
                self.end()
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
        finally:
            await connection.disconnect(nowait=True)

    async def _write(self, connection: Any, subscribe: str, unsubscribe: str) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            if self._is_over:
                return
            joining, self._joining = self._joining, {}
            leaving, self._leaving = self._leaving, set()
            # The channels of one command have to lie in one slot, so those of one tag.
            by_tag: defaultdict[str, list[bytes]] = defaultdict(list)
            for channel in joining.values():
                by_tag[channel.tag].append(channel.name)
            commands = [(unsubscribe, name) for name in leaving]
            self._left.update(leaving)
            packed = connection.pack_commands([*commands, *((subscribe, *names) for names in by_tag.values())])
            self._unanswered += len(joining) + len(leaving)
            self._hurry(REPLY_TIMEOUT_S)
            await connection.send_packed_command(packed, check_health=False)

    async def _read(self, connection: Any) -> None:
        while not self._is_over:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S if self._unanswered else _SILENCE_S) as self._patience:
                    try:
                        reply = await connection.read_response(
                            timeout=math.inf, disconnect_on_error=False, push_request=True
                        )
                    finally:
                        self._patience = None
            except TimeoutError:
                if self._unanswered or self._is_over:
                    raise
                if not self._channels:
                    return
                self._unanswered += 1
                await connection.send_command("PING", check_health=False)
            else:
                self._take(reply)

    def _take(self, reply: Any) -> None:
        if not isinstance(reply, list):
            if reply == b"PONG":
                self._unanswered -= 1
            return
        kind, name, *rest = cast("list[Any]", reply)
        channel = self._channels.get(name)
        match kind:
            case b"smessage" | b"message":
                if channel is not None:
                    channel.hear(rest[0])
            case b"ssubscribe" | b"subscribe":
                self._unanswered -= 1
                self._heard_s = self._heard_s or asyncio.get_running_loop().time()
                if channel is not None:
                    channel.is_heard = True
                    channel.hear(None)
            case b"sunsubscribe" | b"unsubscribe":
                if not self._left[name]:
                    raise RedisConnectionError("the server has lost the slot")
                self._left[name] -= 1
                if not self._left[name]:
                    del self._left[name]
                self._unanswered -= 1
            case b"pong":  # RESP2
                self._unanswered -= 1
            case _:  # maintenance notices
                pass

    def _hurry(self, within_s: float) -> None:
        """Expect the next answer within that time."""
        at = asyncio.get_running_loop().time() + within_s
        if self._patience is not None:
            when = self._patience.when()
            if when is None or when > at:
                self._patience.reschedule(at)
