"""The uploads of one Redis: what was declared of each, and which task has it.

An upload lies in the partition of its own id: when it is made, there may be no task. So to take it and to create the
task are two steps, in this order. ``lua/upload/`` has the scripts, with what they take and return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from shared.store.arguments import (
    Clock,
    CreateUploadArgument,
    GiveBackUploadArgument,
    TakeUploadArgument,
    now_of,
    stamp,
)
from shared.store.redis.link import NotAcknowledged, RedisLink
from shared.store.redis.partitions import by_tag, pack, tag_of, to_ms, unpack
from shared.tasks.uploads import NewUpload, Purpose, Taken, Upload

UPLOAD_GRACE_S: Final = 600.0
"""How much longer than it can be used an upload is known. Within it, what was begun in time ends: the writing of a
last block, and the creation of the task that took it."""


class Uploads:
    """Raises :class:`StoreUnavailable` from every method if Redis does not answer; to repeat a step is safe."""

    def __init__(self, link: RedisLink, now_ms: Clock | None = None) -> None:
        self._link = link
        self._now_ms = now_ms

    async def create(self, new: NewUpload, valid_s: float) -> None:
        """Store an upload, which can be used for *valid_s*. Afterwards the sweep finds it."""
        argument: CreateUploadArgument = {
            "now": now_of(self._now_ms),
            "id": new.id,
            "rec": _record(new),
            "valid": to_ms(valid_s),
            "grace": to_ms(UPLOAD_GRACE_S),
        }
        await self._link.script("upload/create", tag_of(new.id), pack(argument))

    async def get(self, upload_id: str) -> Upload | None:
        """An upload that can still be used."""
        now = str(now_of(self._now_ms))
        raw = await self._link.script("upload/get", tag_of(upload_id), upload_id, now)
        return unpack_upload(upload_id, raw) if raw else None

    async def take(self, upload_id: str, taker: str, snapshot: str, *, comes_again: bool = True) -> Taken | None:
        """Take an upload with a snapshot of it, unless another taker has it. The same taker always gets the first
        snapshot. None if it can no longer be used.

        Args:
            comes_again: whether a caller who hears that the store does not answer repeats this as the same taker.
                What nobody comes for again is given back if the step is not acknowledged.
        """
        argument: TakeUploadArgument = {
            "id": upload_id,
            "taker": taker,
            "snapshot": snapshot,
            **stamp(self._now_ms),
        }
        try:
            raw = await self._link.script("upload/take", tag_of(upload_id), pack(argument))
        except NotAcknowledged as error:
            if error.reply and not comes_again:
                await self.give_back(Taken(unpack_upload(upload_id, error.reply), argument["op"]))
            raise
        return Taken(unpack_upload(upload_id, raw), argument["op"]) if raw else None

    async def give_back(self, taken: Taken) -> bool:
        """Let others take what was *taken* for a task that has not come to be. Returns whether nobody has it now: the
        same taker may have taken it again."""
        argument: GiveBackUploadArgument = {"id": taken.upload.id, "op": taken.operation}
        return bool(await self._link.script("upload/give_back", tag_of(taken.upload.id), pack(argument)))

    async def forget(self, upload_ids: Iterable[str]) -> None:
        """Forget uploads that nobody can use any more."""
        await asyncio.gather(
            *(self._link.script("upload/forget", tag, *ids) for tag, ids in by_tag(upload_ids).items())
        )


def _record(new: NewUpload) -> dict[str, Any]:
    record: dict[str, Any] = {"z": new.size_bytes, "t": new.content_type, "b": new.blob}
    if new.encoding:
        record["c"] = new.encoding
    if new.sha256:
        record["h"] = new.sha256
    if new.owner:
        record["o"] = new.owner
    if new.purpose is not None:
        record["d"], record["a"] = new.purpose
    return record


def unpack_upload(upload_id: str, raw: bytes) -> Upload:
    record: dict[str, Any] = unpack(raw)
    return Upload(
        id=upload_id,
        blob=record["b"],
        size_bytes=record["z"],
        content_type=record["t"],
        encoding=record.get("c", ""),
        sha256=record.get("h", ""),
        owner=record.get("o", ""),
        purpose=Purpose(record["d"], record["a"]) if "d" in record else None,
        taker=record.get("T", ""),
        snapshot=record.get("S", ""),
    )
