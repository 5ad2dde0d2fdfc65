"""The steps of a queue, each one script and one round trip. A queue orders the attempts that wait at an endpoint for
a slot of its backend, and knows those that hold one.

How many tasks a backend holds is learned from its answers; ``docs/queues.md`` says how. A queue is an index over the
records and may be wrong: a granted attempt has still to be claimed, and what is lost is found again. ``lua/queue/``
has the scripts, with what they take and return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Self

from shared.rate import Rate
from shared.store.arguments import (
    AcceptedArgument,
    AwayArgument,
    Clock,
    CombinedAcceptArgument,
    CombinedReleaseArgument,
    ConfigureArgument,
    EnqueueArgument,
    EntryArgument,
    FailedArgument,
    MaintainArgument,
    MarkRebuiltArgument,
    OwnersArgument,
    QueueArgument,
    RefusedArgument,
    ReleaseArgument,
    ReleasedArgument,
    ReturnArgument,
    RowsArgument,
    StatusArgument,
    Telling,
    ToldArgument,
    WaitingArgument,
    now_of,
    seed,
)
from shared.store.outages import Outage
from shared.store.policy import StorePolicy
from shared.store.queue_arguments import Configured, packed_setting
from shared.store.queue_replies import Away, Maintained, enqueued_of, granted_of
from shared.store.queue_status import QueueStatus
from shared.store.redis.link import NotAcknowledged, RedisLink
from shared.store.redis.partitions import HASH_TAGS, pack, tag_of, texts, to_ms
from shared.store.requeue import BackendAway
from shared.store.series import Ended
from shared.tasks import status_texts
from shared.tasks.outcomes import Draining, Enqueued, Full, Granted, SlotGrant
from shared.tasks.owner_bounds import UNBOUNDED, BoundsOf
from shared.tasks.task import Task
from shared.tasks.timing import Moment
from shared.tasks.told_slots import ToldSlots
from shared.tasks.value import value

CHECK_LIMIT: Final = 256
"""How many held slots one run of the reconciler checks in a queue."""
ENQUEUE_BATCH: Final = 256
WAITING_LOOKED_AT: Final = 100
"""How many waiting entries of a queue one run of the reconciler checks. Where any waits for nothing, it goes on."""
OWNERS_READ: Final = 500
"""Of how many owners it is read at a time what they have of a queue."""
TOLD_KEPT_S: Final = 90.0
"""After so long, an instance that tells nothing is forgotten."""
_FAILURES_WITHOUT_PAUSE: Final = 7
"""How many failures in a row that the backend answered bring no pause."""
_MOST_CONFIGURED: Final = 1_000
"""For how many endpoints a process has ready what they are configured to. A backend may have any number."""

LimitOf = Callable[[str], int | None]
"""The configured limit of an endpoint path; None: no limit."""
RateOf = Callable[[str], Rate | None]
"""The same of its rate."""


@value
class QueueEntry:
    """An attempt of a task in its endpoint's queue."""

    path: str
    grant: SlotGrant
    owner: str
    queued_ms: int
    """Since when; 0 means now."""
    priority: int

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.path, SlotGrant.of(task), task.owner, task.queued_ms, task.priority)

    @property
    def row(self) -> list[Any]:
        return [self.grant.entry_id, self.owner, self.queued_ms, self.priority]


def batches(tasks: Sequence[Task]) -> Iterator[Sequence[QueueEntry]]:
    """The tasks' queue entries, each batch for one path."""
    by_path: dict[str, list[QueueEntry]] = {}
    for task in tasks:
        by_path.setdefault(task.path, []).append(QueueEntry.of(task))
    for entries in by_path.values():
        for start in range(0, len(entries), ENQUEUE_BATCH):
            yield entries[start : start + ENQUEUE_BATCH]


class QueueSteps:
    """The scripts on the queues of one Redis."""

    def __init__(
        self,
        link: RedisLink,
        policy: StorePolicy,
        limit_of: LimitOf = lambda path: None,
        now_ms: Clock | None = None,
        rate_of: RateOf = lambda path: None,
        bounds_of: BoundsOf = lambda path: UNBOUNDED,
    ) -> None:
        self._link = link
        self._policy = policy
        self._claim_ms = to_ms(policy.slot_claim_s)
        self._now_ms = now_ms
        release: CombinedReleaseArgument = {"claim": self._claim_ms, "window": to_ms(policy.dispatch_window_s)}
        self._release_argument = pack(release)

        @lru_cache(maxsize=_MOST_CONFIGURED)
        def configured(path: str) -> Configured:
            return Configured.of(policy, limit_of(path), rate_of(path), bounds_of(path))

        self._configured = configured

    async def enqueue_new(self, entry: QueueEntry, *, start: Moment | None = None) -> Enqueued | Full | Draining:
        """Let a new task wait, or if it starts later, count it; unless the queue refuses it."""
        argument: EnqueueArgument = {
            **self._queue(entry.path),
            **self._configured(entry.path).refusing,
            "entries": [entry.row],
            "new": True,
            "published": True,
        }
        if start is not None:
            argument["later_in" if start.since == "create" else "later"] = start.ms
        return enqueued_of(entry.path, await self._run("enqueue", entry.path, argument))

    async def enqueue(
        self,
        entries: Iterable[QueueEntry],
        *,
        are_published: bool = False,
        arrive: bool = False,
        start: bool = False,
    ) -> Granted:
        """Let entries of one path wait. Nothing happens to those that wait already or hold a slot.

        Args:
            are_published: whether the one entry is published if it gets a slot now.
            arrive: whether they come to this endpoint, as a new task's does.
            start: whether they do so now because they were to start later.
        """
        entries = list(entries)
        path = entries[0].path
        argument: EnqueueArgument = {**self._queue(path), "entries": [entry.row for entry in entries]}
        if are_published:
            argument["published"] = True
        if arrive or start:
            argument["arrives"] = True
        if start:
            argument["starts"] = True
        reply = await self._run("enqueue", path, argument)
        return granted_of(path, reply[1:])

    async def accepted(self, task: Task) -> Granted:
        """The backend accepted the task's present attempt."""
        return granted_of(task.path, await self._run("accepted", task.path, self._accepted(task)))

    async def refused(self, task: Task, requeued: Task, *, after_s: float | None) -> Granted:
        """The backend had no room for *task*, which waits again as *requeued*.

        Args:
            after_s: when the backend said to try again.
        """
        argument: RefusedArgument = {
            **self._return(task, SlotGrant.of(requeued), requeued),
            "after": to_ms(after_s or 0),
            "most": to_ms(self._policy.busy_retry_s),
        }
        return granted_of(task.path, await self._run("refused", task.path, argument))

    async def failed(self, task: Task) -> Granted:
        """The backend answered that it failed. One that fails again and again gets a pause."""
        argument: FailedArgument = {
            **self._entry(task),
            "grace": _FAILURES_WITHOUT_PAUSE,
            "base": to_ms(self._policy.backoff_base_s),
            "most": self._longest_pause_ms(),
        }
        return granted_of(task.path, await self._run("failed", task.path, argument))

    async def away(self, task: Task, reason: BackendAway, *, elsewhere: bool = False) -> Away:
        """The backend was away when *task* was dispatched. The caller enqueues the task's next attempt.

        Args:
            elsewhere: whether it answered that it does not know the path, and accepts tasks at others.
        """
        argument: AwayArgument = {
            **self._return(task, SlotGrant(task.id, task.attempt + 1), task),
            "cause": reason.cause,
            "sent": reason.was_sent,
            "elsewhere": elsewhere,
            # One lost answer is not an outage yet. What is not registered is known.
            "grace": 0 if reason.cause == status_texts.UNREGISTERED else 1,
            "base": to_ms(self._policy.backoff_base_s),
            "most": self._longest_pause_ms(),
        }
        if task.away_ms is not None:
            argument["since"] = task.away_ms
        what, at_ms, since_ms, granted, ms = await self._run("away", task.path, argument)
        outage = Outage(since_ms, None, reason.cause) if since_ms else None
        return Away(what.decode(), at_ms, granted_of(task.path, [granted, ms]), outage)

    async def return_entry(self, task: Task, requeued: Task) -> None:
        """This process has no room to dispatch the task."""
        argument = self._return(task, SlotGrant.of(requeued), requeued)
        await self._run("return_entry", task.path, argument)

    async def release(
        self,
        path: str,
        grant: SlotGrant,
        owner: str = "",
        service_ms: int | None = None,
        ended: Ended | None = None,
        *,
        later: bool = False,
    ) -> Granted:
        """An attempt neither waits nor is worked on at *path* any more, and has *ended* so; None: that is counted
        elsewhere.

        Args:
            later: whether it was submitted to start later.
        """
        argument: ReleaseArgument = {**self._queue(path), "entry": grant.entry_id, "owner": owner}
        if service_ms is not None:
            argument["served"] = service_ms
        if later:
            argument["later"] = True
        if ended is not None:
            argument["ended"] = ended.how
            if ended.waited_ms is not None:
                argument["waited"] = ended.waited_ms
        return granted_of(path, await self._run("release", path, argument))

    async def released(self, requeued: Task, attempt: int, told: ToldSlots | None = None) -> Granted:
        """The backend gave an *attempt* back that it had accepted, and the task waits again as *requeued*.

        Args:
            told: how many tasks its instance holds. None: it does not tell, and the queue forgets the slot.
        """
        argument: ReleasedArgument = {
            **self._return(requeued, SlotGrant.of(requeued), requeued),
            "entry": SlotGrant(requeued.id, attempt).entry_id,
            **self._telling(),
        }
        if told is not None:
            argument["told"] = told.instance, told.slots
        return granted_of(requeued.path, await self._run("released", requeued.path, argument))

    async def tell(self, path: str, told: ToldSlots) -> Granted:
        """An instance of the backend tells how many tasks it holds."""
        argument: ToldArgument = {
            **self._queue(path),
            **self._telling(),
            "told": (told.instance, told.slots),
        }
        return granted_of(path, await self._run("told", path, argument))

    async def grant_free_slots(self, path: str) -> Granted:
        return granted_of(path, await self._run("grant_free_slots", path, self._queue(path)))

    async def holds(self, path: str, grant: SlotGrant) -> bool:
        """Whether an attempt holds a slot."""
        argument: EntryArgument = {**self._queue(path), "entry": grant.entry_id, "owner": ""}
        return bool(await self._run("holds", path, argument))

    async def held_paths(self) -> set[str]:
        """The endpoint paths at which any attempt holds a slot, even if no task is left there."""
        parts = await asyncio.gather(*(self._link.script("queue/held_paths", tag) for tag in HASH_TAGS))
        return texts(path for part in parts for path in part)

    async def maintain(self, path: str, *, events_are_claimed: bool = True) -> Maintained:
        """What the reconciler does for a queue at each run.

        Args:
            events_are_claimed: if not, attempts are unclaimed as soon as half an interval is over.
        """
        wait_ms = self._claim_ms if events_are_claimed else to_ms(self._policy.reconciler_interval_s / 2)
        argument: MaintainArgument = {
            **self._queue(path),
            "again": to_ms(self._policy.slot_check_s),
            "most": CHECK_LIMIT,
            "early": max(0, self._claim_ms - wait_ms),
            **self._telling(),
        }
        reply = await self._run("maintain", path, argument)
        found: list[list[bytes]] = [reply[2], reply[4], reply[6] if len(reply) > 6 else []]
        doubtful, unclaimed, without_owner = ([SlotGrant.parse(entry.decode()) for entry in each] for each in found)
        return Maintained(granted_of(path, reply), doubtful, unclaimed, reply[3] or None, reply[5], without_owner)

    async def waiting(self, path: str) -> dict[SlotGrant, str]:
        """Some of the attempts that wait, drawn by chance, with their owners."""
        argument: WaitingArgument = {**self._queue(path), "seed": seed(), "most": WAITING_LOOKED_AT}
        rows = await self._run("waiting", path, argument)
        return {SlotGrant.parse(entry.decode()): row[0].decode() for row in rows for entry in row[1:]}

    async def owners(self, path: str, behind: int = 0) -> tuple[dict[str, int], list[SlotGrant]]:
        """How many attempts wait of :data:`OWNERS_READ` owners *behind* as many; and, behind none, that many of those
        that hold a slot."""
        page: OwnersArgument = {"from": behind, "most": OWNERS_READ}
        waiting, holding = await self._run("owners", path, {**self._queue(path), **page})
        owners = (owner.decode(errors="replace") for owner in waiting[::2])
        return dict(zip(owners, waiting[1::2], strict=True)), [SlotGrant.parse(entry.decode()) for entry in holding]

    async def forget_delayed(self, path: str, entries: Iterable[tuple[SlotGrant, str]]) -> None:
        """Count attempts no more that were to start later, given with their owners."""
        argument: RowsArgument = {
            **self._queue(path),
            "entries": [[grant.entry_id, owner] for grant, owner in entries],
        }
        await self._run("forget_delayed", path, argument)

    async def mark_held(self, entries: Iterable[QueueEntry]) -> None:
        """Entries of one path are known to be held by their backend."""
        entries = list(entries)
        path = entries[0].path
        argument: RowsArgument = {**self._queue(path), "entries": [entry.row for entry in entries]}
        await self._run("mark_held", path, argument)

    async def note_holders(self, path: str, owners: Mapping[SlotGrant, str]) -> None:
        """Whose attempts hold slots, where an owner's may hold only so many."""
        argument: RowsArgument = {
            **self._queue(path),
            "entries": [[grant.entry_id, owner] for grant, owner in owners.items()],
        }
        await self._run("note_holders", path, argument)

    async def reschedule_check(self, path: str, in_s: Mapping[SlotGrant, float]) -> None:
        """Set when slots are to be checked again whose attempts were published again."""
        argument: RowsArgument = {
            **self._queue(path),
            "entries": [[grant.entry_id, to_ms(seconds)] for grant, seconds in in_s.items()],
        }
        await self._run("reschedule_check", path, argument)

    async def mark_rebuilt(self, path: str, loss: int) -> None:
        """Everything that exists was enqueued since the *loss*."""
        argument: MarkRebuiltArgument = {**self._queue(path), "loss": loss}
        await self._run("mark_rebuilt", path, argument)

    async def status(self, path: str, task: Task | None = None) -> QueueStatus:
        """How the queue stands, and where the task stands in it if it waits."""
        argument: StatusArgument = {**self._queue(path)}
        if task is not None:
            argument["entry"], argument["owner"] = SlotGrant.of(task).entry_id, task.owner
            argument["queued_at"], argument["priority"] = task.queued_ms, task.priority
        reply = await self._run("status", path, argument)
        return QueueStatus.unpacked(reply)

    async def configure(
        self, path: str, changes: Mapping[str, int | bool | Rate | None], *, by: str | None = None
    ) -> Granted:
        """Change the operator's settings: ``paused``, ``draining``, ``limit``, ``rate``, ``burst``. None resets one.

        Args:
            by: the operator's name.
        """
        argument: ConfigureArgument = {
            **self._queue(path),
            "set": {name: packed_setting(name, changed) for name, changed in changes.items()},
        }
        if by is not None:
            argument["by"] = by
        try:
            reply = await self._run("configure", path, argument)
        except NotAcknowledged as error:
            error.granted = [granted_of(path, error.reply)]
            raise
        return granted_of(path, reply)

    def enqueue_argument(self, path: str) -> bytes:
        """The queue's part of the script that creates a task and enqueues it."""
        return self._configured(path).enqueue

    def release_argument(self, accepted: Task | None) -> bytes:
        """The queue's part of the script that applies a step of a task: one that the backend *accepted*, or one that
        ends an entry, which the script then takes from the record."""
        if accepted is None:
            return self._release_argument
        accept: CombinedAcceptArgument = {**self._accepted(accepted), "window": to_ms(self._policy.dispatch_window_s)}
        return pack(accept)

    def _queue(self, path: str) -> QueueArgument:
        return {"now": now_of(self._now_ms), "path": path, **self._configured(path).granting}

    def _entry(self, task: Task) -> EntryArgument:
        return {**self._queue(task.path), "entry": SlotGrant.of(task).entry_id, "owner": task.owner}

    def _accepted(self, task: Task) -> AcceptedArgument:
        argument: AcceptedArgument = {**self._entry(task)}
        if not task.failures and not task.was_returned:  # else a backend has taken it before
            argument["waited"] = task.updated_ms - task.queued_ms
        return argument

    def _return(self, task: Task, following: SlotGrant, requeued: Task) -> ReturnArgument:
        return {
            **self._entry(task),
            "next": following.entry_id,
            "queued_at": requeued.queued_ms,
            "priority": requeued.priority,
        }

    def _telling(self) -> Telling:
        return {"kept": to_ms(TOLD_KEPT_S), "pause": to_ms(self._policy.busy_retry_s)}

    def _longest_pause_ms(self) -> int:
        return to_ms(max(self._policy.backoff_base_s, 2 * self._policy.busy_retry_s))

    async def _run(self, name: str, path: str, argument: Mapping[str, Any]) -> Any:
        return await self._link.script(f"queue/{name}", tag_of(path), pack(argument))
