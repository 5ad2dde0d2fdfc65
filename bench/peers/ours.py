"""Ours: the store and the queues, with a consumer in a process of its own, as the peers have one.

A task takes three steps: it is created and offered to its queue, claimed, and completed while its slot is handed on.
What goes by Event Grid in the backbone, that a new task was granted a slot, goes by a datagram here. The two last are
sent at once, which is safe for who names the attempt: the turn of an overtaken one is nobody's.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from bench.peers import side
from shared.task import DEFAULT_PRIORITY, Content, State
from shared.task_store import (
    Claimed,
    Grant,
    Granted,
    NewTask,
    QueuePolicy,
    RedisLink,
    Refusal,
    StorePolicy,
    Taken,
    TaskQueues,
    TaskStore,
    Turn,
    connect,
)
from shared.task_store.connection import RedisAddress

PATH = "/v1/bench/0"
LEASE_S = 60
WINDOW_S = 40
CREATE_PAUSES_S = (0.02, 0.1, 0.5)
"""How long a slot may be granted before the task's record is there, as in the dispatcher."""
LOOK_S = 0.25
"""How often the consumer looks for what no datagram told of, as the reconciler does: for one, what was granted when
nobody listened."""


def _open(url: str) -> tuple[TaskStore, TaskQueues]:
    link = RedisLink(lambda: connect(RedisAddress.parse(url), _no_credential))
    return TaskStore(link, StorePolicy()), TaskQueues(link, QueuePolicy(claim_s=2 * LOOK_S), lambda _: side.SLOTS)


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
    store, queues = _open(url)
    body = side.PAYLOAD.encode()
    content = Content("text/plain", len(body))
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.setblocking(False)

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            task_id = str(uuid.uuid4())
            new = NewTask(task_id, PATH, LEASE_S, query=f"{seconds}", body=content, inline_body=body)
            turn = Turn(PATH, Grant(task_id, 1), "", 0, DEFAULT_PRIORITY)
            _, taken = await asyncio.gather(store.create(new), queues.offer_new(turn))
            if isinstance(taken, Taken):
                for grant in taken.granted.grants:
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
            task = asyncio.get_running_loop().create_task(self._work(grant))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _work(self, grant: Grant) -> None:
        claimed = await self._store.claim(grant.task_id, grant.attempt, window_s=WINDOW_S)
        for pause_s in CREATE_PAUSES_S:
            if isinstance(claimed, Claimed) or claimed.reason is not Refusal.UNKNOWN:
                break
            await asyncio.sleep(pause_s)
            claimed = await self._store.claim(grant.task_id, grant.attempt, window_s=WINDOW_S)
        if not isinstance(claimed, Claimed):
            return
        task, started_s = claimed.task, time.monotonic()
        status = await side.perform_async((claimed.inline_body or b"").decode(), float(task.query))
        took_ms = round((time.monotonic() - started_s) * 1000)
        served = replace(task, state=State.COMPLETED, updated_ms=task.updated_ms + took_ms)
        _, granted = await asyncio.gather(
            self._store.update(task.id, state=State.COMPLETED, status=status, attempt=task.attempt),
            self._queues.leave(PATH, grant, served),
        )
        self._hand_on(granted)


if __name__ == "__main__":
    side.main(producer, worker, "redis")
