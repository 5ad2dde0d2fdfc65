"""Commands of the same moment share a round trip: they go to their server as one pipeline."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from shared.task_store.connection import CALL_TIMEOUT_S, REPLY_TIMEOUT_S, ClusterClient, RedisClient

EVERYWHERE: Final = ""
"""The tag of a command on keys of all partitions."""
FLIGHTS: Final = 5
"""How many pipelines are on their way to one server at a time. What is asked meanwhile goes with the next: fewer
pipelines carry more each, and what is done once for each costs less."""
FLIGHT_COMMANDS: Final = 26
"""So few that the server works on some while the answers of others are worked on here: sent all together, they come
back all together, and each side waits for the other."""
FLIGHT_BYTES: Final = 256 * 1024
"""Beyond these no further command joins a pipeline: the first answers are not to wait for the last request."""
_NOT_LIKE_THIS = (AskError, TryAgainError, ClusterDownError)
"""Answers after which redis-py's client knows what to do. MOVED is an ASK to it."""


class Words:
    """A command's first words, as they go over the wire, and the script whose hash they name, if they name one.

    Args:
        is_common: commands that begin so can be one, the arguments of each after the other's; the reply is a list
            with one for each, or its error.
    """

    __slots__ = ("is_common", "packed", "source", "words")

    def __init__(self, *words: bytes, source: str | None = None, is_common: bool = False) -> None:
        self.words = words
        self.packed = _packed(words)
        self.source = source
        self.is_common = is_common


class Command:
    """One command and, in time, its reply.

    Args:
        deadline: when whoever asked has waited for long enough, by the loop's clock.
    """

    __slots__ = ("args", "deadline", "first", "packed", "reply")

    def __init__(self, first: Words, args: tuple[bytes, ...], deadline: float, reply: asyncio.Future[Any]) -> None:
        self.first = first
        self.args = args
        self.deadline = deadline
        self.packed = _packed(args)
        self.reply = reply

    def answer(self, reply: Any) -> None:
        if not self.reply.done():
            if isinstance(reply, Exception):
                self.reply.set_exception(reply)
            else:
                self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Pipelines:
    """Sends commands over a client's connections.

    A pipeline is the quick way for those that need nothing but an answer. A command that does not get one by it goes
    once more by itself, as the client sends any: with its repetitions, redirections and questions for the topology.
    So one command's trouble is not another's.
    """

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._cluster = client if isinstance(client, ClusterClient) else None
        self._lanes: defaultdict[Any, _Lane] = defaultdict(lambda: _Lane(self))
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, tag: str, first: Words, args: tuple[bytes, ...], deadline: float | None = None) -> Awaitable[Any]:
        """The reply to a command whose keys begin with *tag*, or a TimeoutError by its *deadline*.

        A cluster has nothing that is ``EVERYWHERE``, and answers so.
        """
        deadline = self._loop.time() + CALL_TIMEOUT_S if deadline is None else deadline
        command = Command(first, args, deadline, self._loop.create_future())
        self._send(tag, command)
        return command.reply

    def _send(self, tag: str, command: Command) -> None:
        node = None
        if self._cluster is not None:
            if tag == EVERYWHERE:
                command.fail(ClusterCrossSlotError())
                return
            node = self._cluster.node_of(tag)
            if node is None:
                self.send_alone(command)
                return
        lane = self._lanes[node]
        lane.node = node
        lane.add(command)

    def send_alone(self, command: Command) -> None:
        if not command.reply.done():
            self.start(self.alone(command), [command])

    def start(self, work: Coroutine[Any, Any, None], commands: Iterable[Command] = ()) -> None:
        """
        Args:
            commands: which have no answer if the work is cancelled, even before it began.
        """

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                for command in commands:
                    command.fail(_closed())

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    @asynccontextmanager
    async def connection(self, node: Any) -> AsyncGenerator[Any]:
        """A connection of the client's to its server, or to one of its nodes."""
        if node is None:
            pool = cast("Redis", self.client).connection_pool
            connection = await pool.get_connection()
            try:
                yield connection
            finally:
                await pool.release(connection)
        else:
            connection = node.acquire_connection()
            try:
                await node.disconnect_if_needed(connection)
                yield connection
            finally:
                node.release(connection)

    async def aclose(self) -> None:
        while tasks := [*self._tasks]:  # one that ends may have begun another
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self._lanes.values():
            lane.close()
        await self.client.aclose()

    async def alone(self, command: Command) -> None:
        name, *rest = (*command.first.words, *command.args)
        send = cast("Any", self.client).execute_command
        try:
            async with asyncio.timeout_at(command.deadline):
                try:
                    reply = await send(name.decode(), *rest)
                except NoScriptError:
                    reply = await send("EVAL", command.first.source, *rest[1:])
        except Exception as error:
            command.fail(error)
        else:
            command.answer(reply[0] if command.first.is_common else reply)


class _Lane:
    """The commands to one server."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.node: Any = None
        self._pipelines = pipelines
        self._waiting: deque[Command] = deque()
        self._flights = 0
        self._answering = asyncio.Lock()

    def add(self, command: Command) -> None:
        self._waiting.append(command)
        if len(self._waiting) == 1:
            self._launch()

    def _launch(self) -> None:
        if self._flights < FLIGHTS:
            # When the loop comes to it, all that is asked in this tick has joined.
            self._flights += 1
            self._pipelines.start(self._fly())

    async def _fly(self) -> None:
        try:
            while commands := self._next():
                if self._waiting:
                    self._launch()
                await self._exchange(commands)
        finally:
            self._flights -= 1

    def _next(self) -> list[Command]:
        commands: list[Command] = []
        size_bytes = 0
        while self._waiting and len(commands) < FLIGHT_COMMANDS and size_bytes < FLIGHT_BYTES:
            command = self._waiting.popleft()
            if not command.reply.done():
                commands.append(command)
                size_bytes += len(command.packed)
        return commands

    async def _exchange(self, commands: list[Command]) -> None:
        parts = _parts(commands)
        replies: list[Any] = []
        try:
            with suppress(Exception):  # who has no reply by then, asks by himself
                await self._ask(parts, replies, min([command.deadline for command in commands]))
            # Those that do not fit into one pipeline are answered one after the other, each when what the former ask
            # next is on its way. Answered together they would ask together, again and again: the server idle while
            # this side works, and the reverse.
            takes_turns = len(commands) > FLIGHT_COMMANDS // 2
            if takes_turns:
                await self._answering.acquire()
        except asyncio.CancelledError:
            self._answer(parts, [*replies, *[_closed()] * (len(parts) - len(replies))])
            raise
        try:
            self._answer(parts, replies)
            if takes_turns:
                await asyncio.sleep(0)
        finally:
            if takes_turns:
                self._answering.release()

    async def _ask(self, parts: list[list[Command]], replies: list[Any], deadline: float) -> None:
        # Nobody waits for longer than he may for the commands before his, since these end by the deadline of the
        # oldest. Twice, for Python 3.11's wait_for, which redis-py uses, swallows a cancellation that comes as it
        # ends.
        async with (
            asyncio.timeout_at(deadline + 0.5),
            asyncio.timeout_at(deadline),
            self._pipelines.connection(self.node) as connection,
        ):
            await connection.send_packed_command([_wired(part) for part in parts])
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                for _ in parts:
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as error:
                        replies.append(error)

    def _answer(self, parts: list[list[Command]], replies: list[Any]) -> None:
        missing: list[Any] = [TryAgainError()] * (len(parts) - len(replies))
        unknown: defaultdict[str | None, list[Command]] = defaultdict(list)
        for part, reply in zip(parts, [*replies, *missing], strict=True):
            if isinstance(reply, NoScriptError):
                unknown[part[0].first.source] += [command for command in part if not command.reply.done()]
            elif isinstance(reply, _NOT_LIKE_THIS):
                for command in part:
                    self._pipelines.send_alone(command)
            elif isinstance(reply, Exception):
                for command in part:
                    command.fail(reply)
            else:
                for command, its_reply in zip(part, reply if part[0].first.is_common else (reply,), strict=True):
                    command.answer(its_reply)
        for asking in filter(None, unknown.values()):
            self._pipelines.start(self._bring_script(asking), asking)

    async def _bring_script(self, commands: list[Command]) -> None:
        """Of those whose script the server does not have one goes alone and brings it; then the others, together."""
        first, *others = commands
        await self._pipelines.alone(first)
        for command in others:
            self.add(command)

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().fail(_closed())


def _parts(commands: list[Command]) -> list[list[Command]]:
    """The commands, those together that can be one."""
    parts: list[list[Command]] = []
    common: dict[Words, list[Command]] = {}
    for command in commands:
        if command.first in common:
            common[command.first].append(command)
            continue
        parts.append([command])
        if command.first.is_common:
            common[command.first] = parts[-1]
    return parts


def _wired(part: list[Command]) -> bytes:
    first = part[0].first
    count = len(first.words) + sum([len(command.args) for command in part])
    return b"*%d\r\n%b%b" % (count, first.packed, b"".join([command.packed for command in part]))


def _packed(words: tuple[bytes, ...]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _closed() -> Exception:
    return ConnectionError("closed")
