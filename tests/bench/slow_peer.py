"""A peer of the benchmarks that takes long to fetch a task, and no time to run it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from redis import Redis

from bench.peers import side

FETCH_S: Final = 0.05


def producer(url: str) -> side.Enqueue:
    client = Redis.from_url(url)

    def enqueue(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            client.rpush("slow", seconds)

    return enqueue


def worker(url: str) -> None:
    client = Redis.from_url(url)
    while True:
        _, seconds = client.blpop(["slow"])  # pyright: ignore[reportGeneralTypeIssues]
        time.sleep(FETCH_S)
        side.perform(side.PAYLOAD, float(seconds))


if __name__ == "__main__":
    side.main(producer, worker, "redis")
