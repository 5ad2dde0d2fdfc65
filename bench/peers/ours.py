"""Ours: the store and the queues, with a consumer in a process of its own, as the peers have one.

A task takes two steps: it is created and waits in its queue; and it is completed, by which its slot is handed on and
the next task claimed. One that finds a free slot takes three: that it was granted, which goes by Event Grid in the
backbone, goes by a datagram here, and who gets that claims it.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from bench.peers import side
from shared.task import Content, State
from shared.task_store import (
    Claimed,
    Created,
    Grant,
    Granted,
    NewTask,
    QueuePolicy,
    RedisLink,
    Refused,
    StorePolicy,
    TaskQueues,
    TaskStore,
    connect,
)
from shared.task_store.connection import RedisAddress

PATH = "/v1/bench/0"
LEASE_S = 60
LOOK_S = 0.25
"""How often the consumer looks for what no datagram told of, as the reconciler does: for one, what was granted when
nobody listened."""


def _open(url: str) -> tuple[TaskStore, TaskQueues]:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_credential))
    queues = TaskQueues(link, QueuePolicy(claim_s=2 * LOOK_S), lambda _: side.SLOTS)
    return TaskStore(link, StorePolicy(), queues=queues), queues


def _no_credential() -> NoReturn:
    raise AssertionError("The bench's Redis needs no token.")


def _mailbox(url: str) -> str:
    return str(Path(tempfile.gettempdir()) / f"backbone-bench-{urlsplit(url).port}.sock")


def _listen(mailbox: str) -> socket.socket:
    Path(mailbox).unlink(missing_ok=True)
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.bind(mailbox)
    notes.setblocking(False)
    return notes


def producer(url: str) -> side.Enqueue:
    """What the submit handler does; the seconds a task shall take go as its query."""
    loop = asyncio.new_event_loop()
    store, _ = _open(url)
    body = side.PAYLOAD.encode()
    content = Content("text/plain", len(body))
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.setblocking(False)

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            task_id = str(uuid.uuid4())
            new = NewTask(task_id, PATH, LEASE_S, query=f"{seconds}", body=content, inline_body=body)
            created = await store.create_waiting(new)
            assert isinstance(created, Created)
            for grant in created.granted.grants:
                with suppress(OSError):  # nobody listens yet: who will finds it, since it holds a slot
                    notes.sendto(grant.turn.encode(), _mailbox(url))

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    asyncio.run(Consumer(url).run())


class Consumer:
    def __init__(self, url: str) -> None:
        self._store, self._queues = _open(url)
        self._mailbox = _mailbox(url)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        notes = _listen(self._mailbox)
        asyncio.get_running_loop().add_reader(notes, self._read, notes)
        while True:
            tended = await self._queues.tend(PATH)
            self._hand_on(tended.granted)
            self._hand_on(Granted(tended.doubtful, None))
            await asyncio.sleep(LOOK_S)

    def _read(self, notes: socket.socket) -> None:
        while True:
            try:
                turn = notes.recv(256)
            except BlockingIOError:
                return
            self._hand_on(Granted([Grant.of(turn.decode())], None))

    def _hand_on(self, granted: Granted) -> None:
        for grant in granted.grants:
            task = asyncio.get_running_loop().create_task(self._work(grant, granted.claims.get(grant)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _work(self, grant: Grant, claimed: Claimed | Refused | None) -> None:
        while True:
            claimed = claimed or await self._store.claim(grant.task_id, grant.attempt)
            if not isinstance(claimed, Claimed):
                return
            task = claimed.task
            status = await side.perform_async((claimed.inline_body or b"").decode(), float(task.query))
            ended = await self._store.update(task.id, state=State.COMPLETED, status=status, attempt=task.attempt)
            granted = ended.granted
            if not granted or not granted.grants:
                return
            grant, *others = granted.grants
            claimed = granted.claims.get(grant)
            if others:
                self._hand_on(Granted(others, None, granted.claims))


if __name__ == "__main__":
    side.main(producer, worker, "redis")
