"""Starts delayed tasks at their time."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple, TypedDict

from shared.store.arguments import Clock, now_of, seed
from shared.store.following import Following
from shared.store.informing import informed
from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueSteps, batches
from shared.store.record_codec import unpack_task
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, pack, partition, to_ms
from shared.store.upkeep_steps import SWEEP_LIMIT, WAIT_CAP_S
from shared.tasks.outcomes import Created, Granted
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

_MOST_AT_ONCE: Final = 50
"""How many times a wake-up goes on while tasks are due. Then others have their turn."""


class StartArgument(TypedDict):
    now: int
    limit: int
    publish_base: int
    wait_cap: int
    seed: int


class Started(NamedTuple):
    """Delayed tasks of one partition that have started, and after how long the next one does; None: none is known."""

    tasks: list[Task]
    next_in_s: float | None


class Starts(Following):
    """One per event loop. ``wake`` has :meth:`begin` called."""

    def __init__(self, link: RedisLink, policy: StorePolicy, queues: QueueSteps, now_ms: Clock | None = None) -> None:
        super().__init__(policy.reconciler_interval_s)
        self._link = link
        self._policy = policy
        self._queues = queues
        self._now_ms = now_ms

    def expect(self, *created: object) -> None:
        """Tasks were stored by this process: those that are :class:`Created` may start before any round learns of
        them."""
        for each in created:
            if isinstance(each, Created) and each.task.start is not None and each.task.is_delayed:
                task, at_ms = each.task, each.task.start.at_ms
                self._wake(partition(task.id), (at_ms - task.created_ms) / 1000)

    async def begin(self, number: int) -> list[Granted]:
        """Start what is due in a partition, and let it wait in its queues. Returns what these have granted."""
        granted: list[Granted] = []
        next_in_s: float | None = 0
        for _ in range(_MOST_AT_ONCE):
            try:
                started = await self.start_due(number)
            except StoreUnavailable as error:
                log.warning("delayed tasks could not be started, and will be: %s", error)
                self._look_again(number)
                return granted
            for entries in batches(started.tasks):
                enqueued = self._queues.enqueue(entries, start=True)
                granted.append(await informed(enqueued, entries[0].path))
            next_in_s = started.next_in_s
            if next_in_s != 0:
                break
        self._go_on(number, next_in_s)
        return granted

    async def start_due(self, number: int) -> Started:
        """Start what is due in a partition, as many as one script takes. They wait in no queue yet."""
        argument: StartArgument = {
            "now": now_of(self._now_ms),
            "limit": SWEEP_LIMIT,
            "publish_base": to_ms(self._policy.republish_s),
            "wait_cap": to_ms(WAIT_CAP_S),
            "seed": seed(),
        }
        rows: list[list[Any]]
        rows, next_in_ms = await self._link.script("task/start", HASH_TAGS[number], pack(argument))
        tasks = [unpack_task(task_id.decode(), raw) for task_id, raw in rows]
        return Started(tasks, None if next_in_ms < 0 else next_in_ms / 1000)
