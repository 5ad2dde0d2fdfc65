"""The reconciler: finds by their deadlines the tasks that nothing else moves on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import azure.functions as func

from shared.bodies import BlobsUnavailable
from shared.events import PublishFailed
from shared.services import Services, current_services, process_settings
from shared.task import State, Task
from shared.task_store import (
    PARTITIONS,
    SWEEP_LIMIT,
    Grant,
    Left,
    Moved,
    Overdue,
    StoreUnavailable,
    Turn,
)

log = logging.getLogger("task_backbone")

blueprint = func.Blueprint()

MAX_ROUNDS = 50
BATCH = 256


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
    """Take the next step for what is overdue, remove what is past retention, look after the queues.

    Two running at once do no harm: each overdue task is handed out once. Takes at most ``MAX_ROUNDS`` batches of each
    partition; the next run goes on.

    Returns:
        How many tasks were overdue.

    Raises:
        StoreUnavailable: Redis does not answer, or a node of it; what the others hold was seen to.
    """
    count = 0
    away: StoreUnavailable | None = None
    partitions: Sequence[int] = range(PARTITIONS)
    for _ in range(MAX_ROUNDS):
        swept = await asyncio.gather(*(_sweep(services, partition) for partition in partitions))
        # While a node of a cluster is away, what was swept on the others is to be seen to all the same.
        away = next((items for items in swept if isinstance(items, StoreUnavailable)), away)
        found = [[] if isinstance(items, StoreUnavailable) else items for items in swept]
        overdue = [item for items in found for item in items]
        count += len(overdue)
        await asyncio.gather(*(services.dispatcher.follow(item.moved) for item in overdue if item.moved))
        await asyncio.gather(
            _offer(services, [item.task for item in overdue if item.task and item.what in ("waits", "retry")]),
            services.dispatcher.announce(
                [item.task for item in overdue if item.what == "announce" and item.task], insist=True
            ),
            _remove(services, overdue),
        )
        partitions = [p for p, items in zip(partitions, found, strict=True) if len(items) == SWEEP_LIMIT]
        if not partitions:
            break
    if away is not None:
        raise away
    depths, held = await asyncio.gather(services.store.depths(), services.queues.held())
    await asyncio.gather(*(_tend(services, path) for path in held.union(depths)))
    return count


async def _sweep(services: Services, partition: int) -> list[Overdue] | StoreUnavailable:
    try:
        return await services.store.sweep(partition)
    except StoreUnavailable as error:
        return error


async def _offer(services: Services, tasks: Sequence[Task]) -> None:
    by_path: dict[str, list[Turn]] = {}
    for task in tasks:
        by_path.setdefault(task.path, []).append(Turn.of(task))
    for path, turns in by_path.items():
        for start in range(0, len(turns), BATCH):
            services.dispatcher.hand_on(path, await services.queues.offer(turns[start : start + BATCH]))


async def _tend(services: Services, path: str) -> None:
    """Look after one queue: hand on what nobody else did, find slots held for nothing, mend what was lost."""
    queues = services.queues
    tended = await queues.tend(path)
    services.dispatcher.hand_on(path, tended.granted)
    if tended.doubtful:
        await _look_at(services, path, tended.doubtful)
    if tended.loss is not None:
        for state in (State.RUNNING, State.DISPATCHED):
            async for turns in services.store.turns(path, state):
                await queues.hold(turns)
                # One may have ended, and given back what it did not hold, between the two.
                await _look_at(services, path, [turn.grant for turn in turns])
        async for turns in services.store.turns(path, State.CREATED):
            services.dispatcher.hand_on(path, await queues.offer(turns))
        await queues.whole(path, tended.loss)


async def _look_at(services: Services, path: str, doubtful: Sequence[Grant]) -> None:
    """See whether turns that have held a slot for a while still need it, and publish again what nobody claimed."""
    unclaimed: dict[Grant, float] = {}
    tasks: list[Task] = []
    for checked in await services.store.check(path, [(grant.task_id, grant.attempt) for grant in doubtful]):
        grant = Grant(checked.id, checked.attempt)
        if checked.what == "gone":
            await services.dispatcher.leave(path, grant)
        elif checked.what == "failed" and checked.task is not None:
            await services.dispatcher.follow(Moved(checked.task, Left(path, checked.attempt)))
        elif checked.task is not None and checked.again_s is not None:
            unclaimed[grant] = checked.again_s
            tasks.append(checked.task)
    if not tasks:
        return
    await services.queues.look_again(path, unclaimed)
    try:
        await services.events.publish(tasks, insist=True)
    except PublishFailed as error:
        log.warning("%d overdue tasks could not be published, and will be: %s", len(tasks), error)


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
