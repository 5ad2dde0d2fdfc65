"""What operators have done: a stream in one partition, of which the newest entries are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from shared.store.arguments import AuditArgument, Clock, stamp
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import HASH_TAGS, NOT_PACKED, pack, unpack

ENTRIES_KEPT: Final = 10_000
_TAG: Final = HASH_TAGS[0]

KnownBy = Literal["key", "gateway", "easyauth"]
"""How the app knows who acts: by a function key, of which it knows no name; by the gateway's word, or the
platform's."""


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator does.

    Attributes:
        name: what is done, such as ``cancel``.
        target: a task's id, a queue's path, or which tasks a bulk action takes; None: all.
        operator: None if nobody knows the name.
        operation_id: that of a bulk action, of which each piece has an entry.
    """

    name: str
    target: str | None
    operator: str | None
    by: KnownBy
    operation_id: str | None = None

    @property
    def packed(self) -> dict[str, str]:
        fields = {
            "action": self.name,
            "target": self.target,
            "operator": self.operator,
            "by": self.by,
            "operation": self.operation_id,
        }
        return {name: text for name, text in fields.items() if text is not None}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    Attributes:
        count: how many tasks or queues the action has changed; None: it goes on, or nobody knows what came of it.
    """

    id: str
    at_ms: int
    action: Action
    count: int | None

    @classmethod
    def unpacked(cls, entry_id: bytes, fields: Sequence[bytes], count: bytes | None) -> Self | None:
        """None of what somebody else has written."""
        try:
            entry: dict[str, Any] = unpack(dict(zip(fields[::2], fields[1::2], strict=True))[b"e"])
            operator, operation = entry.get("operator"), entry.get("operation")
            action = Action(entry["action"], entry.get("target"), operator, entry["by"], operation)
            return cls(entry_id.decode(), entry["at"], action, None if count is None else int(count))
        except (AttributeError, KeyError, TypeError, *NOT_PACKED):
            return None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some entries, the newest first. ``next`` is the id of the entry behind which the next page begins; None on the
    last one."""

    entries: Sequence[AuditEntry]
    next: str | None


class Audit:
    """
    Args:
        kept: how many entries are kept.
    """

    def __init__(self, link: RedisLink, now_ms: Clock | None = None, kept: int = ENTRIES_KEPT) -> None:
        self._link = link
        self._now_ms = now_ms
        self._kept = kept

    async def begin(self, action: Action) -> str:
        """Put an *action* on record that is about to be taken; returns the entry's id.

        Raises:
            StoreUnavailable: Redis does not answer. The action must not be taken then.
        """
        argument: AuditArgument = {"entry": action.packed, "most": self._kept, **stamp(self._now_ms)}
        entry_id: bytes = await self._link.script("audit/begin", _TAG, pack(argument))
        return entry_id.decode()

    async def finish(self, entry_id: str, count: int) -> None:
        """Note how many tasks or queues an action has changed."""
        await self._link.script("audit/finish", _TAG, entry_id, str(count))

    async def page(self, limit: int, behind: str | None = None) -> AuditPage:
        """The newest entries, or those *behind* an entry."""
        rows: list[list[Any]] = await self._link.script("audit/read", _TAG, str(limit + 1), behind or "")
        found = [AuditEntry.unpacked(*row) for row in rows[:limit]]
        following = rows[limit - 1][0].decode() if len(rows) > limit else None
        return AuditPage([entry for entry in found if entry is not None], following)
