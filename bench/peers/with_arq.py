"""arq: it keeps results for an hour, the default, and polls for tasks every 10 ms, not every 500."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from bench.peers import side

POLL_S = 0.01


async def perform(context: dict[str, Any], payload: str, seconds: float) -> str:
    return await side.perform_async(payload, seconds)


def producer(url: str) -> side.Enqueue:
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(create_pool(RedisSettings.from_dsn(url)))

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            await pool.enqueue_job("perform", side.PAYLOAD, seconds)

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    settings = RedisSettings.from_dsn(url)
    Worker([perform], redis_settings=settings, max_jobs=side.SLOTS, poll_delay=POLL_S).run()


if __name__ == "__main__":
    side.main(producer, worker, "arq", "redis", "hiredis")
