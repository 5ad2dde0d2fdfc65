"""The legacy platform's two metric timers (contract A5), and what they tell of the queues (B22)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import azure.functions as func

from shared import gauges, telemetry
from shared.services import ServicesByLoop
from shared.store import Depth, QueueStatus, StoreUnavailable

log = logging.getLogger("task_backbone")

RUNS_PER_ZERO: Final = 10
"""A number that stays 0 is reported by one run of so many: five minutes of ``TaskQueueLogger``. Telemetry is paid by
its size, also while the app is idle."""
RUNS_PER_AVAILABLE: Final = 4
"""That the app is available is reported by one run of so many: two minutes, so that its silence is soon noticed."""
PROBE_TIMEOUT_S: Final = 3.0
"""As long as health waits for Redis."""
QUEUES_AT_ONCE: Final = 50
"""How many queues a timer reads at a time: other calls go between."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    waiting, working = _Depths(services, open_only=True), _Depths(services)
    queues, availability = _Queues(services), _Availability(services)

    async def report_waiting() -> None:
        depths = await waiting.read()
        for path, depth in depths.items():
            oldest_s = depth.oldest_waiting_ms / 1000
            if waiting.is_news(path, "oldest waiting", oldest_s):
                gauges.OLDEST_WAITING.set(oldest_s, path=path)
                gauges.OLDEST_WAIT.set(oldest_s, path=path)
            waiting.report(path, "created", depth.created)
        await queues.report_open(waiting, depths)
        waited_ms = {path: depth.oldest_waiting_ms for path, depth in depths.items() if depth.created}
        await services.current().store.series.note_oldest(waited_ms)

    async def report_working() -> None:
        depths = await working.read()
        for path, depth in depths.items():
            working.report(path, "dispatched", depth.dispatched)
            working.report(path, "running", depth.running)
            working.report(path, "completed", depth.completed)
            working.report(path, "failed", depth.failed)
            working.report(path, "cancelled", depth.cancelled)
            working.report_delayed(path, depth.delayed)
        await queues.report(working, (path for path, depth in depths.items() if not depth.is_open))

    async def task_queue_logger(timer: func.TimerRequest) -> None:
        await availability.report()
        await _sent(report_waiting)

    async def task_process_logger(timer: func.TimerRequest) -> None:
        await _sent(report_working)

    for name, schedule, logger in (
        ("TaskQueueLogger", "*/30 * * * * *", task_queue_logger),
        ("TaskProcessLogger", "0 */5 * * * *", task_process_logger),
    ):
        app.function_name(name)(
            app.timer_trigger("timer", schedule=schedule, run_on_startup=False, use_monitor=True)(logger)
        )


async def _sent(report: Callable[[], Awaitable[None]]) -> None:
    try:
        await report()
    except StoreUnavailable as error:
        # The other telemetry that waits to be sent tells of the outage.
        log.warning("the queue depths could not be read, and will be: %s", error)
    await asyncio.to_thread(telemetry.flush)


class _Availability:
    """Whether the app is available, as ``GET v1/health`` says it."""

    def __init__(self, services: ServicesByLoop) -> None:
        self._services = services
        self._runs = 0
        """For how many runs it has been."""

    async def report(self) -> None:
        if not await self._is_available():
            self._runs = 0
            gauges.UNAVAILABLE.set(1)
            return
        if self._runs % RUNS_PER_AVAILABLE == 0:
            gauges.UNAVAILABLE.set(0)
        self._runs += 1

    async def _is_available(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._services.current().store.ping()
        except (StoreUnavailable, TimeoutError):
            return False
        return True


class _Depths:
    """The depths of all paths for one timer. A path whose last task was removed is reported as 0 once, not left at
    its last number, and then forgotten.

    Args:
        open_only: whether tasks that have ended need not be counted.
    """

    def __init__(self, services: ServicesByLoop, *, open_only: bool = False) -> None:
        self._services = services
        self._open_only = open_only
        self._seen: set[str] = set()
        self._gone: set[str] = set()
        self._runs_at_0: dict[str, dict[str, int]] = {}
        """For how many runs a number of a path has been 0, by its name."""
        self._with_delayed: set[str] = set()

    async def read(self) -> dict[str, Depth]:
        """
        Raises:
            StoreUnavailable: Redis does not answer.
        """
        depths = await self._count()
        for path in self._gone - depths.keys():
            self._runs_at_0.pop(path, None)
        self._gone, self._seen = self._seen - depths.keys(), set(depths)
        return {**dict.fromkeys(self._gone, Depth()), **depths}

    def report(self, path: str, state: str, count: int) -> None:
        if self.is_news(path, state, count):
            gauges.DEPTH.set(count, path=path, state=state)

    def report_delayed(self, path: str, count: int) -> None:
        """As :meth:`report`, but a 0 only once: few paths ever have a delayed task."""
        if count:
            self._with_delayed.add(path)
        elif path in self._with_delayed:
            self._with_delayed.discard(path)
        else:
            return
        gauges.DEPTH.set(count, path=path, state="delayed")

    def is_news(self, path: str, name: str, number: float) -> bool:
        """Whether to report *number*: always, unless it is 0 and was 0 in the last report too."""
        at_0 = self._runs_at_0.setdefault(path, {})
        if number:
            at_0.pop(name, None)
            return True
        at_0[name] = runs = at_0.get(name, -1) + 1
        return runs % RUNS_PER_ZERO == 0

    async def _count(self) -> dict[str, Depth]:
        queues = self._services.current().store.queues
        if not self._open_only:
            return await queues.depths()
        # Many paths may have no tasks but such that have ended. What these have open is known without a count: 0.
        paths, is_open = await asyncio.gather(queues.paths(), queues.paths(has_open=True))
        return {**dict.fromkeys(paths, Depth()), **(await queues.depths(*is_open) if is_open else {})}


class _Queues:
    """How the queues stand: those with open tasks by the timer that runs often, and once more when these have ended;
    all others by the other one."""

    def __init__(self, services: ServicesByLoop) -> None:
        self._services = services
        self._open: set[str] = set()

    async def report_open(self, timer: _Depths, depths: dict[str, Depth]) -> None:
        is_open = {path for path, depth in depths.items() if depth.is_open}
        ended, self._open = self._open - is_open, is_open
        await self.report(timer, is_open | ended)

    async def report(self, timer: _Depths, paths: Iterable[str]) -> None:
        """Report how the queues of *paths* stand, of as many as a gauge has series; and of one more, by which it is
        told that there are more.

        Raises:
            StoreUnavailable: Redis or one of its nodes does not answer.
        """
        known = sorted(paths)[: gauges.SERIES_LIMIT + 1]
        queues = self._services.current().store.queues
        for first in range(0, len(known), QUEUES_AT_ONCE):
            some = known[first : first + QUEUES_AT_ONCE]
            for path, status in zip(some, await asyncio.gather(*map(queues.status, some)), strict=True):
                _report(timer, path, status)


def _report(timer: _Depths, path: str, status: QueueStatus) -> None:
    for gauge, number in (
        (gauges.WAITING, status.waiting),
        (gauges.IN_FLIGHT, status.holding),
        (gauges.SLOTS, status.slots),
        (gauges.LIMIT, status.limit),
        (gauges.PAUSED, int(status.paused)),
        (gauges.RATE_WAIT, status.rate_wait_ms / 1000 if status.rate else None),
    ):
        if number is not None and timer.is_news(path, gauge.name, number):
            gauge.set(number, path=path)
