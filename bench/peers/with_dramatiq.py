"""dramatiq: one process with 32 threads, results in Redis."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

import threading
from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import side


def _actor(url: str) -> tuple[RedisBroker, dramatiq.Actor]:
    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url), store_results=True))
    return broker, dramatiq.actor(side.perform, broker=broker)


def producer(url: str) -> side.Enqueue:
    _, actor = _actor(url)

    def enqueue(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            actor.send(side.PAYLOAD, seconds)

    return enqueue


def worker(url: str) -> None:
    broker, _ = _actor(url)
    dramatiq.Worker(broker, worker_threads=side.SLOTS).start()
    threading.Event().wait()


if __name__ == "__main__":
    side.main(producer, worker, "dramatiq", "redis", "hiredis")
