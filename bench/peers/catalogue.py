"""The peers, their settings, and what each does for a task, so that nothing that a peer leaves out stays hidden."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers import environments
from bench.peers.side import CONCURRENT_ENQUEUES, PAYLOAD, PREFETCH, SLOTS


@dataclass(frozen=True)
class Peer:
    """``command`` is followed by a role and an address, then by ``arguments``.

    ``keeps_waiting``: a waiting task can be looked up by its id. ``keeps_finished``: a finished one too, with its
    input, its times and its result. ``does``: acknowledges, retries, keeps, fences, dedupes, a short text each.
    """

    name: str
    command: Callable[[], list[str | Path]]
    settings: str
    does: tuple[str, str, str, str, str]
    slots: int = SLOTS
    keeps_waiting: bool = False
    keeps_finished: bool = False
    arguments: tuple[str, ...] = ()


DOES = ("acknowledges", "retries after a worker's death", "keeps", "fences stale attempts", "dedupes")


def _module(name: str, requirements: str | None = "requirements.txt") -> Callable[[], list[str | Path]]:
    return lambda: [
        environments.python_with(requirements) if requirements else sys.executable,
        *("-m", f"bench.peers.{name}"),
    ]


_ONE_BY_ONE = "enqueues one after the other"
_AT_ONCE = f"{CONCURRENT_ENQUEUES} concurrent enqueues"
_THREADS = f"one process with {SLOTS} threads"

OURS = Peer(
    "ours",
    _module("ours", None),
    f"store and queue, {_AT_ONCE}, one worker process with {SLOTS} slots that accepts {PREFETCH} times as many tasks",
    ("yes", "yes: lease, renewed by any update", "body, status, history, result: 7 days", "yes", "yes, by id"),
    keeps_waiting=True,
    keeps_finished=True,
)
OURS_PLAIN = Peer(
    "ours, no prefetch",
    OURS.command,
    f"the same, but its worker accepts no more than the {SLOTS} tasks that it works on",
    OURS.does,
    keeps_waiting=True,
    keeps_finished=True,
    arguments=("1",),
)
OURS_HTTP = Peer(
    "ours, HTTP",
    _module("ours_http", None),
    "local stack, 64 concurrent HTTP clients, a model service that takes all and reports over HTTP",
    OURS.does,
    keeps_waiting=True,
    keeps_finished=True,
)
PEERS = (
    Peer(
        "RQ",
        _module("with_rq"),
        f"SimpleWorker, which does not fork and runs one task at a time; {_ONE_BY_ONE}; result_ttl 500 s",
        (
            "yes",
            "only with Retry set: else failed once its heartbeat has expired",
            "input, times, result: 500 s",
            "no",
            "yes, by id, if asked",
        ),
        slots=1,
        keeps_waiting=True,
        keeps_finished=True,
    ),
    Peer(
        "Celery",
        _module("with_celery"),
        f"{_THREADS}, prefetch multiplier 64, no gossip, mingle, heartbeat; {_ONE_BY_ONE}; results in Redis",
        (
            "before it works; acks_late: after",
            "no; with acks_late after a fixed visibility timeout of 1 h",
            "result: 1 day",
            "no",
            "no",
        ),
    ),
    Peer(
        "arq",
        _module("with_arq", "requirements-arq.txt"),
        f"max_jobs {SLOTS}, poll_delay 10 ms (default 500 ms); {_AT_ONCE}; keep_result 1 h",
        ("yes", "yes, after job_timeout + 10 s", "input, times, result: 1 h", "no", "yes, by id"),
        keeps_waiting=True,
        keeps_finished=True,
    ),
    Peer(
        "taskiq",
        _module("with_taskiq"),
        f"RedisStreamBroker, max_async_tasks {SLOTS}, max_prefetch {SLOTS}; {_AT_ONCE}; results in Redis for 1 h",
        (
            "yes",
            "yes, after a fixed idle time of 10 min: longer tasks run twice",
            "result: 1 h; the stream is never trimmed",
            "no",
            "no",
        ),
    ),
    Peer(
        "dramatiq",
        _module("with_dramatiq"),
        f"{_THREADS}; {_ONE_BY_ONE}; results in Redis",
        ("yes", "yes, 60 s after its process's last heartbeat", "result: 10 min", "no", "no"),
    ),
    Peer(
        "huey",
        _module("with_huey"),
        f"{_THREADS} that block on the queue, no periodic tasks; {_ONE_BY_ONE}; results in Redis",
        ("no: taken is gone", "no", "result, until read", "no", "no"),
    ),
    Peer(
        "BullMQ",
        lambda: list(environments.bullmq()),
        f"ioredis, concurrency {SLOTS * PREFETCH}, of which {SLOTS} are worked on; Promise.all over batches of "
        f"{CONCURRENT_ENQUEUES} adds; finished jobs kept",
        (
            "yes",
            "yes, lock of 30 s, renewed; once",
            "input, times, result: for ever; events: the last 10,000",
            "yes, by lock token",
            "yes, by id",
        ),
        keeps_waiting=True,
        keeps_finished=True,
        arguments=(PAYLOAD,),
    ),
)
