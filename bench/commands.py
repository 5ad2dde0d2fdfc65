"""The store's own commands to Redis: recorded on the wire once, then sent again for any task by any program.

They let redis-benchmark run the app's scripts with the app's arguments, and load a million tasks at the speed of the
server.
"""

from __future__ import annotations

import ast
import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from shared.settings import Settings
from shared.store import RedisAddress, RedisLink, StorePolicy, connect
from shared.store.create_steps import CreateSteps
from shared.store.queries import Queries
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.client import RedisClient
from shared.store.redis.durability import Durability
from shared.store.redis.partitions import TAGS, partition, tag_of
from shared.store.task_steps import TaskSteps
from shared.store.upkeep_steps import UpkeepSteps
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import Content, NewTask, State

PATH: Final = "/v1/bench/model"
BODY: Final = b"x" * 500
LEASE_S: Final = 600.0
WINDOW_S: Final = 30.0
RANDOM: Final = "__rand_int__"
"""redis-benchmark replaces this with a random number of twelve digits."""
_SAMPLE: Final = b"0123456789abcdef0123456789abcde"
ID_CHARS: Final = len(_SAMPLE)
"""The head of a string of this length has no zero byte in MessagePack; a UUID has 36 characters."""
_BATCH_BYTES: Final = 256 * 1024
PRIORITY: Final = 5

_packb: Final[Callable[..., bytes]] = cast("Any", msgpack).packb
_unpackb: Final[Callable[..., Any]] = cast("Any", msgpack).unpackb


@dataclass(frozen=True, slots=True)
class Opened:
    """The steps and queries of one Redis, like those inside of the app's store."""

    link: RedisLink
    creations: CreateSteps
    store: TaskSteps
    queues: QueueSteps
    upkeep: UpkeepSteps
    queries: Queries

    async def aclose(self) -> None:
        await self.link.aclose()


Step = Callable[[Opened, str], Awaitable[object]]


async def create(redis: Opened, task_id: str) -> object:
    content = Content("application/octet-stream", len(BODY))
    return await redis.creations.create(NewTask(task_id, PATH, LEASE_S, body=content, inline_body=BODY))


async def claim(redis: Opened, task_id: str) -> object:
    return await redis.store.claim(task_id, 1)


async def running(redis: Opened, task_id: str) -> object:
    return await redis.store.update(task_id, state=State.RUNNING, status="running", attempt=1)


async def heartbeat(redis: Opened, task_id: str) -> object:
    return await redis.store.heartbeat(task_id, attempt=1)


async def complete(redis: Opened, task_id: str) -> object:
    return await redis.store.update(task_id, state=State.COMPLETED, status="completed", attempt=1)


async def enqueue(redis: Opened, task_id: str) -> object:
    return await redis.queues.enqueue_new(QueueEntry(PATH, SlotGrant(task_id, 1), "", 0, PRIORITY))


async def release(redis: Opened, task_id: str) -> object:
    return await redis.queues.release(PATH, SlotGrant(task_id, 1))


def default_policy() -> StorePolicy:
    """The app's policy with the default settings."""
    return StorePolicy.of(
        Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
                "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                "BACKENDS": '{"/v1": "https://models.example.org"}',
            }
        )
    )


def open_redis(url: str, policy: StorePolicy | None = None, durability: Durability = "none") -> Opened:
    def no_identity() -> Any:
        raise AssertionError("the benchmarks' Redis is entered without Entra ID")

    async def open_client() -> RedisClient:
        return await connect(RedisAddress.parse(url), no_identity, durability)

    link, policy = RedisLink(open_client, durability), policy or default_policy()
    return Opened(
        link,
        CreateSteps(link, policy),
        TaskSteps(link, policy),
        QueueSteps(link, policy),
        UpkeepSteps(link, policy),
        Queries(link),
    )


@dataclass(frozen=True, slots=True)
class Command:
    """One step's command, for any task."""

    words: tuple[bytes, ...]

    def bytes_for(self, task_ids: Iterable[str], *, one_partition: bool = False) -> Iterator[bytes]:
        """The command in the Redis protocol, for each of the tasks.

        With *one_partition*, all go to the partition that redis-benchmark uses: it knows only one.
        """
        # All commands of the queue go to the partition of its path, which identifies them.
        tag = _tag(_SAMPLE.decode())
        assert tag != _tag(PATH)
        # By partition: the parts of the command around the id.
        between: list[list[bytes]] = []
        for other in (tag if one_partition else b"{" + each.encode() + b"}" for each in TAGS):
            words = [word.replace(tag, other) for word in self.words]
            sent = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
            between.append(sent.split(_SAMPLE))
        for task_id in task_ids:
            if len(task_id) != ID_CHARS:
                raise ValueError("the lengths in the command are those of the id it was taken with")
            yield task_id.encode().join(between[partition(task_id)])

    def for_redis_benchmark(self, id_prefix: str, operation_prefix: str) -> list[bytes]:
        """The command for a task with a random id, as a random operation.

        Two runs of redis-benchmark may draw the same numbers. Without a prefix of its own, operations of the second
        run would count as repetitions of those of the first.

        A program's argument cannot contain a zero byte, so numbers that have one are replaced: 0 by -1 (for the
        clock, both mean that of the server), others by a number without.
        """
        task_id = id_prefix + RANDOM
        if len(task_id) != ID_CHARS:
            raise ValueError(f"with its random part the id must have {ID_CHARS} characters")
        words = [
            _with_operation(word, operation_prefix + RANDOM).replace(_SAMPLE, task_id.encode()) for word in self.words
        ]
        assert not any(b"\0" in word for word in words)
        return words


async def seen(url: str, redis: Opened, steps: Iterable[Step]) -> list[Command]:
    """Take the steps with a task of their own, one after the other; return the commands that did it."""
    commands: list[Command] = []
    for step in steps:
        with _Monitor(url) as monitor:
            await step(redis, _SAMPLE.decode())
            sent = await asyncio.to_thread(monitor.commands)
        # If the server did not know the script yet, it was sent then.
        scripts = [words for words in sent if words[0].upper() in (b"EVALSHA", b"FCALL")]
        if not scripts:
            raise AssertionError(f"the step was no script: {[words[0] for words in sent]}")
        commands.append(Command(tuple(scripts[-1])))
    return commands


async def prepare_scripts(redis: Opened, url: str) -> None:
    """Load the scripts into the server, and leave no task behind."""
    for step in (create, enqueue, claim, running, complete, release):
        await step(redis, _SAMPLE.decode())
    with Loader(url) as loader:
        loader.send([b"FLUSHALL\r\n"])


class Loader:
    """Sends commands as fast as the server accepts them, and only checks the answers for errors."""

    def __init__(self, url: str) -> None:
        address = RedisAddress.parse(url)
        self._socket = socket.create_connection((address.host, address.port))

    def send(self, commands: Iterable[bytes]) -> int:
        """Send the commands, and return their number once all are done.

        Raises:
            RuntimeError: the answer to one of them was an error.
        """
        count = 0
        batch = bytearray()
        for command in commands:
            batch += command
            count += 1
            if len(batch) > _BATCH_BYTES:
                self._exchange(batch)
                batch.clear()
        self._exchange(batch)
        return count

    def _exchange(self, batch: bytearray) -> None:
        # Answers are switched off; the ping shows that the server is done.
        self._socket.sendall(b"CLIENT REPLY OFF\r\n" + batch + b"CLIENT REPLY ON\r\nPING\r\n")
        answer = b""
        while not answer.endswith(b"+PONG\r\n"):
            received = self._socket.recv(65536)
            if not received:
                raise RuntimeError("the server hung up")
            answer += received
        if b"-" in answer:
            raise RuntimeError(answer.decode(errors="replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class _Monitor:
    """Records the commands of all clients until the call of `commands`."""

    _WORD = re.compile(rb'"(?:[^"\\]|\\.)*"')
    _END = b"end-of-bench-monitor"

    def __init__(self, url: str) -> None:
        address = RedisAddress.parse(url)
        self._address = (address.host, address.port)
        self._socket = socket.create_connection(self._address)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"

    def commands(self) -> list[list[bytes]]:
        with socket.create_connection(self._address) as other:
            other.sendall(b"ECHO " + self._END + b"\r\n")
            found: list[list[bytes]] = []
            while self._END not in (line := self._file.readline()):
                head, _, rest = line.partition(b"] ")
                if not head.endswith(b" lua"):
                    found.append([ast.literal_eval("b" + word.decode()) for word in self._WORD.findall(rest)])
            return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()


def _tag(name: str) -> bytes:
    return tag_of(name).encode()


def _with_operation(word: bytes, operation: str) -> bytes:
    try:
        arguments = _unpackb(word)
    except (ValueError, msgpack.exceptions.UnpackException):
        return word
    if not isinstance(arguments, dict) or "op" not in arguments:
        return word
    return _packb(_without_zero_bytes(arguments | {"op": operation}), use_bin_type=False)


def _without_zero_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_zero_bytes(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_zero_bytes(each) for each in value]
    if type(value) is int:
        return -1 if value == 0 else _unpackb(_packb(value).replace(b"\0", b"\1"))
    return value
