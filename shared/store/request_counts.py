"""Requests in flight at the model services, as these report them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from shared.store.arguments import Clock, ReportArgument, now_of, stamp
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import pack, tag_of, to_ms

MOST_AT_ONCE: Final = 100
"""Reports in one run of the script, while which Redis does nothing else."""


class TooManyReporters(Exception):
    """The app keeps no more of what the text names."""


@dataclass(frozen=True, slots=True)
class RequestReport:
    """What a reporter adds to the requests in flight at an endpoint.

    Attributes:
        instance: how the reporter names itself. Its share is dropped *keep_s* after its last report.
    """

    cluster: str
    path: str
    delta: int
    instance: str | None = None
    keep_s: float = 0

    @property
    def field(self) -> str:
        return _field(self.cluster, self.path)

    def argument(self) -> tuple[str, int] | tuple[str, int, str, int]:
        if self.instance is None:
            return self.field, self.delta
        return self.field, self.delta, self.instance, to_ms(self.keep_s)


class RequestCounts:
    """The counts by cluster and endpoint path."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def report(
        self, cluster: str, path: str, delta: int, *, instance: str | None = None, keep_s: float = 0
    ) -> int:
        """Add to the requests in flight at an endpoint, as ``report_all`` does; returns the new count."""
        [count] = await self.report_all([RequestReport(cluster, path, delta, instance, keep_s)])
        return count

    async def report_all(self, reports: Sequence[RequestReport]) -> list[int]:
        """Count all of the *reports*, or none if there is no room for one.

        What unnamed reporters said is dropped a day after the last of it.

        Returns:
            For each report, the count at its endpoint, never below 0.

        Raises:
            StoreUnavailable: Redis does not answer; some of the reports may count.
            TooManyReporters: A counter has 1,000 instances, or its partition 256 counters that are in use.
        """
        groups = _groups(reports)
        if len(groups) == 1:
            return await self._run(reports)
        # Several steps are all or none if room is made first. What is left of that when one is refused lapses.
        await asyncio.gather(*(self._run(group, "reserve") for group in groups))
        counted = await asyncio.gather(*(self._run(group, "count") for group in groups))
        by_field = {
            report.field: count
            for group, counts in zip(groups, counted, strict=True)
            for report, count in zip(group, counts, strict=True)
        }
        return [by_field[report.field] for report in reports]

    async def count(self, cluster: str, path: str) -> int | None:
        """Requests in flight at an endpoint; None if none were ever reported.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        field = _field(cluster, path)
        now = str(now_of(self._now_ms))
        count: int | None = await self._link.script("requests/count", tag_of(field), now, field)
        return None if count is None else max(0, count)

    async def _run(
        self, reports: Sequence[RequestReport], stage: Literal["reserve", "count"] | None = None
    ) -> list[int]:
        argument: ReportArgument = {"reports": [report.argument() for report in reports], **stamp(self._now_ms)}
        if stage is not None:
            argument["stage"] = stage
        tag = tag_of(reports[0].field)
        reply: list[int] | bytes = await self._link.script("requests/report", tag, pack(argument))
        if isinstance(reply, bytes):
            raise TooManyReporters(reply.decode())
        return reply


def _groups(reports: Sequence[RequestReport]) -> list[list[RequestReport]]:
    """What goes to Redis together: reports of one partition, and not too many."""
    by_tag: dict[str, list[RequestReport]] = {}
    for report in reports:
        by_tag.setdefault(tag_of(report.field), []).append(report)
    return [
        group[first : first + MOST_AT_ONCE]
        for group in by_tag.values()
        for first in range(0, len(group), MOST_AT_ONCE)
    ]


def _field(cluster: str, path: str) -> str:
    # A quoted name has no blank, so no other cluster and path make the same field.
    return f"{quote(cluster, safe='')} {path}"
