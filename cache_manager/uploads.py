"""The operations on uploads: to make one, and to make it the body of a new task or the result of an attempt.

A client may write an upload's blob as long as its URL is valid, also after it was handed in. So it is snapshotted
when it is handed in, what was declared is checked on the snapshot, and only the snapshot is ever read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cache_manager.operation_outcomes import (
    BodyTooLarge,
    IdempotencyKeyReused,
    SubmitOutcome,
    TakesNoReference,
    UploadMismatch,
    UploadUnknown,
    UploadUsed,
)
from cache_manager.task_service import TaskService
from cache_manager.upload_schemas import UploadRequest
from shared import telemetry
from shared.bodies import BodyMissing, NoSas, Unreadable, upload_blob
from shared.dispatch.registry import Endpoint
from shared.services import Services
from shared.signed_urls import SignedUrl
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Applied, Created, Existing, Outcome, Refusal, Refused
from shared.tasks.task import NewTask
from shared.tasks.uploads import NewUpload, Purpose, Taken, Upload, taker_of
from shared.tasks.value import value

NotTaken = UploadUnknown | UploadUsed | UploadMismatch
_SHOWN_CHARS: Final = 100


@value
class Made:
    """A new upload, and where to write it."""

    upload: NewUpload
    url: SignedUrl


@dataclass(frozen=True, slots=True)
class Uploads:
    """The operations for one caller. An upload is its owner's, or nobody's if it was made without one."""

    tasks: TaskService

    @property
    def services(self) -> Services:
        return self.tasks.services

    async def create(self, request: UploadRequest, attempt: int | None) -> Made | BodyTooLarge | Refused | None:
        """Make an upload: of a body, or of the result of a task's *attempt*. None if there is no such task.

        Raises:
            NoSas: clients cannot write to the storage account themselves.
            BlobsUnavailable: Blob Storage does not answer.
        """
        settings = self.services.settings
        if settings.max_upload_bytes == 0:
            raise NoSas("MAX_UPLOAD_BYTES is 0")
        if request.size > settings.max_upload_bytes:
            return BodyTooLarge(settings.max_upload_bytes)
        purpose = None
        if request.task_id is not None and attempt is not None:
            task = await self.tasks.find(request.task_id)
            if task is None or task.state.is_terminal or task.attempt != attempt:
                return None if task is None else Refused(_refusal(is_over=task.state.is_terminal), task)
            purpose = Purpose(task.id, attempt)
        upload_id = new_task_id()
        new = NewUpload(
            id=upload_id,
            blob=upload_blob(upload_id, purpose.task_id if purpose else None),
            size_bytes=request.size,
            content_type=request.content_type,
            encoding=request.encoding,
            sha256=(request.sha256 or "").lower(),
            owner=self._owner,
            purpose=purpose,
        )
        url = await self.services.bodies.upload_url(new.blob, settings.upload_url_s)
        # Nobody has the URL before the deadline of its blob is stored.
        await self.services.store.uploads.create(new, settings.upload_url_s)
        return Made(new, url)

    async def find(self, upload_id: str, purpose: Purpose | None = None) -> Upload | UploadUnknown | UploadUsed:
        """An upload of this caller that is to become the body of a new task, or the result that *purpose* names."""
        upload = await self.services.store.uploads.get(upload_id)
        if upload is None or upload.owner != self._owner:
            return UploadUnknown()
        return upload if upload.purpose == purpose else UploadUsed(upload)

    async def submit(self, new: NewTask, upload: Upload, way: Sequence[Endpoint]) -> SubmitOutcome | NotTaken:
        """Create a task with the upload as its body, and have it dispatched."""
        limit_bytes = self.services.settings.largest_body_bytes
        for endpoint in way if upload.size_bytes > limit_bytes else ():
            if not endpoint.backend.takes_reference:
                return TakesNoReference(endpoint.path, limit_bytes)
        if new.fingerprint and (known := await self.services.store.get(new.id)) is not None:
            return Existing(known) if known.fingerprint == new.fingerprint else IdempotencyKeyReused(known)
        taken = await self._take(upload, taker_of(new.id), comes_again=bool(new.fingerprint))
        if not isinstance(taken, Taken):
            return taken
        content = taken.upload.content
        created = await self.tasks.create(replace(new, body=content))
        if isinstance(created, Existing) and created.task.fingerprint != new.fingerprint:
            created = IdempotencyKeyReused(created.task)
        is_kept = isinstance(created, Created) or (isinstance(created, Existing) and created.task.body == content)
        if not is_kept and await self.services.store.uploads.give_back(taken):
            await self.services.bodies.discard_snapshot(taken.upload.snapshot)
        return created

    async def take(self, upload: Upload, taker: str) -> Taken | NotTaken:
        """Take an upload with a snapshot of it, for a taker that is no task. It has to copy what it keeps."""
        return await self._take(upload, taker)

    async def put_result(self, upload: Upload, completed: str | None) -> Outcome | NotTaken:
        """Make the upload the result of its attempt, and complete the task with the text *completed* in the same
        step."""
        assert upload.purpose is not None
        task_id, attempt = upload.purpose
        taken = await self._take(upload, taker_of(task_id, attempt))
        if not isinstance(taken, Taken):
            return taken
        started_ns, content = telemetry.now_ns(), taken.upload.content
        outcome = await self.services.store.put_result(
            task_id, content, b"", attempt=attempt, completed=completed, owner=self.tasks.owner
        )
        if isinstance(outcome, Applied):
            telemetry.join(outcome.task, "store result", started_ns)
        return await self.tasks.after_put(content, outcome)

    @property
    def _owner(self) -> str:
        return self.tasks.owner or ""

    async def _take(self, upload: Upload, taker: str, *, comes_again: bool = True) -> Taken | NotTaken:
        """Take the upload with a snapshot of it. Concurrent takers have one each, and the upload knows one.

        Args:
            comes_again: as in the store's: a submit without an idempotency key makes another task each time.
        """
        if upload.taker:
            snapshot = ""
            if upload.taker != taker:
                return UploadUsed(upload)
        else:
            checked = await self._checked_snapshot(upload)
            if isinstance(checked, UploadMismatch):
                return checked
            snapshot = checked
        taken = await self.services.store.uploads.take(upload.id, taker, snapshot, comes_again=comes_again)
        if snapshot and (taken is None or taken.upload.snapshot != snapshot):
            await self.services.bodies.discard_snapshot(snapshot)
        if taken is None:
            return UploadUnknown()
        if not taken.upload.taker:  # it was given back meanwhile
            return await self._take(taken.upload, taker, comes_again=comes_again)
        return taken if taken.upload.taker == taker else UploadUsed(taken.upload)

    async def _checked_snapshot(self, upload: Upload) -> str | UploadMismatch:
        try:
            found = await self.services.bodies.snapshot(upload.blob)
        except BodyMissing:
            return UploadMismatch("nothing was written to the URL of the upload")
        except Unreadable as error:
            return UploadMismatch(f"what was written cannot be read: {error}")
        told = (
            ("Size", upload.size_bytes, found.size_bytes),
            ("ContentType", upload.content_type, found.content_type),
            ("ContentEncoding", upload.encoding, found.encoding),
        )
        wrong = "; ".join(
            f"{name} was declared as {declared!r:.{_SHOWN_CHARS}}, and is {written!r:.{_SHOWN_CHARS}}"
            for name, declared, written in told
            if declared != written
        )
        if not wrong:
            return found.blob
        await self.services.bodies.discard_snapshot(found.blob)
        return UploadMismatch(wrong)


def _refusal(*, is_over: bool) -> Refusal:
    return Refusal.FINISHED if is_over else Refusal.STALE
