"""The legacy platform's two metric timers (contract A5)."""

from __future__ import annotations

import asyncio
import logging

import azure.functions as func

from shared import telemetry
from shared.services import ServicesByLoop
from shared.store import Depth, StoreUnavailable

log = logging.getLogger("task_backbone")

RUNS_PER_ZERO = 10
"""A number that stays 0 is reported by one run of so many: five minutes of ``TaskQueueLogger``. Telemetry is paid by
its size, also while the app is idle."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    waiting, working, lately = _Depths(services, open_only=True), _Depths(services), _Lately()

    def report(path: str, state: str, count: int) -> None:
        if lately.is_news((path, state), count):
            telemetry.depth(path, state, count)

    async def task_queue_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await waiting.read()).items():
            if lately.is_news((path, "oldest waiting"), depth.oldest_waiting_ms):
                telemetry.oldest_waiting(path, depth.oldest_waiting_ms / 1000)
            report(path, "created", depth.created)
        await asyncio.to_thread(telemetry.flush)

    async def task_process_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await working.read()).items():
            report(path, "dispatched", depth.dispatched)
            report(path, "running", depth.running)
            report(path, "completed", depth.completed)
            report(path, "failed", depth.failed)
            report(path, "cancelled", depth.cancelled)
        await asyncio.to_thread(telemetry.flush)

    for name, schedule, logger in (
        ("TaskQueueLogger", "*/30 * * * * *", task_queue_logger),
        ("TaskProcessLogger", "0 */5 * * * *", task_process_logger),
    ):
        app.function_name(name)(
            app.timer_trigger("timer", schedule=schedule, run_on_startup=False, use_monitor=True)(logger)
        )


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

    async def read(self) -> dict[str, Depth]:
        try:
            depths = await self._count()
        except StoreUnavailable as error:
            # The other telemetry that waits to be sent tells of the outage.
            log.warning("the queue depths could not be read, and will be: %s", error)
            return {}
        gone, self._seen = self._seen - depths.keys(), set(depths)
        return {**dict.fromkeys(gone, Depth()), **depths}

    async def _count(self) -> dict[str, Depth]:
        queues = self._services.current().store.queues
        if not self._open_only:
            return await queues.depths()
        # Many paths may have no tasks but such that have ended. What these have open is known without a count: 0.
        paths, is_open = await asyncio.gather(queues.paths(), queues.paths(has_open=True))
        return {**dict.fromkeys(paths, Depth()), **(await queues.depths(*is_open) if is_open else {})}


class _Lately:
    """The numbers that this process has reported lately, by their names."""

    def __init__(self) -> None:
        self._runs_at_0: dict[tuple[str, str], int] = {}

    def is_news(self, name: tuple[str, str], number: int) -> bool:
        """Whether to report *number*: always, unless it is 0 and was 0 in the last report too."""
        if len(self._runs_at_0) > telemetry.SERIES_LIMIT:
            self._runs_at_0.clear()  # mostly of paths that are gone
        if number:
            self._runs_at_0.pop(name, None)
            return True
        runs = self._runs_at_0.get(name, 0)
        self._runs_at_0[name] = runs + 1
        return runs % RUNS_PER_ZERO == 0
