"""The JSON of the series of an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.http.times import IsoTime, iso
from shared.store import Bucket, percentile_s

Counts = list[int | None]
Seconds = list[float | None]


def _alias(name: str) -> str:
    return to_pascal(name.removesuffix("_"))  # a keyword of Python has one


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=_alias, populate_by_name=True, use_attribute_docstrings=True)


class Percentiles(_Document):
    """In seconds; null where nothing was counted."""

    p50: Seconds
    p95: Seconds
    p99: Seconds

    @classmethod
    def of(cls, bins: Sequence[Mapping[int, int]]) -> Self:
        at_50, at_95, at_99 = (
            [None if (found := percentile_s(each, share)) is None else round(found, 3) for each in bins]
            for share in (0.5, 0.95, 0.99)
        )
        return cls(p50=at_50, p95=at_95, p99=at_99)


class Series(_Document):
    """What happened at one endpoint, by time. Each list has a number for each of the times; null: it is not known."""

    path: str
    """The endpoint's. `other`: what endpoints had that have not been used for long."""
    from_: IsoTime
    to: IsoTime
    step_seconds: int
    times: list[IsoTime]
    """When each step begins."""
    created: Counts
    """How many tasks came: new ones, and those that a pipeline sent on."""
    completed: Counts
    failed: Counts
    cancelled: Counts
    retried: Counts
    """How often a task that had been dispatched went back to its queue."""
    waiting: Counts
    """How many tasks waited in the queue at the end of the step, or wait now."""
    in_flight: Counts
    slots: Counts
    oldest_waiting_seconds: Seconds
    wait_seconds: Percentiles
    """How long tasks waited before they were dispatched first."""
    run_seconds: Percentiles
    """How long the tasks ran that were completed, from their last dispatch."""

    @classmethod
    def of(cls, path: str, buckets: Sequence[Bucket], start_ms: int, end_ms: int, step_ms: int) -> Self:
        def count(name: str) -> Counts:
            return [bucket.counts[name] if bucket.counts else None for bucket in buckets]

        ages = [bucket.oldest_waiting_ms for bucket in buckets]
        return cls(
            path=path,
            from_=iso(start_ms),
            to=iso(end_ms),
            step_seconds=step_ms // 1000,
            times=[iso(bucket.start_ms) for bucket in buckets],
            created=count("created"),
            completed=count("completed"),
            failed=count("failed"),
            cancelled=count("cancelled"),
            retried=count("retried"),
            waiting=[bucket.waiting for bucket in buckets],
            in_flight=[bucket.in_flight for bucket in buckets],
            slots=[bucket.slots for bucket in buckets],
            oldest_waiting_seconds=[None if age is None else age / 1000 for age in ages],
            wait_seconds=Percentiles.of([bucket.waits for bucket in buckets]),
            run_seconds=Percentiles.of([bucket.runs for bucket in buckets]),
        )


class SeriesList(_Document):
    series: list[Series]
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""
