"""RQ: `SimpleWorker`, which works in its own process, one task at a time; the usual one forks for each task."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterable

from redis import Redis
from rq import Queue, SimpleWorker

from bench.peers import side


def producer(url: str) -> side.Enqueue:
    queue = Queue(connection=Redis.from_url(url))

    def enqueue(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            queue.enqueue(side.perform, side.PAYLOAD, seconds)

    return enqueue


def worker(url: str) -> None:
    connection = Redis.from_url(url)
    SimpleWorker([Queue(connection=connection)], connection=connection).work(logging_level="WARNING")


if __name__ == "__main__":
    side.main(producer, worker, "rq", "redis", "hiredis")
