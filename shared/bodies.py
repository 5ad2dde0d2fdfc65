"""Keeps large request bodies and results in Blob Storage (claim check). The task store keeps small ones inline."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shared.resilience.circuit_breaker import CircuitBreaker, CircuitOpen
from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.tasks.task import Content

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient, StorageStreamDownloader

    Download = StorageStreamDownloader[bytes]

log = logging.getLogger("task_backbone")

T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
"""How long a call may take in all. It may have to move 100 MiB."""
CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
PIECE_TIMEOUT_S = 10.0
"""How long each 4 MiB piece of a stream may take."""
_SLICE_BYTES = 256 * 1024
"""The size of the slices of a stream. The socket would not take all of a larger one, and the rest would be copied."""
_PATIENCE_S = 1.0
"""How long a call waits after an earlier one got no answer."""


class BlobsUnavailable(Exception):
    """Raised if Blob Storage does not answer now, or if the app has no storage account."""


class BodyMissing(Exception):
    """Raised if a record names a blob that is gone, or one of another length."""


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


class BodyStore:
    """Stores bodies and results as blobs. All blobs of a task have one prefix, so they can be removed together,
    whatever happened before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._container: ContainerClient | None = None
        self._circuit = CircuitBreaker((BlobsUnavailable,), patience_s=_PATIENCE_S)

    async def put(self, task_id: str, content_type: str, data: bytes, encoding: str = "") -> Content:
        """Store *data* if it is too large to be inline. Each call writes a new blob and overwrites none.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        if len(data) <= INLINE_LIMIT_BYTES:
            return Content(content_type, len(data), None, encoding)
        name = _prefix(task_id) + secrets.token_hex(8)
        await self._ask(lambda container: self._put(container, name, data))
        return Content(content_type, len(data), name, encoding)

    async def read(self, content: Content, part: range | None = None) -> bytes:
        """Read a blob, or only *part* of its bytes.

        Raises:
            BodyMissing: there is no such blob of that length.
            BlobsUnavailable: Blob Storage does not answer.
        """

        async def read(container: ContainerClient) -> bytes:
            download = await _download(container, content, max_concurrency=4, part=part)
            return await download.readall()

        return await self._ask(read)

    async def stream(self, content: Content) -> BlobStream:
        """Read a blob without having all of it in memory at any time. Returns when the first piece is there.

        Raises:
            BodyMissing: there is no such blob of that length.
            BlobsUnavailable: Blob Storage does not answer.
        """

        async def open_blob() -> Download:
            return await self._ask(lambda container: _download(container, content))

        return BlobStream(content.size_bytes, await open_blob(), open_blob)

    async def discard(self, content: Content | None) -> None:
        """Delete the blob of *content*, which no record names. If that fails, the storage account's lifecycle rule
        deletes it."""
        if content is not None and content.blob is not None:
            await self.discard_blob(content.blob)

    async def discard_blob(self, blob: str) -> None:
        """Delete a blob that no record names, as :meth:`discard` does."""
        try:
            await self._ask(lambda container: self._delete(container, blob))
        except BlobsUnavailable:
            log.warning("an unused blob could not be deleted: %s", blob)

    async def delete_all(self, task_id: str) -> None:
        """Delete every blob of a task.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import ResourceNotFoundError

        async def delete(container: ContainerClient) -> None:
            names = [name async for name in container.list_blob_names(name_starts_with=_prefix(task_id))]
            for name in names:
                await self._delete(container, name)

        try:
            await self._ask(delete)
        except ResourceNotFoundError:  # of the container
            return

    async def ping(self) -> None:
        """
        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        await self._ask(lambda container: container.exists())

    async def aclose(self) -> None:
        if self._container is not None:
            await self._container.close()

    async def _ask(self, call: Callable[[ContainerClient], Awaitable[T]]) -> T:
        try:
            return await self._circuit.call(
                lambda: self._attempt(call), probe=lambda: self._attempt(lambda container: container.exists())
            )
        except CircuitOpen as error:
            raise BlobsUnavailable(type(error).__name__) from error

    async def _attempt(self, call: Callable[[ContainerClient], Awaitable[T]]) -> T:
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        container = self._open()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await call(container)
        except ResourceNotFoundError:
            raise
        except (AzureError, OSError) as error:
            raise BlobsUnavailable(type(error).__name__) from error

    async def _put(self, container: ContainerClient, name: str, data: bytes) -> None:
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        try:
            await self._upload(container, name, data)
        except ResourceNotFoundError:
            with suppress(ResourceExistsError):
                await container.create_container()
            await self._upload(container, name, data)

    async def _upload(self, container: ContainerClient, name: str, data: bytes) -> None:
        await container.upload_blob(name, data, overwrite=True, max_concurrency=4)

    async def _delete(self, container: ContainerClient, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        with suppress(ResourceNotFoundError):
            await container.delete_blob(name)

    def _open(self) -> ContainerClient:
        if self._container is not None:
            return self._container
        from azure.storage.blob.aio import ContainerClient

        settings = self._settings
        options: dict[str, Any] = {
            "retry_total": 1,
            "retry_connect": 0,
            "initial_backoff": 1,
            "random_jitter_range": 1,
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # With one piece, the client would copy what the socket does not take at once, and join what it gives.
            "max_single_put_size": 4 * 1024 * 1024,
            "max_single_get_size": 4 * 1024 * 1024,
        }
        url = settings.azurewebjobsstorage__blobserviceuri or (
            f"https://{settings.azurewebjobsstorage__accountname}.blob.core.windows.net"
            if settings.azurewebjobsstorage__accountname
            else None
        )
        # Not a service's client of the container, which would leave the connections open when it is closed.
        if settings.azurewebjobsstorage:
            self._container = ContainerClient.from_connection_string(
                settings.azurewebjobsstorage.get_secret_value(), settings.blob_container, **options
            )
        elif url:
            from azure.identity.aio import DefaultAzureCredential

            credential = cast("Any", DefaultAzureCredential())
            self._container = ContainerClient(url, settings.blob_container, credential=credential, **options)
        else:
            raise BlobsUnavailable("no storage account is set")
        return self._container


async def _download(
    container: ContainerClient, content: Content, max_concurrency: int = 1, part: range | None = None
) -> Download:
    from azure.core.exceptions import ResourceNotFoundError

    assert content.blob is not None
    try:
        if part is None:
            download = await container.download_blob(content.blob, max_concurrency=max_concurrency)
            size_bytes = download.size
        else:
            download = await container.download_blob(
                content.blob, offset=part.start, length=len(part), max_concurrency=max_concurrency
            )
            size_bytes = int((download.properties.content_range or "").rpartition("/")[2])
    except ResourceNotFoundError:
        raise BodyMissing(content.blob) from None
    if size_bytes != content.size_bytes:
        raise BodyMissing(content.blob)
    return download


def _prefix(task_id: str) -> str:
    # With the letter, the ids "." and ".." are no path segments.
    return f"t-{task_id}/"
