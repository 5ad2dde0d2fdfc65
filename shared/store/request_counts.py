"""Requests in flight at the model services, as these report them."""

from __future__ import annotations

from urllib.parse import quote

from shared.store.arguments import Clock, ReportArgument, now_of, stamp
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import pack, tag_of, to_ms


class TooManyReporters(Exception):
    """The app keeps no more of what the text names."""


class RequestCounts:
    """The counts by cluster and endpoint path."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def report(
        self, cluster: str, path: str, delta: int, *, instance: str | None = None, keep_s: float = 0
    ) -> int:
        """Add to the requests in flight at an endpoint; returns the new count, never below 0.

        The share of a reporter that names its *instance* is dropped *keep_s* after its last report.

        What unnamed reporters said is dropped a day after the last of it.

        Raises:
            StoreUnavailable: Redis does not answer.
            TooManyReporters: The counter has 1,000 instances, or its partition 256 counters that are in use.
        """
        field = _field(cluster, path)
        argument: ReportArgument = {"field": field, "delta": delta, **stamp(self._now_ms)}
        if instance is not None:
            argument["instance"] = instance
            argument["keep"] = to_ms(keep_s)
        reply: int | bytes = await self._link.script("requests/report", tag_of(field), pack(argument))
        if isinstance(reply, bytes):
            raise TooManyReporters(reply.decode())
        return max(0, reply)

    async def count(self, cluster: str, path: str) -> int | None:
        """Requests in flight at an endpoint; None if none were ever reported.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        field = _field(cluster, path)
        now = str(now_of(self._now_ms))
        count: int | None = await self._link.script("requests/count", tag_of(field), now, field)
        return None if count is None else max(0, count)


def _field(cluster: str, path: str) -> str:
    # A quoted name has no blank, so no other cluster and path make the same field.
    return f"{quote(cluster, safe='')} {path}"
