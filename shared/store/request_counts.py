"""Requests in flight at the model services, as these report them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, unquote

from shared.store.arguments import Clock, ReportArgument, now_of, stamp
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, by_tag, pack, tag_of, texts, to_ms

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


@dataclass(frozen=True, slots=True)
class RequestCount:
    """The requests in flight at an endpoint.

    Attributes:
        reported_ms: when the last report came; None if that is not known.
    """

    cluster: str
    path: str
    count: int
    reported_ms: int | None


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

    async def page(self, limit: int, behind: str = "") -> tuple[list[RequestCount], str | None]:
        """Some of the counters, and the place in the list at which the next page begins; None: this is the last one.
        What instances said that have fallen silent does not count. A page may have fewer counters than the limit.

        Args:
            behind: the place at which this one begins; empty: the first page.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        parts = await asyncio.gather(*(self._link.script("requests/fields", tag) for tag in HASH_TAGS))
        # Not in the order of Lua, which goes by the server's locale.
        fields = sorted(field for field in texts(each for part in parts for each in part) if field > behind)
        page = fields[:limit]
        counted = await asyncio.gather(*(self._counts(tag, some) for tag, some in by_tag(page).items()))
        counts = {field: count for part in counted for field, count in part.items()}
        return [counts[field] for field in page if field in counts], page[-1] if len(fields) > limit else None

    async def _counts(self, tag: str, fields: Sequence[str]) -> dict[str, RequestCount]:
        rows = await self._link.script("requests/counts", tag, str(now_of(self._now_ms)), *fields)
        return {field: _count(field, *row) for field, row in zip(fields, rows, strict=True) if row}

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


def _count(field: str, count: int, reported_ms: int) -> RequestCount:
    cluster, _, path = field.partition(" ")
    return RequestCount(unquote(cluster), path, max(0, count), reported_ms or None)


def _field(cluster: str, path: str) -> str:
    # A quoted name has no blank, so no other cluster and path make the same field.
    return f"{quote(cluster, safe='')} {path}"
