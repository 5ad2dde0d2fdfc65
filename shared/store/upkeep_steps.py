"""The steps that the reconciler takes, each one script and one round trip: finding what is overdue, checking slots,
reading the records for a queue that is rebuilt, removing tasks.

``lua/task/`` has the scripts, with what they take and return.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any, Final, Literal, NamedTuple, cast

from shared.store.arguments import (
    Clock,
    IdleEntriesArgument,
    LostArgument,
    QueueEntriesArgument,
    seed,
    stamp,
)
from shared.store.due_schedules import START_GRACE_S
from shared.store.outages import Outage, limit_s_if_over
from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueEntry
from shared.store.record_codec import unpack_task
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, by_tag, pack, tag_of, texts, to_ms
from shared.store.replies import unnamed_blobs
from shared.store.task_steps import BACKOFF_CAP_S
from shared.store.upkeep_arguments import CheckSlotsArgument, SweepArgument
from shared.store.uploads import unpack_upload
from shared.tasks import status_texts
from shared.tasks.outcomes import Applied, Origin, SlotGrant
from shared.tasks.task import State, Task
from shared.tasks.uploads import Upload

SWEEP_LIMIT: Final = 64
"""How many overdue tasks of a partition one sweep takes."""
ENTRIES_LIMIT: Final = 500
BLOB_GRACE_S: Final = 120.0
"""How long the deletion of a task's blobs may take, before it is begun again."""
STEP_GRACE_S: Final = 30.0
"""The same for the next step of a pipeline."""
BATCH_GRACE_S: Final = 30.0
"""The same for what is to be done with a batch."""
END_GRACE_S: Final = 10.0
"""After which it is reported again to its batch how a child ended."""
_LOST_PATHS: Final = 32
"""At how many paths a round looks in each partition for tasks whose records are gone, and at as many of those where
all have ended."""
_LOST_ENTRIES: Final = 100
"""At how many index entries of a path and state it looks; where any is lost, it goes on."""
_MOST_LOST_ENTRIES: Final = 2000
"""Until it has looked at so many."""
_DELAYED_ENTRIES: Final = 10
"""At how many of the tasks of a path that have yet to start a round looks, whose records it reads. It does so in one
partition, each in turn: these tasks are to cost the others next to nothing."""
_ONGOING: Final = 1 << 52
"""Later than any time."""
WAIT_CAP_S: Final = 3600.0
"""How seldom it is checked at most whether a waiting task stands in its queue."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """What a sweep did with a task, and what it leaves to the caller: to enqueue the task, to publish its completion,
    or to delete its blobs, or to let it go on to the next step of its pipeline, or what a batch needs. Or what it
    found of an upload, or a schedule that is due."""

    what: Literal[
        "waits",
        "starts",
        "retry",
        "failed",
        "ended",
        "next step",
        "completion",
        "purged",
        "blobs",
        "batch",
        "child",
        "end",
        "upload",
        "schedule",
    ]
    id: str
    """Of an end that is to be reported to a batch: as :class:`ChildEnd` has it. Of a schedule: as the store's
    ``schedules`` name it, or the name of a blob that no schedule has."""
    task: Task | None
    service_ms: int | None = None
    unnamed_blobs: Sequence[str] = ()
    """As in :class:`Applied`."""
    late_ms: int = 0
    """How long ago the end was reported that has taken effect."""
    upload: Upload | None = None
    """An upload that nobody can use any more. All else is of tasks."""

    @property
    def applied(self) -> Applied | None:
        """The transition that the sweep made."""
        if self.task is None or self.what not in ("retry", "failed", "ended"):
            return None
        origin = Origin(self.task.path, self.task.attempt - (self.what == "retry"))
        return Applied(
            self.task,
            origin,
            service_ms=self.service_ms,
            unnamed_blobs=self.unnamed_blobs,
            late_ms=self.late_ms,
        )


@dataclass(frozen=True, slots=True)
class CheckedSlot:
    """What became of an attempt that had held a slot for a while."""

    what: Literal["gone", "publish", "failed"]
    id: str
    attempt: int
    task: Task | None
    check_again_s: float | None


class Lost(NamedTuple):
    """What was left of tasks, and was removed.

    Attributes:
        paths: the endpoint paths where there was any.
        delayed: by path, the attempts that were to start later and will not, with their owners. Queues still count
            them.
    """

    paths: set[str]
    delayed: Mapping[str, Sequence[tuple[SlotGrant, str]]]


class UpkeepSteps:
    """The scripts on overdue and finished tasks.

    Attributes:
        learned: hears from each sweep of a partition after how many seconds the next delayed task starts there; None:
            there is none.
        learned_of_schedules: hears so when the next schedule is due there.
    """

    def __init__(self, link: RedisLink, policy: StorePolicy, now_ms: Clock | None = None) -> None:
        self.learned: Callable[[int, float | None], object] = lambda partition, in_s: None
        self.learned_of_schedules: Callable[[int, float | None], object] = lambda partition, in_s: None
        self._link = link
        self._policy = policy
        self._now_ms = now_ms
        self._retention_ms = to_ms(policy.retention_s)
        self._completion_ms = to_ms(policy.completion_s)
        self._republish_ms = to_ms(policy.republish_s)
        # From one on that is drawn by chance: an app may wake for one round only, and sleep again.
        self._delayed_tags = islice(cycle(HASH_TAGS), seed() % len(HASH_TAGS), None)

    async def sweep(self, partition: int, outages: Mapping[str, Outage]) -> list[Overdue]:
        """Take the next step for the overdue tasks of one partition, at most ``SWEEP_LIMIT`` of them.

        Args:
            outages: of the backends, by path. A task that was silent meanwhile is excused once; one that has waited
                too long in one that is too long is failed.
        """
        limits_s = {path: limit_s_if_over(outage, self._policy, self._now_ms) for path, outage in outages.items()}
        argument: SweepArgument = {
            "limit": SWEEP_LIMIT,
            "max_attempts": self._policy.max_attempts,
            "publish_base": self._republish_ms,
            "cap": to_ms(BACKOFF_CAP_S),
            "wait_cap": to_ms(min(WAIT_CAP_S, self._policy.max_outage_s, self._policy.max_unregistered_s)),
            "retention": self._retention_ms,
            "completion": self._completion_ms,
            "blob_grace": to_ms(BLOB_GRACE_S),
            "step_grace": to_ms(STEP_GRACE_S),
            "batch_grace": to_ms(BATCH_GRACE_S),
            "end_grace": to_ms(END_GRACE_S),
            "schedule_grace": to_ms(START_GRACE_S),
            "retrying": status_texts.SILENT_RETRYING,
            "excused": status_texts.SILENT_EXCUSED,
            "silent": status_texts.SILENT_FAILED,
            "exhausted": status_texts.SILENT_EXHAUSTED,
            "texts": {
                "expired": status_texts.EXPIRED,
                "overrun": status_texts.OVERRUN_RETRYING,
                "overruns": status_texts.OVERRUN_EXHAUSTED,
            },
            "outages": {path: outage.ended_ms or _ONGOING for path, outage in outages.items()},
            "given_up": {
                path: (to_ms(limit_s), status_texts.gave_up(outages[path].cause, limit_s))
                for path, limit_s in limits_s.items()
                if limit_s is not None
            },
            "seed": seed(),
            **stamp(self._now_ms),
        }
        rows: list[list[Any]]
        reply = await self._link.script("task/sweep", HASH_TAGS[partition], pack(argument))
        rows, start_in_ms, schedule_in_ms = reply
        self.learned(partition, None if start_in_ms < 0 else start_in_ms / 1000)
        self.learned_of_schedules(partition, None if schedule_in_ms < 0 else schedule_in_ms / 1000)
        return [_overdue(*row) for row in rows]

    async def check_slots(self, path: str, attempts: Iterable[tuple[str, int]]) -> list[CheckedSlot]:
        """Check attempts, by task id and number, that have held a slot at *path* for long.

        Returns those that do not need it, and those whose event is to be published again.
        """
        by_partition: dict[str, list[tuple[str, int]]] = {}
        for attempt in attempts:
            by_partition.setdefault(tag_of(attempt[0]), []).append(attempt)
        parts = await asyncio.gather(
            *(
                self._link.script("task/check_slots", tag, pack(self._check_slots(path, some)))
                for tag, some in by_partition.items()
            )
        )
        return [
            CheckedSlot(
                row[0].decode(),
                row[1].decode(),
                row[2],
                unpack_task(row[1].decode(), row[3]) if len(row) > 3 else None,
                row[4] / 1000 if len(row) > 4 else None,
            )
            for part in parts
            for row in part
        ]

    def _check_slots(self, path: str, attempts: list[tuple[str, int]]) -> CheckSlotsArgument:
        return {
            "path": path,
            "entries": attempts,
            "max_attempts": self._policy.max_attempts,
            "publish_base": self._republish_ms,
            "cap": to_ms(BACKOFF_CAP_S),
            "retention": self._retention_ms,
            "completion": self._completion_ms,
            "undelivered": status_texts.UNDELIVERED,
            "seed": seed(),
            **stamp(self._now_ms),
        }

    async def forget_lost(self, names: Sequence[str] = ()) -> Lost:
        """Remove what is left of tasks whose records are gone. Each call looks at some, drawn by chance.

        Args:
            names: of pipelines.
        """
        argument: LostArgument = {
            "seed": seed(),
            "names": ["batches", *names],
            "paths": _LOST_PATHS,
            "entries": _LOST_ENTRIES,
            "most": _MOST_LOST_ENTRIES,
        }
        packed = dict.fromkeys(HASH_TAGS, pack(argument))
        packed[next(self._delayed_tags)] = pack({**argument, "few": _DELAYED_ENTRIES})
        parts = await asyncio.gather(*(self._link.script("task/lost", *each) for each in packed.items()))
        entries: dict[str, list[tuple[SlotGrant, str]]] = {}
        for _, rows in parts:
            for path, task_id, owner in rows:
                entries.setdefault(path.decode(), []).append((SlotGrant(task_id.decode(), 1), owner.decode()))
        return Lost(texts(path for paths, _ in parts for path in paths), entries)

    async def idle_entries(self, path: str, grants: Iterable[SlotGrant]) -> list[SlotGrant]:
        """Those of a queue's waiting entries that wait for nothing: their tasks are gone, have ended, or are at
        another path or attempt."""
        by_partition: dict[str, list[tuple[str, int]]] = {}
        for grant in grants:
            by_partition.setdefault(tag_of(grant.task_id), []).append((grant.task_id, grant.attempt))

        async def find(tag: str, entries: Sequence[tuple[str, int]]) -> list[list[Any]]:
            argument: IdleEntriesArgument = {"path": path, "entries": entries}
            return await self._link.script("task/idle_entries", tag, pack(argument))

        parts = await asyncio.gather(*(find(tag, entries) for tag, entries in by_partition.items()))
        return [SlotGrant(row[0].decode(), row[1]) for part in parts for row in part]

    async def queue_entries(self, path: str, state: State) -> AsyncIterator[list[QueueEntry]]:
        """Iterate over pages of the tasks that wait at an endpoint, or that its backend holds. A task that comes or
        goes meanwhile may be missing or appear twice, others not."""
        indexes = (state.value, "again") if state is State.CREATED else (state.value,)
        for tag, index in product(HASH_TAGS, indexes):
            skip, count = 0, ENTRIES_LIMIT
            while count == ENTRIES_LIMIT:
                argument: QueueEntriesArgument = {"path": path, "state": index, "skip": skip, "limit": ENTRIES_LIMIT}
                count, rows = await self._link.script("task/queue_entries", tag, pack(argument))
                skip += count
                if rows:
                    yield [
                        QueueEntry(path, SlotGrant(task_id.decode(), attempt), owner.decode(), queued_ms, priority)
                        for task_id, attempt, owner, queued_ms, priority in rows
                    ]

    async def mark_completions_published(self, task_ids: Iterable[str]) -> None:
        await asyncio.gather(
            *(
                self._link.script("task/completions_published", tag, str(self._retention_ms), *ids)
                for tag, ids in by_tag(task_ids).items()
            )
        )

    async def purge(self, task_ids: Iterable[str]) -> int:
        """Remove finished tasks whose blobs were deleted."""
        counts = await asyncio.gather(
            *(self._link.script("task/purge", tag, *ids) for tag, ids in by_tag(task_ids).items())
        )
        return sum(cast("list[int]", counts))


def _overdue(
    what: bytes,
    task_id: bytes,
    raw: bytes | None = None,
    service_ms: int | None = None,
    named: Sequence[bytes | None] | None = None,
    late_ms: int = 0,
) -> Overdue:
    name = task_id.decode()
    if what == b"upload":
        return Overdue("upload", name, None, upload=None if raw is None else unpack_upload(name, raw))
    task = None if raw is None else unpack_task(name, raw)
    blobs = () if task is None else unnamed_blobs(task, named)
    return Overdue(cast("Any", what.decode()), name, task, service_ms, blobs, late_ms)
