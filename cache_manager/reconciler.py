"""The reconciler: finds by their deadlines the tasks that nothing else moves on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import azure.functions as func

from shared import telemetry
from shared.bodies import BlobsUnavailable
from shared.events import PublishFailed
from shared.services import Services, current_services, process_settings
from shared.task_store import PARTITIONS, SWEEP_LIMIT, Overdue, StoreUnavailable
from shared.transitions import announce

log = logging.getLogger("task_backbone")

blueprint = func.Blueprint()

MAX_ROUNDS = 50
PUBLISH_BATCH = 256
MAX_PUBLISHES = 2048
"""A run asks for no more overdue tasks once it has published so many: what an outage has dammed up is let out over
several runs, and does not flood dispatchers and backends at once."""


@blueprint.function_name("Reconciler")
@blueprint.timer_trigger(
    "timer", schedule=process_settings().reconciler_schedule, run_on_startup=False, use_monitor=False
)
async def reconciler(timer: func.TimerRequest) -> None:
    try:
        await reconcile(current_services())
    except StoreUnavailable as error:
        log.warning("the reconciler could not reach Redis, and comes back: %s", error)


async def reconcile(services: Services) -> int:
    """Publish what is overdue, end what was tried often enough, remove what is past retention.

    Two running at once do no harm: each overdue task is handed out once. Takes at most ``MAX_ROUNDS`` batches of
    each partition, and no more after ``MAX_PUBLISHES`` events; the next run goes on.

    Returns:
        How many tasks were overdue.

    Raises:
        StoreUnavailable: Redis does not answer, or a node of it; what the others hold was seen to.
    """
    count = publishes = 0
    away: StoreUnavailable | None = None
    partitions: Sequence[int] = range(PARTITIONS)
    for _ in range(MAX_ROUNDS):
        swept = await asyncio.gather(*(_sweep(services, partition) for partition in partitions))
        # While a node of a cluster is away, what was swept on the others is to be published all the same.
        away = next((items for items in swept if isinstance(items, StoreUnavailable)), away)
        found = [[] if isinstance(items, StoreUnavailable) else items for items in swept]
        overdue = [item for items in found for item in items]
        count += len(overdue)
        publishes += sum(item.must_publish for item in overdue)
        for item in overdue:
            if item.task is not None and item.transition:
                telemetry.transition(item.task)
        published, _, _ = await asyncio.gather(
            _publish(services, overdue),
            announce(services, [item.task for item in overdue if item.task is not None], insist=True),
            _remove(services, overdue),
        )
        partitions = [p for p, items in zip(partitions, found, strict=True) if len(items) == SWEEP_LIMIT]
        if not partitions or not published or publishes >= MAX_PUBLISHES:
            break
    if away is not None:
        raise away
    return count


async def _sweep(services: Services, partition: int) -> list[Overdue] | StoreUnavailable:
    try:
        return await services.store.sweep(partition)
    except StoreUnavailable as error:
        return error


async def _publish(services: Services, overdue: Sequence[Overdue]) -> bool:
    """Whether Event Grid took all that was to be published. If not, asking for more would only use up attempts."""
    tasks = [item.task for item in overdue if item.task is not None and item.must_publish]
    for start in range(0, len(tasks), PUBLISH_BATCH):
        batch = tasks[start : start + PUBLISH_BATCH]
        try:
            await services.events.publish(batch, insist=True)
        except PublishFailed as error:
            log.warning("%d overdue tasks could not be published, and will be: %s", len(tasks) - start, error)
            return False
    return True


async def _remove(services: Services, overdue: Sequence[Overdue]) -> None:
    removed: list[str] = []
    for item in overdue:
        if item.what == "blobs":
            try:
                await services.bodies.delete_all(item.id)
            except BlobsUnavailable as error:
                log.warning("the blobs of finished tasks could not be deleted, and will be: %s", error)
                break
            removed.append(item.id)
    await services.store.forget(removed)
