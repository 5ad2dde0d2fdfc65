"""The reconciler: finds by their deadlines the tasks that nothing else moves on, and looks after the queues.

A process that is awake runs its rounds, one process at a time. A timer runs one too: it wakes an app that sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import azure.functions as func

from cache_manager.schedule_runs import delete_blobs, run_due, wake_for_schedules
from shared import step_counts, telemetry
from shared.bodies import BlobsUnavailable
from shared.dispatch.removal import remove_with_blobs
from shared.services import Services, ServicesByLoop
from shared.store import StoreUnavailable
from shared.tasks.ending import has_expired
from shared.tasks.outcomes import Applied
from shared.tasks.uploads import Upload

log = logging.getLogger("task_backbone")

QUEUES_AT_ONCE: Final = 8
"""How many queues a round looks after at a time."""
REMOVAL_PATIENCE_S: Final = 1.0
"""How long a round waits for Blob Storage before it leaves the rest to the next one."""


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
    services.keep_running(keep_reconciling)


async def keep_reconciling(services: Services) -> None:
    """Run a round each interval, unless another process does; for ever."""
    interval_s = services.settings.reconciler_interval_s
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    services.store.starts.look()
    wake_for_schedules(services)
    while True:
        due_s = max(due_s + interval_s, loop.time())
        await asyncio.sleep(due_s - loop.time())
        try:
            await services.store.mending.after_failures()
            if await services.store.rounds.begin():
                await _run_round(services, [])
        except StoreUnavailable as error:
            log.warning("the reconciler could not reach Redis, and will try again: %s", error)
        except Exception:
            log.exception("A round of the reconciler failed, and the next one will begin")


async def reconcile(services: Services) -> int:
    """Run a round, with all that it leads to: take the next step for what is overdue, remove what is past retention,
    look after the queues. Two rounds at once do no harm.

    Returns:
        How many tasks were overdue.

    Raises:
        StoreUnavailable: Redis or one of its nodes does not answer. What the other nodes hold was handled.
    """
    consequences: list[asyncio.Task[None]] = []
    try:
        return await _run_round(services, consequences)
    finally:
        await asyncio.gather(*consequences)


async def _run_round(services: Services, consequences: list[asyncio.Task[None]]) -> int:
    """Run a round. What it leads to outside Redis goes on beside it, as *consequences*: an Event Grid or a Blob
    Storage that hangs must not hold up what is overdue."""
    count = 0
    dispatcher = services.dispatcher
    try:
        await services.store.mending.tend()
    except StoreUnavailable as error:  # what is overdue does not wait for it
        log.warning("what does not fit together in Redis could not be mended, and will be: %s", error)
    async with aclosing(services.store.sweep()) as sweep:
        async for swept in sweep:
            count += swept.count
            dispatcher.dispatch_granted(swept.granted)
            for applied in swept.applied:
                telemetry.setback(applied.task, applied.task.status, is_expected=has_expired(applied.task))
                step_counts.given_up(applied)
            # Completions of the same moment share a request, so no transition waits for another's.
            consequences += [services.run_beside(_follow(services, applied)) for applied in swept.applied]
            if swept.unpublished:
                publishing = dispatcher.publish_completions(swept.unpublished, bypass_circuit=True)
                consequences.append(services.run_beside(publishing))
            dispatcher.batches.report(swept.ends)
            consequences += [services.run_beside(dispatcher.batches.attend(batch)) for batch in swept.batches]
            if swept.children:
                consequences.append(services.run_beside(dispatcher.batches.remove_orphans(swept.children)))
            if swept.with_blobs:
                removing = remove_with_blobs(services.store, services.bodies, swept.with_blobs)
                removal = services.run_beside(removing)
                consequences.append(removal)
                await asyncio.wait((removal,), timeout=REMOVAL_PATIENCE_S)
                if not removal.done():
                    break
            if swept.schedules:
                consequences.append(services.run_beside(run_due(services, swept.schedules)))
            if swept.schedule_blobs:
                consequences.append(services.run_beside(delete_blobs(services, swept.schedule_blobs)))
            if swept.uploads:
                # Not waited for: so many uploads as somebody makes, no task waits for their removal.
                consequences.append(services.run_beside(_remove_uploads(services, swept.uploads)))
    consequences.append(services.run_beside(services.deliveries.round()))
    await _maintain_all(services, consequences)
    return count


async def _maintain_all(services: Services, consequences: list[asyncio.Task[None]]) -> None:
    """Look after the queues, a few at a time: however many there are, other calls go between."""
    paths = iter(await services.store.queues.paths_to_maintain(services.registry.pipelines))
    unavailable: list[StoreUnavailable] = []

    async def maintain_some() -> None:
        for path in paths:
            try:
                await _maintain(services, path, consequences)
            except StoreUnavailable as error:  # the other nodes' queues are looked after
                unavailable.append(error)
            except Exception:  # one queue that cannot be looked after keeps no other from it
                log.exception("The reconciler could not look after the queue of %s", path)

    await asyncio.gather(*(maintain_some() for _ in range(QUEUES_AT_ONCE)))
    if unavailable:
        raise unavailable[0]


async def _follow(services: Services, applied: Applied) -> None:
    await services.dispatcher.after_transition(applied)


async def _maintain(services: Services, path: str, consequences: list[asyncio.Task[None]]) -> None:
    async for change in services.store.queues.maintain(path):
        services.dispatcher.dispatch_granted(change.granted)
        for applied in change.applied:
            telemetry.setback(applied.task, applied.task.status)
            step_counts.given_up(applied)
            consequences.append(services.run_beside(_follow(services, applied)))
        if change.unclaimed:
            consequences.append(services.run_beside(services.dispatcher.begin_again(change.unclaimed)))


async def _remove_uploads(services: Services, uploads: Sequence[Upload]) -> None:
    """Forget uploads that nobody can use any more, and delete what no task has: those that nobody has handed in, and
    what somebody has written by a URL after its task was removed."""
    forgotten: list[str] = []
    for upload in uploads:
        task = await services.store.get(upload.task_id) if upload.task_id else None
        if task is None or not task.names(upload.snapshot):
            try:
                await services.bodies.delete(upload.blob)
            except BlobsUnavailable as error:
                log.warning("the blobs of unused uploads could not be deleted, and will be: %s", error)
                break
        forgotten.append(upload.id)
    await services.store.uploads.forget(forgotten)
