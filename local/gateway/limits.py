"""Counters of calls, a cache of responses and of values, and circuit breakers: what the gateway remembers."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.gateway.errors import GatewayError

Clock = Callable[[], float]
"""The time in seconds, of which only differences count."""
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


@dataclass(frozen=True)
class Count:
    """The state of a counter after a call.

    Parameters:
        remaining: how many calls are left.
        retry_after_s: when there will be one again; None if the call was within the limit.
    """

    remaining: int
    retry_after_s: float | None = None


class Counters:
    """Calls in windows that slide, each by a key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: dict[Hashable, deque[float]] = {}

    def count(self, key: Hashable, limit: int, period_s: float) -> Count:
        """Count a call, unless the limit is reached already."""
        now_s = self._clock()
        calls = self._calls.setdefault(key, deque())
        while calls and calls[0] <= now_s - period_s:
            calls.popleft()
        if len(calls) >= limit:
            return Count(0, calls[0] + period_s - now_s if calls else period_s)
        calls.append(now_s)
        return Count(limit - len(calls))


class Cache:
    """Values that end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[Hashable, tuple[float, Any]] = {}

    def get(self, key: Hashable) -> Any:
        until_s, value = self._entries.get(key, (0.0, None))
        return value if until_s > self._clock() else None

    def put(self, key: Hashable, value: object, duration_s: float) -> None:
        now_s = self._clock()
        self._entries = {known: entry for known, entry in self._entries.items() if entry[0] > now_s}
        self._entries[key] = (now_s + duration_s, value)


@dataclass(frozen=True)
class BreakerRule:
    """When a breaker trips, and for how long, as the backend entity has it."""

    count: int
    interval_s: float
    statuses: tuple[tuple[int, int], ...]
    error_reasons: tuple[str, ...]
    trip_s: float
    accepts_retry_after: bool

    @classmethod
    def parse(cls, rule: Mapping[str, Any], where: str) -> BreakerRule:
        """
        Raises:
            GatewayError: it holds what this gateway does not know.
        """
        _check_keys(rule, {"name", "failureCondition", "tripDuration", "acceptRetryAfter"}, where)
        condition = rule["failureCondition"]
        _check_keys(condition, {"count", "interval", "statusCodeRanges", "errorReasons"}, where)
        return cls(
            condition["count"],
            seconds(condition["interval"], where),
            tuple((span["min"], span["max"]) for span in condition.get("statusCodeRanges", ())),
            tuple(condition.get("errorReasons", ())),
            seconds(rule["tripDuration"], where),
            rule.get("acceptRetryAfter", False),
        )

    def is_failure(self, status: int | None, error_reason: str | None) -> bool:
        if status is None:
            return error_reason in self.error_reasons
        return any(lowest <= status <= highest for lowest, highest in self.statuses)


class Breaker:
    """Keeps calls from a backend that fails."""

    def __init__(self, rules: Sequence[BreakerRule], clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._failures: list[deque[float]] = [deque() for _ in rules]
        self._open_until_s = 0.0

    @property
    def open_s(self) -> float:
        """For how long it still lets no call through; 0 if it does."""
        return max(0.0, self._open_until_s - self._clock())

    def see(self, status: int | None, error_reason: str | None = None, retry_after_s: float | None = None) -> None:
        """Take notice of what a call has come to."""
        now_s = self._clock()
        for rule, failures in zip(self._rules, self._failures, strict=True):
            if not rule.is_failure(status, error_reason):
                continue
            failures.append(now_s)
            while failures[0] <= now_s - rule.interval_s:
                failures.popleft()
            if len(failures) >= rule.count:
                failures.clear()
                given = retry_after_s if rule.accepts_retry_after else None
                trip_s = rule.trip_s if given is None else given
                self._open_until_s = max(self._open_until_s, now_s + trip_s)


def seconds(duration: str, where: str) -> float:
    """Of an ISO 8601 duration, such as ``PT1M30S``."""
    match = _DURATION.fullmatch(duration)
    if match is None or not any(match.groups()):
        raise GatewayError(f"{where}: {duration!r} is no duration such as PT30S.")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _check_keys(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(entry.keys() - known):
        raise GatewayError(f"{where}: the local gateway knows no {', '.join(unknown)}.")
