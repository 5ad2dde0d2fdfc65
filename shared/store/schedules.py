"""The schedules of one Redis. Those of an owner lie in one partition.

A due time makes exactly one task: one script says what becomes of the time, if the schedule has not gone past it
(:meth:`Schedules.begin`). What it says is done afterwards, by whoever comes first, and as often as it takes, for the
task's id is in the record by then. ``lua/schedule/`` has the scripts, with what they take and return.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from shared.store.arguments import Clock, now_of, stamp
from shared.store.due_schedules import START_GRACE_S, DueSchedules, name_of
from shared.store.record_codec import pack_content, unpack_content
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, by_tag, pack, tag_of, to_ms, unpack
from shared.store.schedule_arguments import (
    BeginRunArgument,
    PackedRun,
    PauseScheduleArgument,
    PutScheduleArgument,
    SettleRunArgument,
)
from shared.tasks.schedules import (
    CatchUp,
    Definition,
    LastTask,
    Name,
    Overlap,
    Pending,
    Run,
    RunOutcome,
    Schedule,
)
from shared.tasks.task import DEFAULT_PRIORITY

MOST_SCHEDULES: Final = 1_000
"""How many schedules an owner may have."""
BLOB_GRACE_S: Final = 600.0
"""Within which a blob that was written for a schedule is the schedule's."""
BLOB_PREFIX: Final = "s-"
"""Of the blobs of schedules. No lifecycle rule may delete what has it."""
_INTERVAL_S: Final = 5.0
_IF_GIVEN: Final = {
    "until": "until_ms",
    "start_before": "start_before_ms",
    "max_run": "max_run_ms",
    "callback": "callback",
}
"""Members of a definition that its record has only if they say something."""


class Looked(NamedTuple):
    """A schedule at one moment."""

    now_ms: int
    schedule: Schedule | None
    body: bytes | None
    """None if it was not asked for, or is a blob."""


class SchedulePage(NamedTuple):
    schedules: Sequence[Schedule]
    next: Name | None
    """The one behind which the next page begins; None on the last one."""


class Schedules:
    """Raises :class:`StoreUnavailable` from every method if Redis does not answer; to repeat a step is safe.

    Args:
        most: how many an owner may have.
        interval_s: between the reconciler's rounds.

    Attributes:
        due: tells of those that are due, at the moment.
    """

    def __init__(
        self,
        link: RedisLink,
        now_ms: Clock | None = None,
        most: int = MOST_SCHEDULES,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self.due = DueSchedules(link, interval_s, now_ms)
        self._link = link
        self._now_ms = now_ms
        self._most = most

    async def put(self, name: Name, definition: Definition, body: bytes, next_ms: int | None) -> Schedule | None:
        """Store a schedule, or put another definition in the place of the one that it has. None if its owner has as
        many as it may.

        Args:
            body: unless it is a blob.
            next_ms: when it is due next. One that is due now, by the same expression, stays so.
        """
        argument: PutScheduleArgument = {
            "name": " ".join(name),
            "owner": name.owner,
            "definition": _pack_definition(definition),
            "generation": secrets.token_hex(8),
            "most": self._most,
            **stamp(self._now_ms),
        }
        if next_ms is not None:
            argument["next"] = next_ms
        raw = await self._link.script("schedule/put", tag_of(name.owner), pack(argument), body)
        return _unpack(name, raw) if raw else None

    async def get(self, name: Name, *, with_body: bool = False) -> Looked:
        now_ms, raw, body = await self._link.script(
            "schedule/get", tag_of(name.owner), str(now_of(self._now_ms)), " ".join(name), "1" if with_body else "0"
        )
        return Looked(now_ms, _unpack(name, raw) if raw else None, body)

    async def page(self, owner: str | None, limit: int, behind: Name | None = None) -> SchedulePage:
        """Schedules by their owners and names; of one owner, or of all."""
        low, high = ("-", "+") if owner is None else (f"[{owner} ", f"({owner}!")
        low = low if behind is None else f"({' '.join(behind)}"
        tags = HASH_TAGS if owner is None else (tag_of(owner),)
        parts: list[list[list[bytes]]] = await asyncio.gather(
            *(self._link.script("schedule/page", tag, low, high, str(limit + 1)) for tag in tags)
        )
        rows = sorted((row[0], row[1]) for part in parts for row in part)
        found = [_unpack(name_of(name.decode()), raw) for name, raw in rows[:limit]]
        return SchedulePage(found, found[-1].name if len(rows) > limit else None)

    async def remove(self, name: Name) -> bool:
        """Remove a schedule. Its tasks stay."""
        arguments = str(now_of(self._now_ms)), " ".join(name)
        return bool(await self._link.script("schedule/remove", tag_of(name.owner), *arguments))

    async def pause(self, schedule: Schedule) -> Schedule | Literal["unknown", "stale"]:
        return await self._set_paused(schedule, next_ms=None, paused=True)

    async def resume(self, schedule: Schedule, next_ms: int | None) -> Schedule | Literal["unknown", "stale"]:
        """Let a schedule go on, which is due at *next_ms* then."""
        return await self._set_paused(schedule, next_ms=next_ms, paused=False)

    async def begin(self, schedule: Schedule, run: Run, next_ms: int | None) -> Schedule | None:
        """Say what becomes of the time at which the schedule is due, and when it is due next. None if it has gone
        past it, was paused or defined anew, or is gone: another process has seen to the time.

        Args:
            run: with a task's id, it is to be started.
        """
        argument: BeginRunArgument = {
            "name": " ".join(schedule.name),
            "generation": schedule.generation,
            "run": _pack_run(run),
            "grace": to_ms(START_GRACE_S),
            **stamp(self._now_ms),
        }
        if next_ms is not None:
            argument["next"] = next_ms
        raw = await self._link.script("schedule/begin", tag_of(schedule.name.owner), pack(argument))
        return _unpack(schedule.name, raw) if raw else None

    async def settle(
        self,
        name: Name,
        task_id: str,
        due_ms: int,
        outcome: Literal["started", "skipped", "waiting"],
        *,
        why: str = "",
        again_s: float = 0,
        is_asked: bool = False,
    ) -> None:
        """Note what has come of the start of a run. One that is *waiting* is tried again."""
        argument: SettleRunArgument = {
            "name": " ".join(name),
            "task": task_id,
            "due": due_ms,
            "outcome": outcome,
            "why": why,
            "again": to_ms(again_s),
            "asked": is_asked,
            **stamp(self._now_ms),
        }
        await self._link.script("schedule/settle", tag_of(name.owner), pack(argument))

    async def look_later(self, name: Name) -> None:
        """Have a schedule looked at when there is something to do; forget what is left of one that is gone."""
        await self._link.script("schedule/look_later", tag_of(name.owner), " ".join(name))

    async def expect_blob(self, owner: str) -> str:
        """The name of a blob that is to be written for a schedule. It is deleted, unless a schedule has it soon."""
        # It lies in the owner's partition, so that it is found there by its name alone.
        tag, blob = tag_of(owner), ""
        while not blob or tag_of(blob) != tag:
            blob = f"{BLOB_PREFIX}{secrets.token_hex(16)}"
        arguments = str(now_of(self._now_ms)), blob, str(to_ms(BLOB_GRACE_S))
        await self._link.script("schedule/expect_blob", tag, *arguments)
        return blob

    async def forget_blobs(self, blobs: Iterable[str]) -> None:
        """Forget blobs that are deleted."""
        await asyncio.gather(
            *(self._link.script("schedule/forget_blobs", tag, *some) for tag, some in by_tag(blobs).items())
        )

    async def _set_paused(
        self, schedule: Schedule, *, next_ms: int | None, paused: bool
    ) -> Schedule | Literal["unknown", "stale"]:
        argument: PauseScheduleArgument = {
            "name": " ".join(schedule.name),
            "generation": schedule.generation,
            "paused": paused,
            **stamp(self._now_ms),
        }
        if next_ms is not None:
            argument["next"] = next_ms
        what, *raw = await self._link.script("schedule/pause", tag_of(schedule.name.owner), pack(argument))
        if what != b"set":
            return "unknown" if what == b"unknown" else "stale"
        return _unpack(schedule.name, raw[0])


def _pack_run(run: Run) -> PackedRun:
    packed: PackedRun = {"t": run.due_ms, "o": run.outcome.value}
    if run.task_id:
        packed["i"] = run.task_id
    if run.why:
        packed["y"] = run.why
    return packed


def _pack_definition(definition: Definition) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "path": definition.path,
        "query": definition.query,
        "body": pack_content(definition.body),
        "cron": definition.cron,
        "zone": definition.zone,
        "overlap": definition.overlap.value,
        "catch_up": definition.catch_up.value,
        "priority": definition.priority,
    }
    return packed | {key: said for key, name in _IF_GIVEN.items() if (said := getattr(definition, name))}


def _unpack(name: Name, raw: bytes) -> Schedule:
    record: dict[str, Any] = unpack(raw)
    packed, p, last = record["d"], record.get("p"), record.get("l")
    # An empty list is an empty map, too.
    runs: list[dict[str, Any]] = [*(record.get("r") or ())]
    body = unpack_content(packed["body"])
    assert body is not None
    return Schedule(
        name=name,
        definition=Definition(
            path=packed["path"],
            query=packed["query"],
            body=body,
            cron=packed["cron"],
            zone=packed["zone"],
            overlap=Overlap(packed["overlap"]),
            catch_up=CatchUp(packed["catch_up"]),
            priority=packed.get("priority", DEFAULT_PRIORITY),
            **{name: packed[key] for key, name in _IF_GIVEN.items() if key in packed},
        ),
        generation=record["g"],
        created_ms=record["c"],
        updated_ms=record["m"],
        is_paused=record.get("P", False),
        next_ms=record.get("n"),
        runs=[
            Run(run["t"], RunOutcome(run["o"]), run.get("i", ""), run.get("y", ""), run.get("M", False))
            for run in reversed(runs)
        ],
        pending=Pending(p["t"], p["i"], p["r"], p.get("f", p["t"])) if p else None,
        last=LastTask(*last) if last else None,
    )
