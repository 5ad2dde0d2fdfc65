"""Ours: the store and the queues, with a consumer in a process of its own, as the peers have one.

A task takes two steps: it is created and waits in its queue; and it is completed, by which its slot is handed on and
the next task claimed. One that finds a free slot takes three: that it was granted, which goes by Event Grid in the
backbone, goes by a socket here, and who hears of it claims it.

The consumer is a backend that takes more tasks than it works on, as many do, so that the next is there when one ends;
or no more than it works on, if told so by a third word. A task that does not end at once it reports as taken,
which in the backbone a backend's answer does.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import uuid
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from bench.peers import side
from shared.tasks.task import Content, State, Task
from shared.store.policy import QueuePolicy, StorePolicy
from shared.store.queue_steps import QueueSteps
from shared.store.redis.client import connect
from shared.store.redis.link import RedisLink
from shared.store.task_steps import TaskSteps
from shared.tasks.outcomes import Claimed, Created, SlotGrant, Granted, Refused
from shared.tasks.task import NewTask
from shared.store.redis.client import RedisAddress

PATH = "/v1/bench/0"
LEASE_S = 60
LOOK_S = 0.25
"""How often the consumer looks for what nobody told it of, as the reconciler does: for one, what was granted when
nobody listened."""


def _open(url: str, slots: int) -> tuple[TaskSteps, QueueSteps]:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_credential))
    queues = QueueSteps(link, QueuePolicy(slot_claim_s=2 * LOOK_S), lambda _: slots)
    return TaskSteps(link, StorePolicy(), queues=queues), queues


def _prefetch() -> int:
    return int(sys.argv[3]) if len(sys.argv) > 3 else side.PREFETCH


def _no_credential() -> NoReturn:
    raise AssertionError("The bench's Redis needs no token.")


def _mailbox(url: str) -> str:
    """In the directory that both sides work in, and that goes with them."""
    return f"{urlsplit(url).port}.sock"


class _Notes:
    """Tells the consumer what was granted, if it listens."""

    def __init__(self, mailbox: str) -> None:
        self._mailbox = mailbox
        self._socket: socket.socket | None = None

    def tell(self, grant: SlotGrant) -> None:
        with suppress(OSError):  # nobody listens yet: who will finds it, since it holds a slot
            if self._socket is None:
                line = socket.socket(socket.AF_UNIX)
                line.connect(self._mailbox)
                self._socket = line
            self._socket.sendall(f"{grant.turn}\n".encode())


def _as_the_app_does() -> None:
    """See function_app.py."""
    gc.freeze()
    gc.set_threshold(5_000)


def producer(url: str) -> side.Enqueue:
    """What the submit handler does; the seconds a task shall take go as its query."""
    loop = asyncio.new_event_loop()
    store, _ = _open(url, side.SLOTS * _prefetch())
    body = side.PAYLOAD.encode()
    content = Content("text/plain", len(body))
    notes = _Notes(_mailbox(url))

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            task_id = str(uuid.uuid4())
            new = NewTask(task_id, PATH, LEASE_S, query=f"{seconds}", body=content, inline_body=body)
            created = await store.create_waiting(new)
            assert isinstance(created, Created)
            for grant in created.granted.grants:
                notes.tell(grant)

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    Path(_mailbox(url)).unlink(missing_ok=True)
    asyncio.run(Consumer(url).run())


class Consumer:
    def __init__(self, url: str) -> None:
        self._store, self._queues = _open(url, side.SLOTS * _prefetch())
        self._free = asyncio.Semaphore(side.SLOTS)
        self._mailbox = _mailbox(url)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        await asyncio.start_unix_server(self._hear, self._mailbox)
        while True:
            tended = await self._queues.maintain(PATH)
            self._hand_on(tended.granted)
            self._hand_on(Granted(tended.doubtful, None))
            await asyncio.sleep(LOOK_S)

    async def _hear(self, notes: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        async for line in notes:
            self._hand_on(Granted([SlotGrant.of(line.decode().strip())], None))

    def _hand_on(self, granted: Granted) -> None:
        for grant in granted.grants:
            self._start(self._work(grant, granted.claims.get(grant)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _took(self, task: Task) -> None:
        granted = (await self._store.accepted(task)).granted
        if granted:
            self._hand_on(granted)

    async def _work(self, grant: SlotGrant, claimed: Claimed | Refused | None) -> None:
        while True:
            claimed = claimed or await self._store.claim(grant.task_id, grant.attempt)
            if not isinstance(claimed, Claimed):
                return
            task, seconds = claimed.task, float(claimed.task.query)
            if seconds:
                self._start(self._took(task))
            async with self._free:
                status = await side.perform_async((claimed.inline_body or b"").decode(), seconds)
            ended = await self._store.update(task.id, state=State.COMPLETED, status=status, attempt=task.attempt)
            granted = ended.granted
            if not granted or not granted.grants:
                return
            grant, *others = granted.grants
            claimed = granted.claims.get(grant)
            if others:
                self._hand_on(Granted(others, None, granted.claims))


if __name__ == "__main__":
    _as_the_app_does()
    side.main(producer, worker, "redis")
