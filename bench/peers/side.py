"""One side of a peer, the producer or the worker: a process that speaks JSON lines with the bench.

It uses only the standard library, since it runs in the peers' own environments. ``bullmq/peer.js`` speaks the same
protocol.

    python -m bench.peers.with_rq producer|worker ADDRESS

It prints ``{"ready": versions}``. Then a producer answers each ``{"tasks": n, "seconds": s, "limit_s": t}`` once *n*
tasks, each to take *s* seconds, are in Redis, or as many as were begun within *t* seconds:
``{"count", "begin_ns", "end_ns"}``. A worker works from the start, and answers ``{"expect": n, "reset": bool}`` once
*n* tasks have ended since the last reset: ``{"count", "end_ns"}``, the end of the last one. It cannot report when the
work began, since a task is fetched before its function begins. A reset is also answered at once: ``{"expecting":
n}``. Times are those of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import random
import selectors
import string
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

SLOTS = 32
"""How many tasks a worker works on at a time."""
PREFETCH = 4
"""Our worker accepts this many times as many tasks, so that the next is there when one ends: Celery's default."""
CONCURRENT_ENQUEUES = 128
RESULT = "completed"
# Barely compressible, since some peers compress.
PAYLOAD = "".join(random.Random(500).choices(string.ascii_letters + string.digits, k=500))

Enqueue = Callable[[Iterable[float]], None]
"""Enqueues a task for each number, its duration in seconds; returns when Redis has them all."""

_answers = sys.stdout
_answering = threading.Lock()


def main(producer: Callable[[str], Enqueue], worker: Callable[[str], None], *packages: str) -> None:
    """Run the side that the command line names. *worker* never returns."""
    global _answers
    role, address = sys.argv[1:3]
    asyncio.set_event_loop_policy(_PreciseTimers())
    # The peer's own output must not count as an answer.
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    versions = {package: importlib.metadata.version(package) for package in packages}
    if role == "worker":
        threading.Thread(target=_hear, daemon=True).start()
        _answer({"ready": versions})
        worker(address)
        sys.exit("the worker has stopped by itself")
    enqueue = producer(address)
    _answer({"ready": versions})
    for line in sys.stdin:
        order = json.loads(line)
        tasks = _Tasks(order["tasks"], order["seconds"], order["limit_s"])
        begin_ns = time.monotonic_ns()
        enqueue(tasks)
        _answer({"count": tasks.begun, "begin_ns": begin_ns, "end_ns": time.monotonic_ns()})


class _PreciseTimers(asyncio.DefaultEventLoopPolicy):
    """Event loops that wait to the microsecond. With epoll a task of 10 ms takes 11: its timeout is in whole ms."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())


def perform(payload: str, seconds: float) -> str:
    """The task."""
    if seconds:
        time.sleep(seconds)
    _tally.ended()
    return RESULT


async def perform_async(payload: str, seconds: float) -> str:
    """The task, for peers whose worker is an event loop."""
    if seconds:
        await asyncio.sleep(seconds)
    _tally.ended()
    return RESULT


class _Tasks:
    """The duration of each task to enqueue, until all are used or the time is up. Several consumers may share it."""

    def __init__(self, count: int, seconds: float, limit_s: float) -> None:
        self._count, self._seconds = count, seconds
        self._deadline_s = time.monotonic() + limit_s
        self.begun = 0

    def __iter__(self) -> Iterator[float]:
        while self.begun < self._count and time.monotonic() < self._deadline_s:
            self.begun += 1
            yield self._seconds


class _Tally:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = self._end_ns = self._expected = 0

    def ended(self) -> None:
        with self._lock:
            self._count += 1
            self._end_ns = time.monotonic_ns()
            self._answer_if_reached()

    def expect(self, count: int, reset: bool) -> None:
        with self._lock:
            if reset:
                self._count = 0
                _answer({"expecting": count})
            self._expected = count
            self._answer_if_reached()

    def _answer_if_reached(self) -> None:
        if self._expected and self._count >= self._expected:
            self._expected = 0
            _answer({"count": self._count, "end_ns": self._end_ns})


_tally = _Tally()


def _hear() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        _tally.expect(order["expect"], order["reset"])
    os._exit(0)  # the bench has ended


def _answer(document: object) -> None:
    with _answering:
        print(json.dumps(document), file=_answers, flush=True)
