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
    waiting, working = _Depths(services, open_only=True), _Depths(services)

    async def task_queue_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await waiting.read()).items():
            if waiting.is_news(path, "oldest waiting", depth.oldest_waiting_ms):
                telemetry.oldest_waiting(path, depth.oldest_waiting_ms / 1000)
            waiting.report(path, "created", depth.created)
        await asyncio.to_thread(telemetry.flush)

    async def task_process_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await working.read()).items():
            working.report(path, "dispatched", depth.dispatched)
            working.report(path, "running", depth.running)
            working.report(path, "completed", depth.completed)
            working.report(path, "failed", depth.failed)
            working.report(path, "cancelled", depth.cancelled)
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
        self._gone: set[str] = set()
        self._runs_at_0: dict[str, dict[str, int]] = {}
        """For how many runs a number of a path has been 0, by its name."""

    async def read(self) -> dict[str, Depth]:
        try:
            depths = await self._count()
        except StoreUnavailable as error:
            # The other telemetry that waits to be sent tells of the outage.
            log.warning("the queue depths could not be read, and will be: %s", error)
            return {}
        for path in self._gone - depths.keys():
            self._runs_at_0.pop(path, None)
        self._gone, self._seen = self._seen - depths.keys(), set(depths)
        return {**dict.fromkeys(self._gone, Depth()), **depths}

    def report(self, path: str, state: str, count: int) -> None:
        if self.is_news(path, state, count):
            telemetry.depth(path, state, count)

    def is_news(self, path: str, name: str, number: int) -> bool:
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
