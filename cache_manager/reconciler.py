"""The reconciler: finds by their deadlines the tasks that nothing else moves on, and looks after the queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import azure.functions as func

from shared import telemetry
from shared.bodies import BlobsUnavailable
from shared.events.publisher import PublishFailed
from shared.services import Services, ServicesByLoop
from shared.store import StoreUnavailable
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    async def reconciler(timer: func.TimerRequest) -> None:
        try:
            await reconcile(services.current())
        except StoreUnavailable as error:
            log.warning("the reconciler could not reach Redis, and will try again: %s", error)

    app.function_name("Reconciler")(
        app.timer_trigger(
            "timer", schedule=services.settings.reconciler_schedule, run_on_startup=False, use_monitor=False
        )(reconciler)
    )


async def reconcile(services: Services) -> int:
    """Take the next step for what is overdue, remove what is past retention, look after the queues. Two runs at once
    do no harm.

    Returns:
        How many tasks were overdue.

    Raises:
        StoreUnavailable: Redis or one of its nodes does not answer. What the other nodes hold was handled.
    """
    count = 0
    dispatcher = services.dispatcher
    # Completions of the same moment share a request, so no transition waits for another's.
    transitions: list[asyncio.Future[bool]] = []
    try:
        async for swept in services.store.sweep():
            count += swept.count
            dispatcher.dispatch_granted(swept.granted)
            for applied in swept.applied:
                telemetry.setback(applied.task, applied.task.status)
            transitions += [asyncio.ensure_future(dispatcher.after_transition(applied)) for applied in swept.applied]
            await asyncio.gather(
                dispatcher.publish_completions(swept.unpublished, bypass_circuit=True),
                _remove(services, swept.with_blobs),
            )
    finally:
        await asyncio.gather(*transitions)
    await asyncio.gather(*(_maintain(services, path) for path in await services.store.queues.paths()))
    return count


async def _maintain(services: Services, path: str) -> None:
    async for change in services.store.queues.maintain(path):
        services.dispatcher.dispatch_granted(change.granted)
        for applied in change.applied:
            telemetry.setback(applied.task, applied.task.status)
            await services.dispatcher.after_transition(applied)
        if change.undelivered:
            await _publish_again(services, change.undelivered)


async def _publish_again(services: Services, tasks: Sequence[Task]) -> None:
    try:
        await services.publisher.publish_dispatches(tasks, bypass_circuit=True)
    except PublishFailed as error:
        log.warning("%d overdue tasks could not be published, and will be: %s", len(tasks), error)


async def _remove(services: Services, task_ids: Sequence[str]) -> None:
    if not task_ids:
        return
    removed: list[str] = []
    for task_id in task_ids:
        try:
            await services.bodies.delete_all(task_id)
        except BlobsUnavailable as error:
            log.warning("the blobs of finished tasks could not be deleted, and will be: %s", error)
            break
        removed.append(task_id)
    await services.store.purge(removed)
