"""Every step of the store that changes something, each with the state that it starts from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from shared.store.redis.partitions import PARTITIONS, partition
from shared.store.reports import SentOn
from shared.store.upkeep_steps import CheckedSlot, Overdue, UpkeepSteps
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Outcome
from shared.tasks.task import Bounds, Content, NewTask, PipelineStep, State, Task
from shared.tasks.timing import Moment, Timing
from tests.shared.store.conftest import Clock, Store

Given = Callable[[Store, Clock], Awaitable[None]]

HELLO = NewTask("t1", "/v1/a", 60, body=Content("text/plain", 5), inline_body=b"hello")
PIPELINE = replace(
    HELLO,
    steps=(PipelineStep("/v1/a", "", 60), PipelineStep("/v1/b", "x=1", 90), PipelineStep("/v1/c", "", 60)),
)
LATER = replace(HELLO, timing=Timing(Moment("create", 300_000)))
RESULT = Content("image/png", 3)
CHECKPOINT = Content("application/x-weights", 7)


def lasting(lease_s: float, max_run_s: float | None = None, expires_s: float | None = None) -> Bounds:
    return {"lease_s": lease_s, "max_run_s": max_run_s, "expires_s": expires_s}


async def claim(store: Store, task_id: str = "t1") -> Task:
    claimed = await store.claim(task_id, None)
    assert isinstance(claimed, Claimed)
    return claimed.task


async def known(store: Store, task_id: str = "t1") -> Task:
    task = await store.get(task_id)
    assert task is not None
    return task


def applied(outcome: Outcome) -> Applied:
    assert isinstance(outcome, Applied)
    return outcome


async def sweep_all(store: UpkeepSteps) -> list[Overdue]:
    found = await asyncio.gather(*(store.sweep(partition, {}) for partition in range(PARTITIONS)))
    return [item for items in found for item in items]


async def check(store: Store) -> list[CheckedSlot]:
    """What the check finds, without the pauses, which have jitter."""
    return [replace(item, check_again_s=None) for item in await store.check_slots("/v1/a", [("t1", 1)])]


async def started(store: Store) -> list[Task]:
    return (await store.starts.start_due(partition("t1"))).tasks


async def running_report(store: Store) -> Outcome:
    return await store.update("t1", state=State.RUNNING, status="running")


async def nothing(store: Store, clock: Clock) -> None:
    return


async def created(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    clock.advance(1)


async def delayed(store: Store, clock: Clock) -> None:
    await store.create(LATER)
    clock.advance(1)


async def start_due(store: Store, clock: Clock) -> None:
    await store.create(LATER)
    clock.advance(300)


async def dispatched(store: Store, clock: Clock) -> None:
    await created(store, clock)
    await claim(store)
    clock.advance(1)


async def running(store: Store, clock: Clock) -> None:
    await dispatched(store, clock)
    await store.update("t1", state=State.RUNNING, status="running model")
    clock.advance(1)


async def requeued(store: Store, clock: Clock) -> None:
    await dispatched(store, clock)
    task = await store.get("t1")
    assert task
    await store.requeue(task, status="Awaiting service availability")
    clock.advance(1)


async def published_in_vain(store: Store, clock: Clock) -> None:
    await created(store, clock)
    for _ in range(2):
        assert [item.what for item in await check(store)] == ["publish"]
        clock.advance(60)


async def with_result(store: Store, clock: Clock) -> None:
    await running(store, clock)
    await store.put_result("t1", RESULT, b"png")
    clock.advance(1)


async def completed(store: Store, clock: Clock) -> None:
    await with_result(store, clock)
    await store.update("t1", state=State.COMPLETED, status="completed")
    clock.advance(1)


async def failed(store: Store, clock: Clock) -> None:
    await with_result(store, clock)
    await store.update("t1", state=State.FAILED, status="failed")
    clock.advance(1)


async def wait_overdue(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    clock.advance(30)


async def lease_over(store: Store, clock: Clock) -> None:
    await running(store, clock)
    clock.advance(60)


async def told_over(store: Store, clock: Clock) -> None:
    await running(store, clock)
    await store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    clock.advance(30)


async def with_checkpoint(store: Store, clock: Clock) -> None:
    await running(store, clock)
    await store.put_checkpoint("t1", CHECKPOINT, b"weights", attempt=1)
    clock.advance(1)


async def released_often(store: Store, clock: Clock) -> None:
    await running(store, clock)
    for attempt in (1, 2):
        await store.release("t1", attempt=attempt, status=None, failed=True)
        await claim(store)
    clock.advance(1)


async def handed_on(store: Store, clock: Clock) -> None:
    await running(store, clock)
    await store.next_step("t1", status="created", path="/v1/b")
    await store.accepted(await claim(store))
    clock.advance(1)


async def in_pipeline(store: Store, clock: Clock) -> None:
    await store.create(PIPELINE)
    clock.advance(1)
    await claim(store)
    await store.update("t1", state=State.RUNNING, status="running", attempt=1)
    clock.advance(1)


async def step_told(store: Store, clock: Clock) -> None:
    await in_pipeline(store, clock)
    await store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    clock.advance(30)


async def retention_over(store: Store, clock: Clock) -> None:
    await completed(store, clock)
    clock.advance(1000)


async def blobs_left(store: Store, clock: Clock) -> None:
    await running(store, clock)
    await store.put_result("t1", Content("image/png", 100_000, "t1/result"), b"")
    await store.update("t1", state=State.COMPLETED, status="completed")
    clock.advance(1000)


async def reported(store: Store, clock: Clock) -> None:
    await store.request_counts.report("aks", "/v1/a", 2)


@dataclass(frozen=True)
class Step:
    """``given`` prepares the store, ``take`` takes the step for the task, ``script`` is the script that it runs."""

    name: str
    script: str
    given: Callable[[Store, Clock], Awaitable[None]]
    take: Callable[[Store, Task], Awaitable[Any]]

    async def prepare(self, store: Store, clock: Clock) -> Task:
        await self.given(store, clock)
        task = await store.get("t1")
        return task or cast("Task", None)

    @property
    def answers_nothing_when_repeated(self) -> bool:
        """True of a sweep, a start and a purge: they return only what this call has found or removed."""
        return self.script in ("task/sweep", "task/purge", "task/start")


STEPS = [
    Step("create", "task/create", nothing, lambda store, _: store.create(HELLO)),
    Step("create to start later", "task/create", nothing, lambda store, _: store.create(LATER)),
    Step("cancel before the start", "task/apply", delayed, lambda store, _: store.cancel("t1")),
    Step("report before the start", "task/apply", delayed, lambda store, _: running_report(store)),
    Step("withdraw before the start", "task/withdraw", delayed, lambda store, _: store.withdraw("t1")),
    Step("start", "task/start", start_due, lambda store, _: started(store)),
    Step("sweep that starts", "task/sweep", start_due, lambda store, _: store.sweep(partition("t1"), {})),
    Step("claim", "task/apply", created, lambda store, task: store.claim("t1", task.attempt)),
    Step("accepted", "task/apply", dispatched, lambda store, task: store.accepted(task)),
    Step(
        "requeue",
        "task/apply",
        dispatched,
        lambda store, task: store.requeue(task, status="Retrying", apart_s=7, failed=True),
    ),
    Step(
        "requeue within its queue",
        "task/apply",
        dispatched,
        lambda store, task: store.requeue(task, status="Awaiting service availability"),
    ),
    Step(
        "fail_dispatch",
        "task/apply",
        dispatched,
        lambda store, task: store.fail_dispatch(task, status="Failed.", reason=EndReason.REJECTED),
    ),
    Step(
        "running",
        "task/apply",
        dispatched,
        lambda store, _: store.update("t1", state=State.RUNNING, status="running"),
    ),
    Step(
        "heartbeat", "task/apply", running, lambda store, _: store.update("t1", state=None, status="50 %", attempt=1)
    ),
    Step(
        "completed", "task/apply", running, lambda store, _: store.update("t1", state=State.COMPLETED, status="done")
    ),
    Step(
        "an end that the text tells",
        "task/apply",
        running,
        lambda store, _: store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED),
    ),
    Step(
        "an end that is kept aside",
        "task/apply",
        handed_on,
        lambda store, _: store.update("t1", state=State.COMPLETED, status="done"),
    ),
    Step(
        "a second end",
        "task/apply",
        completed,
        lambda store, _: store.update("t1", state=State.COMPLETED, status="2"),
    ),
    Step("heartbeat only", "task/apply", running, lambda store, _: store.heartbeat("t1", attempt=1)),
    Step("cancel", "task/apply", created, lambda store, _: store.cancel("t1")),
    Step("replay", "task/apply", failed, lambda store, _: store.replay("t1")),
    Step(
        "next step", "task/apply", with_result, lambda store, _: store.next_step("t1", status="created", path="/v1/b")
    ),
    Step("put_result", "task/apply", running, lambda store, _: store.put_result("t1", RESULT, b"png", attempt=1)),
    Step(
        "put_result that completes",
        "task/apply",
        running,
        lambda store, _: store.put_result("t1", RESULT, b"png", attempt=1, completed="done"),
    ),
    Step(
        "complete", "task/apply", dispatched, lambda store, task: store.complete(task, RESULT, b"png", status="done")
    ),
    Step(
        "put_checkpoint",
        "task/apply",
        with_checkpoint,
        lambda store, _: store.put_checkpoint("t1", CHECKPOINT, b"epoch 2", attempt=1),
    ),
    Step("progress", "task/apply", running, lambda store, _: store.heartbeat("t1", attempt=1, progress=0.5)),
    Step(
        "release", "task/release", with_checkpoint, lambda store, _: store.release("t1", attempt=1, status="stopping")
    ),
    Step(
        "release for a while",
        "task/release",
        running,
        lambda store, _: store.release("t1", attempt=1, status=None, after_s=7),
    ),
    Step(
        "release of a failure",
        "task/release",
        running,
        lambda store, _: store.release("t1", attempt=1, status="no memory", failed=True),
    ),
    Step(
        "release of the last failure",
        "task/release",
        released_often,
        lambda store, _: store.release("t1", attempt=3, status="out of 100 %", failed=True),
    ),
    Step("create in a pipeline", "task/create", nothing, lambda store, _: store.create(PIPELINE)),
    Step(
        "next step by its service",
        "task/apply",
        with_result,
        lambda store, _: store.next_step(
            "t1", attempt=1, sent_on=SentOn("result", "x"), path="/v1/b", status="created"
        ),
    ),
    Step(
        "next step of a pipeline",
        "task/apply",
        in_pipeline,
        lambda store, _: store.put_result("t1", RESULT, b"png", attempt=1, completed="done"),
    ),
    Step("next step of a pipeline, deferred", "task/apply", step_told, lambda store, _: store.end_step("t1")),
    Step("withdraw", "task/withdraw", created, lambda store, _: store.withdraw("t1")),
    Step("check that publishes", "task/check_slots", created, lambda store, _: check(store)),
    Step("check that gives up", "task/check_slots", published_in_vain, lambda store, _: check(store)),
    Step(
        "sweep that finds a waiting task",
        "task/sweep",
        wait_overdue,
        lambda store, _: store.sweep(partition("t1"), {}),
    ),
    Step("sweep that retries", "task/sweep", lease_over, lambda store, _: store.sweep(partition("t1"), {})),
    Step("sweep that ends", "task/sweep", told_over, lambda store, _: store.sweep(partition("t1"), {})),
    Step("sweep that finds a next step", "task/sweep", step_told, lambda store, _: store.sweep(partition("t1"), {})),
    Step("sweep that purges", "task/sweep", retention_over, lambda store, _: store.sweep(partition("t1"), {})),
    Step("purge", "task/purge", blobs_left, lambda store, _: store.purge(["t1"])),
    Step("report", "requests/report", reported, lambda store, _: store.request_counts.report("aks", "/v1/a", 3)),
    Step(
        "report of an instance",
        "requests/report",
        reported,
        lambda store, _: store.request_counts.report("aks", "/v1/a", 3, instance="pod-1", keep_s=90),
    ),
]
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
