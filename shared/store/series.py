"""What happened at an endpoint, by time: counts, how things stood, and how long tasks waited and ran.

The steps of a queue count it (``lua/includes/queue/count.lua``), so it costs next to nothing, and no more where there
are many tasks. Durations are counted in bins that are the same everywhere, each reaching twice as far as the one
before: a percentile is right within its bin.

What was counted is also kept as a sum, for as long as an endpoint is in use: that only grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Self, cast

from shared.store.arguments import Clock, OldestArgument, now_of
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, NOT_PACKED, by_tag, pack, tag_of, texts, unpack
from shared.tasks.task import State

MINUTE_MS: Final = 60_000
SPANS_MIN: Final = (1, 10, 60)
"""How many minutes a row is of."""
KEPT_MIN: Final = (360, 7 * 1440, 90 * 1440)
"""For how many minutes rows of each span are kept: six hours, seven days, ninety days."""
COUNTS: Final = ("created", "retried", "cancelled", "failed", "completed")
OTHER: Final = "other"
"""In place of a path: what the least used ones had."""
FIRST_BIN_S: Final = 0.1
"""Where the first bin ends. It has its end, like all others."""
LAST_BIN: Final = 21
"""It has no end."""
_PATHS_AT_ONCE: Final = 100
"""How many paths one script reads: no other call waits for more than these."""
_NO_ROW: Final = (*NOT_PACKED, TypeError, KeyError, IndexError, AttributeError, OverflowError)
_WAITED: Final = 32
_RAN: Final = 64
_GAUGES_AT: Final = 1 + len(COUNTS)
_BINS_AT: Final = _GAUGES_AT + 4


class Ended(NamedTuple):
    """How a task ended at an endpoint, or that it waits there again."""

    how: State | Literal["retried"]
    waited_ms: int | None = None
    """How long it had waited for its first dispatch, if nobody has counted that."""


@dataclass(slots=True)
class Bucket:
    """What happened at an endpoint in one span of time.

    Attributes:
        counts: by the names in ``COUNTS``; None if that is not known, as of times before the first row.
        waiting: how many tasks waited at its end, or wait now; None if that is not known, like the next three.
        in_flight: how many held a slot.
        slots: how many the backend was known to hold.
        oldest_waiting_ms: how long the oldest one that waited had waited.
        waits, runs: how many waited before their first dispatch, or ran until they were completed, by bin.
    """

    start_ms: int
    counts: dict[str, int] | None = None
    waiting: int | None = None
    in_flight: int | None = None
    slots: int | None = None
    oldest_waiting_ms: int | None = None
    waits: dict[int, int] = field(default_factory=dict[int, int])
    runs: dict[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True)
class Totals:
    """What was counted at an endpoint since it is in use, and how its queue stands.

    Attributes:
        counts: by the names in ``COUNTS``.
        limit: how many tasks its backend is given at most; None: any number.
        rate: how many tasks it is given within a second at most; None: any number.
        waits, runs: as in a bucket.
    """

    counts: Mapping[str, int]
    waiting: int
    in_flight: int
    slots: int
    limit: int | None
    rate: float | None
    paused: bool
    waits: Mapping[int, int]
    runs: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Row:
    minute: int
    counts: Sequence[int]
    gauges: tuple[int, int, int, int]
    """Waiting, in flight, slots, since when the oldest one waits (0: not known)."""
    waits: Mapping[int, int]
    runs: Mapping[int, int]

    @classmethod
    def parse(cls, packed: bytes) -> Self | None:
        """None for what is no row: somebody else wrote it."""
        try:
            row = unpack(packed)
            waits, runs = (_bins(flat) for flat in row[_BINS_AT : _BINS_AT + 2])
            waiting, in_flight, slots, since_ms = map(int, row[_GAUGES_AT:_BINS_AT])
            counts = [*map(int, row[1:_GAUGES_AT])]
            return cls(int(row[0]), counts, (waiting, in_flight, slots, since_ms), waits, runs)
        except _NO_ROW:
            return None

    @classmethod
    def current(cls, packed: bytes | None) -> Self | None:
        """What a queue's state has counted and not added to the rows yet."""
        try:
            state = unpack(packed or b"")
            tallies = state.get("M", "").encode(errors="surrogateescape")
            minute = int(state["t"] // MINUTE_MS)
            gauges = int(state["w"]), int(state["h"]), int(state["l"]), int(state.get("S", 0))
        except _NO_ROW:
            return None
        counts, waits, runs = [0] * len(COUNTS), dict[int, int](), dict[int, int]()
        for tally in tallies:
            if tally >= _RAN:
                counts[COUNTS.index("completed")] += 1
                _count(runs, {min(tally - _RAN, LAST_BIN): 1})
            elif tally >= _WAITED:
                _count(waits, {min(tally - _WAITED, LAST_BIN): 1})
            elif 1 <= tally <= len(counts):  # others are of a later version
                counts[tally - 1] += 1
        return cls(minute, counts, gauges, waits, runs)


class EndpointSeries:
    """The series of all endpoints. Raises :class:`StoreUnavailable` from every method if Redis does not answer."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def paths(self) -> list[str]:
        """The endpoint paths of which anything was counted. ``OTHER`` has what the least used ones had."""
        parts = await asyncio.gather(*(self._link.script("queue/series_paths", tag) for tag in HASH_TAGS))
        return sorted(texts(path for part in parts for path in part))

    async def note_oldest(self, waited_ms: Mapping[str, int]) -> None:
        """Note for how long the oldest task of each path has waited: a queue knows it only until that one goes."""
        arguments: list[tuple[str, OldestArgument]] = [
            (tag, {"now": now_of(self._now_ms), "oldest": [(path, waited_ms[path]) for path in paths]})
            for tag, paths in _groups(waited_ms)
        ]
        await asyncio.gather(*(self._link.script("queue/note_oldest", tag, pack(each)) for tag, each in arguments))

    async def totals(self, paths: Sequence[str]) -> dict[str, Totals]:
        """What was counted at each of the *paths* in all, and how its queue stands. A sum begins again at 0 if its
        path was not used for ninety days, or if the path has become a part of ``OTHER``."""
        found: dict[str, Totals] = {}
        groups = _groups(paths)
        replies = await asyncio.gather(*(self._link.script("queue/totals", tag, *names) for tag, names in groups))
        for (_, names), reply in zip(groups, replies, strict=True):
            for at, name in enumerate(names):
                found[name] = _totals(*reply[4 * at : 4 * at + 4])
        return found

    async def read(self, path: str, start_ms: int, end_ms: int, step_ms: int, now_ms: int) -> list[Bucket]:
        """What happened at *path* in each step from *start_ms* to before *end_ms*.

        Args:
            step_ms: a multiple of the span that :func:`span_of` has for *start_ms*, as *start_ms* is of it.
        """
        span = span_of(start_ms, now_ms)
        most = (now_ms - start_ms) // (SPANS_MIN[span] * MINUTE_MS) + 2
        tags = HASH_TAGS if path == OTHER else (tag_of(path),)
        packed = pack({"path": path, "span": span + 1, "most": most})
        first, *more = [
            _buckets(_rows(rows, state), start_ms, end_ms, step_ms, now_ms)
            for rows, state in await asyncio.gather(*(self._link.script("queue/series", tag, packed) for tag in tags))
        ]
        for buckets in more:
            first = [_sum(*pair) for pair in zip(first, buckets, strict=True)]
        return first


def _groups(paths: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The paths of each run of a script, with the tag of their partition."""
    return [
        (tag, names[start : start + _PATHS_AT_ONCE])
        for tag, names in by_tag(paths).items()
        for start in range(0, len(names), _PATHS_AT_ONCE)
    ]


def _totals(total: bytes | None, state: bytes | None, settings: bytes | None, record: bytes | None) -> Totals:
    current = _Row.current(state)
    known = [row for row in (_Row.parse(total or b""), current) if row]
    waits, runs = dict[int, int](), dict[int, int]()
    for row in known:
        _count(waits, row.waits)
        _count(runs, row.runs)
    waiting, in_flight, slots, _ = current.gauges if current else (0, 0, 0, 0)
    limit, rate, paused = _bounds(state, settings, record)
    return Totals(
        {name: sum(row.counts[at] for row in known) for at, name in enumerate(COUNTS)},
        waiting,
        in_flight,
        slots,
        limit,
        rate,
        paused,
        waits,
        runs,
    )


def _bounds(
    state: bytes | None, settings: bytes | None, record: bytes | None
) -> tuple[int | None, float | None, bool]:
    """The limit and the rate that apply, and whether the queue is paused. Settings that were lost are in their
    record, as ``lua/includes/queue/state.lua`` has it."""
    own, configured = _map(settings), _map(state)
    if not own and (configured.get("K") or not configured):
        own = _map(record)
    limit = own.get("limit") or configured.get("i")
    match own.get("rate") or configured.get("R"):
        case [int(tasks), int(window_ms), *_] if window_ms > 0:
            rate = tasks * 1000 / window_ms
        case _:
            rate = None
    return (int(limit) if isinstance(limit, int | float) and limit else None), rate, bool(own.get("paused"))


def _map(packed: bytes | None) -> Mapping[str, Any]:
    try:
        found = unpack(packed or b"")
    except NOT_PACKED:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def span_of(start_ms: int, now_ms: int) -> int:
    """Which of ``SPANS_MIN`` has rows back to *start_ms*; the last one if none has."""
    for span, kept_min in enumerate(KEPT_MIN):
        if now_ms - start_ms <= kept_min * MINUTE_MS:
            return span
    return len(KEPT_MIN) - 1


def percentile_s(bins: Mapping[int, int], share: float) -> float | None:
    """The duration that a *share* of those counted did not exceed, in seconds; None if none was counted. Within a
    bin, durations are taken to be spread evenly on a logarithmic scale."""
    total = sum(bins.values())
    below, wanted = 0, share * total
    for number, count in sorted(bins.items()):
        if below + count >= wanted and count:
            end_s = FIRST_BIN_S * 2**number
            return end_s / 2 if number == LAST_BIN else end_s * 2 ** ((wanted - below) / count - 1)
        below += count
    return None


def _rows(packed: Iterable[bytes], state: bytes | None) -> list[_Row]:
    rows = [*map(_Row.parse, packed), _Row.current(state)]
    # In their order, whoever wrote them.
    return sorted((row for row in rows if row), key=lambda row: row.minute)


def _buckets(rows: Sequence[_Row], start_ms: int, end_ms: int, step_ms: int, now_ms: int) -> list[Bucket]:
    buckets = [Bucket(at_ms) for at_ms in range(start_ms, end_ms, step_ms)]
    for bucket, following in _in_steps(rows, buckets, step_ms):
        last_ms = min(bucket.start_ms + step_ms, now_ms)
        if rows and rows[0].minute * MINUTE_MS < last_ms:
            bucket.counts = dict.fromkeys(COUNTS, 0)
        for row in following.inside:
            for name, count in zip(COUNTS, row.counts, strict=True):
                assert bucket.counts is not None
                bucket.counts[name] += count
            _count(bucket.waits, row.waits)
            _count(bucket.runs, row.runs)
        if following.last is not None:
            bucket.waiting, bucket.in_flight, bucket.slots, since_ms = following.last.gauges
            if not bucket.waiting:
                bucket.oldest_waiting_ms = 0
            elif since_ms:
                bucket.oldest_waiting_ms = max(0, last_ms - since_ms)
    return buckets


@dataclass(slots=True)
class _Following:
    inside: list[_Row]
    last: _Row | None


def _in_steps(rows: Sequence[_Row], buckets: Sequence[Bucket], step_ms: int) -> Iterator[tuple[Bucket, _Following]]:
    """Each bucket with the rows inside it, and the last one up to its end: a gauge keeps its value."""
    at, last = 0, None
    for bucket in buckets:
        inside: list[_Row] = []
        while at < len(rows) and rows[at].minute * MINUTE_MS < bucket.start_ms + step_ms:
            last = rows[at]
            if last.minute * MINUTE_MS >= bucket.start_ms:
                inside.append(last)
            at += 1
        yield bucket, _Following(inside, last)


def _sum(one: Bucket, other: Bucket) -> Bucket:
    counts = [each for each in (one.counts, other.counts) if each is not None]
    total = {name: sum(each[name] for each in counts) for name in COUNTS} if counts else None
    both = Bucket(one.start_ms, total, waits=dict(one.waits), runs=dict(one.runs))
    _count(both.waits, other.waits)
    _count(both.runs, other.runs)
    return both


def _count(bins: dict[int, int], more: Mapping[int, int]) -> None:
    for number, count in more.items():
        bins[number] = bins.get(number, 0) + count


def _bins(flat: Sequence[Any]) -> dict[int, int]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {int(number): int(count) for number, count in pairs if 0 <= number <= LAST_BIN}
