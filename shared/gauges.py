"""The app's gauges: numbers that Redis counts, as they are now. Their names and units are ``docs/telemetry.md``'s."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

log = logging.getLogger("task_backbone")

SERIES_LIMIT = 2_000
"""How many series a gauge has at a time. One that had no number for ``SILENT_S`` makes room."""
SERIES_IN_LIFE = 10_000
"""How many it has in the life of a process, for the SDK keeps 1.4 KB of each for ever."""
SILENT_S = 3_600
"""Longer than it takes until a number that stays 0 is reported again."""
CURRENT_S = 300
"""After so long a number that was not sent is no news: the platform may have frozen the instance meanwhile."""

_Series = tuple[tuple[str, str], ...]

_meter = metrics.get_meter("task_backbone")


class Gauge:
    """A gauge that sends each value once. The SDK's own would send the last value for ever, with each export, also
    from an instance whose timer has moved on to another."""

    def __init__(self, name: str, unit: str, description: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._now_s = now_s
        self._unsent: dict[_Series, tuple[float, float]] = {}
        self._set_s: OrderedDict[_Series, float] = OrderedDict()
        """When each series that has a place got its last number, in that order."""
        self._ever: set[_Series] = set()
        self._is_full = False
        self._lock = threading.Lock()
        _meter.create_observable_gauge(name, [self.observe], unit=unit, description=description)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def set(self, value: float, **attributes: str) -> None:
        series, now_s = tuple(attributes.items()), self._now_s()
        with self._lock:
            if self._has_place(series, now_s):
                self._set_s[series] = now_s
                self._set_s.move_to_end(series)
                self._ever.add(series)
                self._unsent[series] = value, now_s
                return
            is_first, self._is_full = not self._is_full, True
        if is_first:
            log.warning(
                "the metric %s has %d series now, or %d since this process began; it sends no others",
                self.name,
                SERIES_LIMIT,
                SERIES_IN_LIFE,
            )

    def _has_place(self, series: _Series, now_s: float) -> bool:
        if series in self._set_s:
            return True
        if series not in self._ever and len(self._ever) >= SERIES_IN_LIFE:
            return False
        if len(self._set_s) >= SERIES_LIMIT and now_s - next(iter(self._set_s.values())) >= SILENT_S:
            self._set_s.popitem(last=False)
        return len(self._set_s) < SERIES_LIMIT

    def observe(self, _options: CallbackOptions) -> list[Observation]:
        """What an export sends: the numbers since the last one."""
        with self._lock:
            unsent, self._unsent = self._unsent, {}
        since_s = self._now_s() - CURRENT_S
        return [
            Observation(value, dict(attributes)) for attributes, (value, set_s) in unsent.items() if set_s >= since_s
        ]


DEPTH: Final = Gauge("tasks.depth", "{task}", "Tasks by endpoint path and state, as Redis counts them.")
OLDEST_WAITING: Final = Gauge(
    "tasks.oldest_waiting_seconds", "s", "How long the oldest waiting task of a path has waited."
)
OLDEST_WAIT: Final = Gauge("queue.oldest_wait_s", "s", "How long the oldest task has waited in the queue.")
WAITING: Final = Gauge("queue.waiting", "{task}", "How many tasks wait in the queue for a slot.")
IN_FLIGHT: Final = Gauge("queue.in_flight", "{task}", "How many tasks hold a slot of the queue.")
SLOTS: Final = Gauge("queue.slots", "{task}", "How many tasks the backend is known to hold at a time.")
LIMIT: Final = Gauge("queue.limit", "{task}", "How many tasks the backend is given at most, if that is limited.")
PAUSED: Final = Gauge("queue.paused", "1", "1 if the queue is paused, 0 if it is not.")
RATE_WAIT: Final = Gauge(
    "queue.rate_wait_s", "s", "How long until the rate allows the next task, if there is a rate."
)
UNAVAILABLE: Final = Gauge("health.unavailable", "1", "1 if the app's health is unavailable, 0 if it is not.")
"""No reason to send all other metrics too, so it leaves with the next export."""
REQUESTS: Final = Gauge("requests.current", "{request}", "Requests in flight, as the model services report.")
ALL: Final = (DEPTH, OLDEST_WAITING, OLDEST_WAIT, WAITING, IN_FLIGHT, SLOTS, LIMIT, PAUSED, RATE_WAIT, REQUESTS)
