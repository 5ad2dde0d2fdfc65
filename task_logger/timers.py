"""The legacy platform's two metric timers (contract A5)."""

from __future__ import annotations

import asyncio
import logging

import azure.functions as func

from shared import telemetry
from shared.services import ServicesByLoop
from shared.store import Depth, StoreUnavailable

log = logging.getLogger("task_backbone")


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    depths = _Depths(services)

    async def task_queue_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await depths.read()).items():
            telemetry.depth(path, "created", depth.created)
        await asyncio.to_thread(telemetry.flush)

    async def task_process_logger(timer: func.TimerRequest) -> None:
        for path, depth in (await depths.read()).items():
            telemetry.depth(path, "dispatched", depth.dispatched)
            telemetry.depth(path, "running", depth.running)
            telemetry.depth(path, "completed", depth.completed)
            telemetry.depth(path, "failed", depth.failed)
        await asyncio.to_thread(telemetry.flush)

    for name, schedule, logger in (
        ("TaskQueueLogger", "*/30 * * * * *", task_queue_logger),
        ("TaskProcessLogger", "0 */5 * * * *", task_process_logger),
    ):
        app.function_name(name)(
            app.timer_trigger("timer", schedule=schedule, run_on_startup=False, use_monitor=True)(logger)
        )


class _Depths:
    """The depths of all paths that this process has seen. A path whose last task was removed is reported as 0, since
    its gauge would keep its last value for ever."""

    def __init__(self, services: ServicesByLoop) -> None:
        self._services = services
        self._seen: set[str] = set()

    async def read(self) -> dict[str, Depth]:
        try:
            depths = await self._services.current().store.queues.depths()
        except StoreUnavailable as error:
            # The other telemetry that waits to be sent tells of the outage.
            log.warning("the queue depths could not be read, and will be: %s", error)
            return {}
        self._seen.update(depths)
        return {path: depths.get(path, Depth()) for path in self._seen}
