"""When slots are granted, as Redis itself tells: from the commands that it runs (``MONITOR``)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self, cast

import redis

from local.redis_server import RedisServer

AWAITS_CLAIM_MS = 2**45
"""As ``lua/includes/queue/hold_slot.lua`` has it."""


class GrantTimes:
    """Within its context, hears when slots are granted, by Redis' clock. What happens while it is not connected, it
    misses.

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
        self._threads = [threading.Thread(target=self._hear_all, args=(server,), daemon=True) for server in servers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def over(self, path: str, tasks: int, window_ms: int) -> int:
        """Of the windows that begin with a grant, those that have more than so many."""
        return sum(
            after - before < window_ms
            for times_ms in [*self.by_path[path]]
            for before, after in zip(times_ms, times_ms[tasks:], strict=False)
        )

    def _hear_all(self, server: RedisServer) -> None:
        while not self._over.wait(0.05):
            with suppress(redis.RedisError, OSError, ValueError), server.connect() as client:
                monitor = cast("Any", client.monitor())
                with monitor:
                    self._hear(monitor.connection)

    def _hear(self, connection: Any) -> None:
        last: dict[str, list[int]] = {}
        while not self._over.is_set():
            line = connection.read_response()
            words = (line.decode() if isinstance(line, bytes) else line).split('"')[1::2]
            if words[:1] != ["ZADD"] or len(words) != 4 or "}qh:" not in words[1] or words[3] in self._known:
                continue
            self._known.add(words[3])
            path, at_ms = words[1].partition("}qh:")[2], int(float(words[2])) % AWAITS_CLAIM_MS - self._claim_ms
            if path not in last or at_ms < last[path][-1]:
                last[path] = []
                self.by_path[path].append(last[path])
            last[path].append(at_ms)
