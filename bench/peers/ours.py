"""Ours: the store alone, as its users call it. A task is created, found waiting, claimed, run, completed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import NoReturn

from bench.peers import side
from shared.task import Content, State
from shared.task_store import Claimed, Listing, NewTask, StorePolicy, TaskStore, connect
from shared.task_store.connection import RedisAddress

PATH = "/v1/bench/0"
LEASE_S = 60
WINDOW_S = 40
POLL_S = 0.005


def _store(url: str) -> TaskStore:
    return TaskStore(lambda: connect(RedisAddress.parse(url), _no_credential), StorePolicy())


def _no_credential() -> NoReturn:
    raise AssertionError("The bench's Redis needs no token.")


def producer(url: str) -> side.Enqueue:
    """What the submit handler does; the seconds a task shall take go as its query."""
    loop = asyncio.new_event_loop()
    store = _store(url)
    body = side.PAYLOAD.encode()

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            content = Content("text/plain", len(body))
            await store.create(
                NewTask(str(uuid.uuid4()), PATH, LEASE_S, query=f"{seconds}", body=content, inline_body=body)
            )

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    asyncio.run(_work(_store(url)))


async def _work(store: TaskStore) -> None:
    # Until the store has a queue, waiting tasks are found by listing them.
    found: asyncio.Queue[str] = asyncio.Queue(side.SLOTS)
    async with asyncio.TaskGroup() as slots:
        for _ in range(side.SLOTS):
            slots.create_task(_slot(store, found))
        while True:
            page = await store.page(Listing(128, path=PATH, state=State.CREATED))
            for task in page.tasks:
                await found.put(task.id)
            await found.join()
            if not page.tasks:
                await asyncio.sleep(POLL_S)


async def _slot(store: TaskStore, found: asyncio.Queue[str]) -> None:
    while True:
        task_id = await found.get()
        claimed = await store.claim(task_id, None, window_s=WINDOW_S)
        if isinstance(claimed, Claimed):
            body = (claimed.inline_body or b"").decode()
            status = await side.perform_async(body, float(claimed.task.query))
            await store.update(task_id, state=State.COMPLETED, status=status, attempt=claimed.task.attempt)
        found.task_done()


if __name__ == "__main__":
    side.main(producer, worker, "redis")
