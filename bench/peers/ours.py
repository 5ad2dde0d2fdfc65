"""Ours: the store and the queues, with a consumer in a process of its own, like the peers.

A task takes two steps. The first creates and enqueues it; the second completes it, grants its slot to the next task
and claims that one. A task that finds a free slot takes three: the producer sends the slot grant through a socket,
instead of Event Grid, and the consumer claims the task.

The consumer is a backend that accepts more tasks than it works on, so that the next one is there when one ends. A
third argument can limit it to the tasks that it works on. It reports a task as accepted unless the task ends at once;
in the backbone, the backend's answer does that.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import uuid
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from bench.commands import default_policy
from bench.peers import side
from shared.store import RedisAddress, RedisLink, TaskStore, connect
from shared.tasks.outcomes import Claimed, Created, Granted, SlotGrant
from shared.tasks.task import Content, NewTask, State, Task

PATH = "/v1/bench/0"
LEASE_S = 60
MAILBOX = Path("consumer.sock")
"""In the working directory of both sides: a producer reaches the consumer whichever way either reaches Redis."""
CHECK_S = 0.25
"""How often the consumer checks the queue for unclaimed slot grants, like the reconciler."""


def _open(url: str, slots: int) -> TaskStore:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_credential))
    return TaskStore(link, replace(default_policy(), slot_claim_s=2 * CHECK_S), lambda _: slots)


def _prefetch() -> int:
    return int(sys.argv[3]) if len(sys.argv) > 3 else side.PREFETCH


def _no_credential() -> NoReturn:
    raise AssertionError("The bench's Redis needs no token.")


class _Notes:
    """Sends slot grants to the consumer, if it listens."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def send(self, grant: SlotGrant) -> None:
        with suppress(OSError):  # the consumer does not listen yet; it will find the unclaimed grant
            if self._socket is None:
                line = socket.socket(socket.AF_UNIX)
                line.connect(str(MAILBOX))
                self._socket = line
            self._socket.sendall(f"{grant.entry_id}\n".encode())


def _as_the_app_does() -> None:
    """See function_app.py."""
    gc.freeze()
    gc.set_threshold(5_000)


def producer(url: str) -> side.Enqueue:
    """Do the work of the submit handler; the query string is the task's duration in seconds."""
    loop = asyncio.new_event_loop()
    store = _open(url, side.SLOTS * _prefetch())
    body = side.PAYLOAD.encode()
    content = Content("text/plain", len(body))
    notes = _Notes()

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            task_id = str(uuid.uuid4())
            new = NewTask(task_id, PATH, LEASE_S, query=f"{seconds}", body=content, inline_body=body)
            created = await store.create(new)
            assert isinstance(created, Created)
            for granted in created.granted:
                for grant in granted.grants:
                    notes.send(grant)

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    MAILBOX.unlink(missing_ok=True)
    asyncio.run(Consumer(url).run())


class Consumer:
    def __init__(self, url: str) -> None:
        self._store = _open(url, side.SLOTS * _prefetch())
        self._claimed: asyncio.Queue[Claimed] = asyncio.Queue()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        await asyncio.start_unix_server(self._hear, MAILBOX)
        for _ in range(side.SLOTS):
            self._start(self._work())
        while True:
            async for change in self._store.queues.maintain(PATH):
                self._claim(*change.granted)
                self._claim(Granted(PATH, [SlotGrant.of(task) for task in change.unclaimed]))
            await asyncio.sleep(CHECK_S)

    async def _hear(self, notes: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        async for line in notes:
            self._claim(Granted(PATH, [SlotGrant.parse(line.decode().strip())]))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _claim(self, *granted: Granted) -> None:
        for each in granted:
            for grant in each.grants:
                self._start(self._claim_one(each, grant))

    async def _claim_one(self, granted: Granted, grant: SlotGrant) -> None:
        claimed = await self._store.claim_granted(granted, grant)
        if isinstance(claimed, Claimed):
            self._claimed.put_nowait(claimed)
            if _seconds(claimed.task):
                self._start(self._accept(claimed.task))

    async def _accept(self, task: Task) -> None:
        self._claim(*await self._store.accept(task))

    async def _work(self) -> None:
        """One slot: the next task begins before the end of this one is reported."""
        while True:
            claimed = await self._claimed.get()
            status = await side.perform_async((claimed.inline_body or b"").decode(), _seconds(claimed.task))
            self._start(self._report(claimed.task, status))

    async def _report(self, task: Task, status: str) -> None:
        ended = await self._store.update(task.id, state=State.COMPLETED, status=status, attempt=task.attempt)
        for granted in ended.granted:
            for grant in granted.grants:
                await self._claim_one(granted, grant)  # needs no step, since this one has claimed it


def _seconds(task: Task) -> float:
    return float(task.query)


if __name__ == "__main__":
    _as_the_app_does()
    side.main(producer, worker, "redis")
