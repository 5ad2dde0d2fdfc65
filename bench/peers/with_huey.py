"""huey: one process with 32 threads that block on the queue, results in Redis, no periodic tasks."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterable

from huey import RedisHuey
from huey.consumer import Consumer

from bench.peers import side


def producer(url: str) -> side.Enqueue:
    perform = RedisHuey("bench", url=url).task()(side.perform)

    def enqueue(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            perform(side.PAYLOAD, seconds)

    return enqueue


def worker(url: str) -> None:
    huey = RedisHuey("bench", url=url)
    huey.task()(side.perform)
    Consumer(huey, workers=side.SLOTS, worker_type="thread", periodic=False).run()


if __name__ == "__main__":
    side.main(producer, worker, "huey", "redis", "hiredis")
