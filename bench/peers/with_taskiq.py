"""taskiq: the stream broker, the one of taskiq-redis that acknowledges; results in Redis."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import side


def _broker(url: str) -> RedisStreamBroker:
    # From the stream's beginning: whichever side creates the group, it must not miss tasks of the other.
    broker = RedisStreamBroker(url, consumer_id="0")
    broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=3600))
    broker.register_task(side.perform_async, task_name="perform")
    return broker


def producer(url: str) -> side.Enqueue:
    loop = asyncio.new_event_loop()
    broker = _broker(url)
    loop.run_until_complete(broker.startup())
    perform = broker.find_task("perform")
    assert perform is not None

    async def one_of_many(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            await perform.kiq(side.PAYLOAD, seconds)

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(one_of_many(tasks) for _ in range(side.CONCURRENT_ENQUEUES)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(url: str) -> None:
    asyncio.run(
        run_receiver_task(_broker(url), max_async_tasks=side.SLOTS, max_prefetch=side.SLOTS, run_startup=True)
    )


if __name__ == "__main__":
    side.main(producer, worker, "taskiq", "taskiq-redis", "redis", "hiredis")
