"""When slots are granted, as Redis itself tells: from the commands that it runs (``MONITOR``)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self, cast

import redis

from local.redis_server import RedisServer
from tests.waiting import PATIENCE_S

AWAITS_CLAIM_MS = 2**45
"""As ``lua/includes/queue/hold_slot.lua`` has it."""


class GrantTimes:
    """Within its context, hears when slots are granted, by Redis' clock; not while a server is away.

    Args:
        claim_s: within which a granted attempt is to be claimed.

    Attributes:
        by_path: the times of the grants of each path, in ms, and in their order. A list has those of one connection,
            without a clock that was set back.
    """

    def __init__(self, servers: Sequence[RedisServer], claim_s: float) -> None:
        self.by_path: dict[str, list[list[int]]] = defaultdict(list)
        self._servers = servers
        self._claim_ms = round(claim_s * 1000)
        self._known: set[str] = set()
        self._over = threading.Event()
        self._listens = threading.Semaphore(0)
        self._errors: list[Exception] = []

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=self._hear_all, args=(server,), daemon=True).start()
        for _ in self._servers:
            if not self._listens.acquire(timeout=PATIENCE_S):
                raise TimeoutError("no MONITOR has begun")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def over(self, path: str, tasks: int, window_ms: int) -> int:
        """Of the windows that begin with a grant, those that have more than so many."""
        if self._errors:
            raise self._errors[0]
        return sum(
            after - before < window_ms
            for times_ms in [*self.by_path[path]]
            for before, after in zip(times_ms, times_ms[tasks:], strict=False)
        )

    def _hear_all(self, server: RedisServer) -> None:
        try:
            while not self._over.wait(0.05):
                with suppress(redis.RedisError, OSError), server.connect() as client:
                    monitor = cast("Any", client.monitor())
                    with monitor:
                        self._listens.release()
                        self._hear(monitor.connection)
        except Exception as error:
            self._errors.append(error)

    def _hear(self, connection: Any) -> None:
        last: dict[str, list[int]] = {}
        asked: set[str] = set()
        """The entries of which this script has asked whether they hold a slot, but for those that it let wait since.
        If it holds a slot for one of these, that slot was granted before."""
        while not self._over.is_set():
            line = connection.read_response()
            source, *quoted = (line.decode() if isinstance(line, bytes) else line).split('"')
            if not source.endswith("lua] "):  # a script begins, or a replica follows
                asked.clear()
                continue
            command, *words = quoted[::2]
            if command not in ("ZADD", "ZSCORE"):
                continue
            key = words.pop(0)
            if command == "ZADD" and "}qw:" in key:
                asked.discard(words[-1])
            elif command == "ZSCORE" and "}qh:" in key:
                asked.add(words[0])
            elif command == "ZADD" and "}qh:" in key and len(words) == 2 and words[1] not in self._known:
                score, entry = words
                self._known.add(entry)
                if entry not in asked:
                    self._note(last, key.partition("}qh:")[2], int(float(score)) % AWAITS_CLAIM_MS - self._claim_ms)

    def _note(self, last: dict[str, list[int]], path: str, at_ms: int) -> None:
        if path not in last or at_ms < last[path][-1]:
            last[path] = []
            self.by_path[path].append(last[path])
        last[path].append(at_ms)
