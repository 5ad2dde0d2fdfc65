"""Celery: one process with 32 threads, prefetching as its docs recommend for short tasks, results in Redis."""

# Its environment is not the project's.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery

from bench.peers import side


def _app(url: str) -> Celery:
    app = Celery("bench", broker=url, backend=url)
    app.conf.update(
        worker_prefetch_multiplier=64,
        worker_disable_rate_limits=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    app.task(side.perform, name="perform")
    return app


def producer(url: str) -> side.Enqueue:
    perform = _app(url).tasks["perform"]

    def enqueue(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            perform.delay(side.PAYLOAD, seconds)

    return enqueue


def worker(url: str) -> None:
    _app(url).worker_main(
        [
            *("worker", "--pool", "threads", "--concurrency", str(side.SLOTS), "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )


if __name__ == "__main__":
    side.main(producer, worker, "celery", "kombu", "redis", "hiredis")
