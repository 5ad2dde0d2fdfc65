"""Uploads: blobs that clients write to Blob Storage themselves, and hand in afterwards by a number."""

from __future__ import annotations

from typing import NamedTuple

from shared.tasks.task import Content
from shared.tasks.value import value


class Purpose(NamedTuple):
    """Which result an upload is to become."""

    task_id: str
    attempt: int


@value
class NewUpload:
    """What a client says that it will write."""

    id: str
    blob: str
    size_bytes: int
    content_type: str
    encoding: str = ""
    sha256: str = ""
    """In hexadecimal digits; empty if it is not declared."""
    owner: str = ""
    purpose: Purpose | None = None
    """None: it is to become the body of a new task."""


@value
class Upload(NewUpload):
    """An upload as the store knows it."""

    taker: str = ""
    """Who has it; empty if nobody has. See :func:`taker_of`."""
    snapshot: str = ""
    """What its taker has of it: the one snapshot that is ever read."""

    @property
    def task_id(self) -> str:
        """The task that has it; empty if nobody has."""
        return self.taker.partition(" ")[0]

    @property
    def content(self) -> Content:
        """What its taker has."""
        return Content(self.content_type, self.size_bytes, self.snapshot, self.encoding, self.sha256)


@value
class Taken:
    """An upload, and by which operation it was taken."""

    upload: Upload
    operation: int


def taker_of(task_id: str, attempt: int | None = None) -> str:
    """Who takes an upload as the body of a task, or as the result of its *attempt*."""
    return task_id if attempt is None else f"{task_id} {attempt}"
