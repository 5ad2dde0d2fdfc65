"""The reporter: how many direct calls are at work, as `CurrentProcessingUpsert` counts them.

It is on if `SERVICE_CLUSTER` names the service's counter. This instance has a share of the count. It tells changes
once a second at most, and renews its share often enough that the backbone does not drop it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from contextlib import suppress

from . import errors
from ._core import Backbone, is_transient, request
from ._drivers import Requests, run_in_threads

_INTERVAL_S = 60
_RENEW_S = 20.0
_AT_MOST_EVERY_S = 1.0
_TIMEOUT_S = 5.0
_PATH = "/api/CurrentProcessingUpsert"

logger = logging.getLogger("taskbackbone")


class InFlight:
    """Counts direct calls by path, and reports the counts."""

    def __init__(self, backbone: Backbone, cluster: str, instance: str) -> None:
        self._backbone = backbone
        self._cluster = cluster
        self._instance = instance
        self._shares = 0
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._calls = Requests(1)
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    def change(self, path: str, by: int) -> None:
        self._counts[path] += by
        self._changed.set()

    async def stop(self) -> None:
        """Takes the share back to 0."""
        if self._telling is None:
            return
        self._leaving.set()
        self._changed.set()
        await self._telling  # it is not cut off: nobody would know what was counted
        self._counts = Counter(dict.fromkeys(self._counts, 0))
        if any(self._told.values()):
            await self._report()
        self._calls.close()

    async def _tell(self) -> None:
        while not self._leaving.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _RENEW_S)
            self._changed.clear()
            if self._counts:
                await self._report()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _AT_MOST_EVERY_S)

    async def _report(self) -> None:
        counts = Counter(self._counts)
        changes = {path: count - self._told[path] for path, count in counts.items()}
        body = [
            {
                "ServiceCluster": self._cluster,
                "ApiPath": path,
                "IncrementBy": max(0, change),
                "DecrementBy": max(0, -change),
                "Instance": f"{self._instance}-{self._shares}",
                "IntervalSeconds": _INTERVAL_S,
            }
            for path, change in changes.items()
        ]
        headers = {"Content-Type": "application/json"}
        call = self._backbone.call(
            "POST", _PATH, headers=headers, body=json.dumps(body).encode(), timeout_s=_TIMEOUT_S
        )
        try:
            answer = await run_in_threads(request(call, retry_for_s=0), self._calls)
        except errors.BackboneError as error:
            self._begin_again(str(error))
            return
        if answer.is_success:
            self._told = counts
        elif is_transient(answer.status):
            self._begin_again(f"status {answer.status}")
        else:
            logger.error("the direct calls in flight were not taken: status %s", answer.status)

    def _begin_again(self, reason: str) -> None:
        """Nobody knows whether that was counted. So a new share begins, and the old one is dropped in silence."""
        logger.warning("the direct calls in flight were not reported: %s", reason)
        self._shares += 1
        self._told = Counter()
