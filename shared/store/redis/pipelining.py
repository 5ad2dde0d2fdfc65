"""Sends the commands of one moment to their server as one pipeline, so that they share a round trip.

redis-py has pipelines, but a caller fills one, sends it and waits for all of it; here hundreds of independent callers
share them. With 128 callers one process takes 1.7 times the steps per second that redis-benchmark takes without
pipelining; a command per round trip, as redis-py sends them, takes a third of ours
(``docs/decisions/0002-own-pipelining.md``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, Final, cast

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoScriptError,
    RedisError,
    TryAgainError,
)

from shared import telemetry
from shared.store.redis.client import CALL_TIMEOUT_S, ClusterClient, RedisClient
from shared.store.redis.durability import (
    BATCHES_WAITING,
    Durability,
    Shortfall,
    WriteUnacknowledged,
    arrived,
    question,
)
from shared.store.redis.loan import Loan

log = logging.getLogger("task_backbone")

EVERYWHERE: Final = ""
"""The tag of a command on keys of all partitions."""
BATCHES_IN_FLIGHT: Final = 5
"""How many batches are on their way to one server at a time. Commands that come meanwhile go with the next: fewer
batches carry more each, and what is done once a batch costs less."""
BATCH_COMMANDS: Final = 26
"""So few that the server works on some while we work on the answers of others. Sent all together, they come back all
together, and each side waits for the other."""
BATCH_BYTES: Final = 256 * 1024
"""No further command joins a batch of this size, so that the first answers do not wait for the last request."""
_SEND_SINGLE_AFTER: Final = (AskError, TryAgainError, ClusterDownError)
"""Answers that redis-py's client knows how to handle. MOVED is an ASK to it."""


class CommandPrefix:
    """A command's first words as they go over the wire, and the script whose hash they name, if they name one.

    Args:
        is_combined: commands with this prefix can be one command, with the arguments of each after the other's; the
            reply is a list with one reply for each, or its error.
        is_acknowledged: a client is told that what these commands do is stored.
    """

    __slots__ = ("is_acknowledged", "is_combined", "packed", "source", "words")

    def __init__(
        self,
        *words: bytes,
        source: str | None = None,
        is_combined: bool = False,
        is_acknowledged: bool = False,
    ) -> None:
        self.words = words
        self.packed = _packed(words)
        self.source = source
        self.is_combined = is_combined
        self.is_acknowledged = is_acknowledged


class Command:
    """One command and, in time, its reply.

    Args:
        deadline: how long its caller waits, by the loop's clock.
    """

    __slots__ = ("args", "deadline", "is_repeated", "packed", "prefix", "reply")

    def __init__(
        self, prefix: CommandPrefix, args: tuple[bytes, ...], deadline: float, reply: asyncio.Future[Any]
    ) -> None:
        self.prefix = prefix
        self.args = args
        self.deadline = deadline
        self.packed = _packed(args)
        self.reply = reply
        self.is_repeated = False
        """Whether it has been sent on its own."""

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

    A pipeline is the fast way for commands that need nothing but an answer. A command that gets none goes once more,
    on its own, as the client sends any: with its repetitions, redirections and questions for the topology. So one
    command's trouble does not become another's."""

    def __init__(self, client: RedisClient, durability: Durability = "none") -> None:
        self.client = client
        self.durability: Durability = durability
        self._asks = durability != "none"
        self.shortfall = Shortfall(durability)
        self._loop = asyncio.get_running_loop()
        self._cluster = client if isinstance(client, ClusterClient) else None
        self._servers: defaultdict[Any, _ServerQueue] = defaultdict(lambda: _ServerQueue(self))
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(
        self, tag: str, prefix: CommandPrefix, args: tuple[bytes, ...], deadline: float | None = None
    ) -> Awaitable[Any]:
        """The reply to a command whose keys begin with *tag*, or a TimeoutError at its *deadline*.

        On a cluster a command for ``EVERYWHERE`` fails with ``ClusterCrossSlotError``.
        """
        deadline = self._loop.time() + CALL_TIMEOUT_S if deadline is None else deadline
        command = Command(prefix, args, deadline, self._loop.create_future())
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
                self.start_single(command)
                return
        if self._asks and command.prefix.is_acknowledged:
            server = self._servers[node, "waits"]
            server.waits = True
        else:
            server = self._servers[node]
        server.node = node
        server.add(command)

    def waits(self, command: Command) -> bool:
        """Whether the command's caller hears of it only when its write has arrived."""
        return self._asks and command.prefix.is_acknowledged

    def start_single(self, command: Command) -> None:
        if command.is_repeated and self.waits(command):
            command.fail(ConnectionError("interrupted again"))
        elif not command.reply.done():
            self.start(self.send_single(command), [command])

    def start(self, work: Coroutine[Any, Any, None], commands: Iterable[Command] = ()) -> None:
        """Do *work* in the background.

        Args:
            commands: those that get no answer if the work fails or is cancelled, even before it began.
        """

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                error: BaseException | None = _closed()
            else:
                error = task.exception()
            if isinstance(error, Exception):
                for command in commands:
                    command.fail(error)

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def aclose(self) -> None:
        while tasks := [*self._tasks]:  # one that ends may have begun another
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers.values():
            server.close()
        await self.client.aclose()

    async def send_single(self, command: Command) -> None:
        """Send a command on its own, through the client, and answer it."""
        name, *rest = (*command.prefix.words, *command.args)
        send = cast("Any", self.client).execute_command
        try:
            async with asyncio.timeout_at(command.deadline):
                try:
                    reply = await send(name.decode(), *rest)
                except NoScriptError:
                    reply = await send("EVAL", command.prefix.source, *rest[1:])
        except Exception as error:  # whatever it is, it is the caller's answer
            command.fail(error)
        else:
            if self.waits(command):
                # Which connection it took is not known, nor whether that server is still the primary. So it goes once
                # more, in a batch: the script knows its repetition, or takes a step that was lost.
                command.is_repeated = True
                self._send(command.prefix.words[3].decode(), command)
                return
            command.answer(reply[0] if command.prefix.is_combined else reply)


class _ServerQueue:
    """The commands for one server."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.node: Any = None
        self.waits = False
        """Whether its batches end with the question whether their writes have arrived."""
        self._pipelines = pipelines
        self._waiting: deque[Command] = deque()
        self._batches_in_flight = 0
        self._batches_to_come = 0
        """How many of those in flight have taken no commands yet, as they have no connection."""
        self._answering = asyncio.Lock()
        self._loans: list[Loan] = []
        """Those that no batch uses now, kept for the next one while others are in flight."""

    def add(self, command: Command) -> None:
        self._waiting.append(command)
        # The first to wait may find an open connection, which those to come did not.
        if len(self._waiting) == 1 or len(self._waiting) > self._batches_to_come * BATCH_COMMANDS:
            self._start_batch()

    def _start_batch(self) -> None:
        if self._batches_in_flight < (BATCHES_WAITING if self.waits else BATCHES_IN_FLIGHT):
            # When the loop runs it, all commands of this tick have joined.
            self._batches_in_flight += 1
            self._batches_to_come += 1
            self._pipelines.start(self._send_batches())

    async def _send_batches(self) -> None:
        loan = self._loans.pop() if self._loans else Loan(self._pipelines.client)
        try:
            while self._waiting:
                # A connection first, then commands: while one is opened, they go over those that are open.
                await loan.take(self.node, self._waiting[0].deadline)
                commands = self._next_batch()
                self._batches_to_come -= 1
                try:
                    if self._waiting:
                        self._start_batch()
                    if commands:
                        await self._exchange(commands, loan)
                except Exception as error:  # a bug; the next batch goes on
                    log.exception("a batch of commands could not be answered")
                    for command in commands:
                        command.fail(error)
                finally:
                    self._batches_to_come += 1
        finally:
            self._batches_to_come -= 1
            self._batches_in_flight -= 1
            self._loans.append(loan)
            while self._loans and not self._batches_in_flight:
                await self._loans.pop().give_back()

    def _next_batch(self) -> list[Command]:
        commands: list[Command] = []
        size_bytes = 0
        while self._waiting and len(commands) < BATCH_COMMANDS and size_bytes < BATCH_BYTES:
            command = self._waiting.popleft()
            if not command.reply.done():
                commands.append(command)
                size_bytes += len(command.packed)
        return commands

    async def _exchange(self, commands: list[Command], loan: Loan) -> None:
        parts = _parts(commands)
        replies: list[Any] = []
        arrivals: list[Any] = []
        try:
            try:
                await self._ask(parts, replies, arrivals, loan)
            except (RedisError, OSError, TimeoutError) as error:
                # Each command without a reply goes once more, on its own.
                log.info("a batch of %d commands was interrupted: %r", len(commands), error)
                telemetry.batch_interrupted(type(error).__name__)
            except Exception as error:
                # A bug of ours or of the client's, and no outage: the callers that have no reply hear of it.
                log.exception("a batch of commands failed")
                self._answer(parts, [*replies, *[error] * (len(parts) - len(replies))], arrivals)
                return
            # Batches that are full are answered one after the other, each when what the one before asks next is on
            # its way. Answered together they would ask together, again and again: the server idle while this side
            # works, and the reverse.
            takes_turns = len(commands) > BATCH_COMMANDS // 2
            if takes_turns:
                await self._answering.acquire()
        except asyncio.CancelledError:
            self._answer(parts, [*replies, *[_closed()] * (len(parts) - len(replies))], arrivals)
            raise
        try:
            self._answer(parts, replies, arrivals)
            if takes_turns:
                await asyncio.sleep(0)
        finally:
            if takes_turns:
                self._answering.release()

    async def _ask(self, parts: list[list[Command]], replies: list[Any], arrivals: list[Any], loan: Loan) -> None:
        packed = [_wire_form(part) for part in parts]
        asked = question(self._pipelines.durability, parts[0][0].prefix.words[3]) if self.waits else None
        packed += [b"*%d\r\n%b" % (len(words), _packed(words)) for words in asked or ()]
        # By the deadline of the oldest command, so no caller waits past its own for the commands before.
        deadline = min([command.deadline for part in parts for command in part])
        await loan.ask(packed, (*[replies] * len(parts), *[arrivals] * len(asked or ())), deadline)

    def _answer(self, parts: list[list[Command]], replies: list[Any], arrivals: list[Any]) -> None:
        has_arrived = not self.waits or arrived(arrivals)
        missing: list[Any] = [TryAgainError()] * (len(parts) - len(replies))
        unknown: defaultdict[str | None, list[Command]] = defaultdict(list)
        for part, reply in zip(parts, [*replies, *missing], strict=True):
            if isinstance(reply, NoScriptError):
                unknown[part[0].prefix.source] += [command for command in part if not command.reply.done()]
            elif isinstance(reply, _SEND_SINGLE_AFTER):
                for command in part:
                    self._pipelines.start_single(command)
            elif isinstance(reply, Exception):
                for command in part:
                    command.fail(reply)
            else:
                own_replies = reply if part[0].prefix.is_combined else (reply,)
                if not has_arrived:
                    own_replies = [WriteUnacknowledged.of(own_reply) for own_reply in own_replies]
                    self._pipelines.shortfall.note(len(own_replies), arrivals[1] if len(arrivals) == 2 else None)
                for command, own_reply in zip(part, own_replies, strict=True):
                    command.answer(own_reply)
        for commands in filter(None, unknown.values()):
            self._pipelines.start(self._bring_script(commands), commands)

    async def _bring_script(self, commands: list[Command]) -> None:
        """Bring a script that the server does not have with one of the commands that need it; then send the others
        together."""
        first, *others = commands
        await self._pipelines.send_single(first)
        for command in others:
            self.add(command)

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().fail(_closed())


def _parts(commands: list[Command]) -> list[list[Command]]:
    """The commands, with those together that can be one."""
    parts: list[list[Command]] = []
    combined: dict[CommandPrefix, list[Command]] = {}
    for command in commands:
        if command.prefix in combined:
            combined[command.prefix].append(command)
            continue
        parts.append([command])
        if command.prefix.is_combined:
            combined[command.prefix] = parts[-1]
    return parts


def _wire_form(part: list[Command]) -> bytes:
    prefix = part[0].prefix
    count = len(prefix.words) + sum([len(command.args) for command in part])
    return b"*%d\r\n%b%b" % (count, prefix.packed, b"".join([command.packed for command in part]))


def _packed(words: tuple[bytes, ...]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _closed() -> Exception:
    return ConnectionError("closed")
