"""Blobs as the app uses them: their names, what may be wrong with them, reading one piece by piece, deleting one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from shared.tasks.task import SNAPSHOT_MARK, Content
from shared.tasks.value import value

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient, ContainerClient, StorageStreamDownloader

    Download = StorageStreamDownloader[bytes]

PIECE_TIMEOUT_S = 10.0
"""How long each 4 MiB piece of a stream may take."""
STREAM_BYTES = 8 * 1024 * 1024
"""How much of a stream is in memory at most: a piece as it arrives, and as a whole."""
_SLICE_BYTES = 256 * 1024
"""The size of the slices of a stream. The socket would not take all of a larger one, and the rest would be copied."""

_COPY_POLL_S = 0.2
_COPYING, _COPIED = "pending", "success"


class BlobsUnavailable(Exception):
    """Raised if Blob Storage does not answer now, or if the app has no storage account."""


class BodyMissing(Exception):
    """Raised if a record names a blob that is gone, or one of another length."""


class Unreadable(Exception):
    """Raised if a blob is of a kind that cannot be read. The message has the reason, in Blob Storage's words."""


@value
class Snapshot:
    """A blob as it was at one moment. Its ``blob`` is what a content names."""

    blob: str
    size_bytes: int
    content_type: str
    encoding: str


class BlobStream:
    """A blob's content, piece by piece. A second iteration reads the blob once more.

    Attributes:
        is_broken: whether Blob Storage failed before the end.
    """

    def __init__(self, size_bytes: int, opened: Download, open_again: Callable[[], Awaitable[Download]]) -> None:
        self._size_bytes = size_bytes
        self._opened: Download | None = opened
        self._open_again = open_again
        self.is_broken = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """
        Raises:
            BlobsUnavailable: Blob Storage does not answer any more, or gives less or more than it said.
            BodyMissing: the blob has gone since the last iteration.
        """
        from azure.core.exceptions import AzureError

        try:
            left_bytes = self._size_bytes
            download, self._opened = self._opened or await self._open_again(), None
            pieces = download.chunks()
            while piece := await asyncio.wait_for(anext(pieces, b""), PIECE_TIMEOUT_S):
                left_bytes -= len(piece)
                if left_bytes < 0:
                    break
                for start in range(0, len(piece), _SLICE_BYTES):
                    yield piece[start : start + _SLICE_BYTES]
            if left_bytes:
                raise BlobsUnavailable("the blob has another length than recorded")
        except (AzureError, OSError) as error:
            self.is_broken = True
            raise BlobsUnavailable(type(error).__name__) from error
        except (BlobsUnavailable, BodyMissing):
            self.is_broken = True
            raise


async def create_container(container: ContainerClient) -> None:
    from azure.core.exceptions import ResourceExistsError

    with suppress(ResourceExistsError):
        await container.create_container()


async def copy_blob(container: ContainerClient, content: Content, blob: str) -> None:
    """Have the blob of *content* copied within its account.

    Raises:
        BodyMissing: there is no such blob of that length.
    """
    from azure.core.exceptions import ResourceNotFoundError

    assert content.blob is not None
    target = container.get_blob_client(blob)
    try:
        status = (await target.start_copy_from_url(client_of(container, content.blob).url))["copy_status"]
        while status == _COPYING:
            await asyncio.sleep(_COPY_POLL_S)
            status = (await target.get_blob_properties()).copy.status
        found = await target.get_blob_properties()
    except ResourceNotFoundError:
        raise BodyMissing(content.blob) from None
    if status != _COPIED:
        raise BlobsUnavailable(f"the copy of a blob is {status}")
    if found.size != content.size_bytes:
        raise BodyMissing(content.blob)


async def delete_blob(container: ContainerClient, blob: str) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
    from azure.storage.blob.aio import BlobLeaseClient

    client = client_of(container, base_of(blob))
    with suppress(ResourceNotFoundError):
        try:
            await client.delete_blob(delete_snapshots="include")
        except HttpResponseError as error:
            if getattr(error, "error_code", None) != "LeaseIdMissing":
                raise
            # Who may write a blob may lease it.
            await BlobLeaseClient(client).break_lease(lease_break_period=0)
            await client.delete_blob(delete_snapshots="include")


def client_of(container: ContainerClient, blob: str) -> BlobClient:
    name, snapshot = parted(blob)
    return container.get_blob_client(name, snapshot=snapshot) if snapshot else container.get_blob_client(name)


def parted(blob: str) -> tuple[str, str | None]:
    """The name of a blob, and that of its snapshot if it is one."""
    name, _, snapshot = blob.partition(SNAPSHOT_MARK)
    return name, snapshot or None


def base_of(blob: str) -> str:
    return parted(blob)[0]
