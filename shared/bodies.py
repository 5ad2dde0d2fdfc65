"""Keeps large request bodies and results in Blob Storage (claim check). The task store keeps small ones inline."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shared.blobs import (
    BlobStream,
    BlobsUnavailable,
    BodyMissing,
    Snapshot,
    Unreadable,
    base_of,
    client_of,
    copy_blob,
    create_container,
    delete_blob,
    parted,
)
from shared.resilience.circuit_breaker import CircuitBreaker, CircuitOpen
from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.signed_urls import NoSas, SignedUrl, UrlSigner
from shared.tasks.task import SNAPSHOT_MARK, Content, Task

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient, ContainerClient

    from shared.blobs import Download

__all__ = ["BlobStream", "BlobsUnavailable", "BodyMissing", "BodyStore", "NoSas", "Unreadable", "upload_blob"]

log = logging.getLogger("task_backbone")

T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
"""How long a call may take in all. It may have to move 100 MiB."""
CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
_BLOCK_BLOB = "BlockBlob"
_OF_THE_BLOB = (409, 412)
"""Answers that say that something is odd with the blob: archived, encrypted with a key of its client, …"""
_PIECES_AT_ONCE = 4
"""Of one upload. What is sent at a time takes the process from its other calls, so several share that number."""
_PATIENCE_S = 1.0
"""How long a call waits after an earlier one got no answer."""


class BodyStore:
    """Stores bodies and results as blobs. All blobs of a task have one prefix, so they can be removed together,
    whatever happened before; but for a body that its caller has uploaded, before there was a task.

    Of an upload, only a snapshot is ever read: what its client writes afterwards changes nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._container: ContainerClient | None = None
        self._signer: UrlSigner | None = None
        self._why_never = _why_never(settings)
        self._is_container_there = False
        self._uploads = 0
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

    async def put_blob(self, blob: str, data: bytes) -> None:
        """Store *data* as the *blob*, which is no task's.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        await self._ask(lambda container: self._put(container, blob, data))

    async def copy(self, content: Content, blob: str) -> Content:
        """The same content, as a blob of its own. Blob Storage copies it, so that none of it comes here.

        Raises:
            BodyMissing: there is no such blob of that length.
            BlobsUnavailable: Blob Storage does not answer.
        """

        async def copy(container: ContainerClient) -> None:
            await copy_blob(container, content, blob)

        await self._ask(copy)
        return content._replace(blob=blob)

    async def copy_for(self, task_id: str, content: Content) -> Content:
        """As :meth:`copy`, as the body of a task."""
        return await self.copy(content, _prefix(task_id) + secrets.token_hex(8))

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
            await self.delete(blob)
        except BlobsUnavailable:
            log.warning("an unused blob could not be deleted: %s", blob)

    async def delete(self, blob: str) -> None:
        """Delete a blob with its snapshots.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        await self._ask(lambda container: delete_blob(container, blob))

    async def delete_all(self, task: Task) -> None:
        """Delete every blob of a task.

        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import ResourceNotFoundError

        contents = (task.body, task.result, task.checkpoint)
        uploads = [each.blob for each in contents if each is not None and each.blob is not None and each.is_upload]

        async def delete(container: ContainerClient) -> None:
            names = [name async for name in container.list_blob_names(name_starts_with=_prefix(task.id))]
            for name in dict.fromkeys([*names, *map(base_of, uploads)]):
                await delete_blob(container, name)

        try:
            await self._ask(delete)
        except ResourceNotFoundError:  # of the container
            return

    @property
    def why_no_sas(self) -> str | None:
        """Why clients can neither write nor read blobs themselves, as far as that is known; None if they can."""
        return self._signer.refusal if self._why_never is None and self._signer is not None else self._why_never

    @property
    def most_upload_bytes(self) -> int:
        """The largest body or result that clients can write themselves; 0 if they can write none."""
        return self._settings.max_upload_bytes if self.why_no_sas is None else 0

    async def upload_url(self, blob: str, valid_s: float) -> SignedUrl:
        """A URL by which a client can write the *blob*, and nothing else.

        Raises:
            NoSas: no SAS can be made.
            BlobsUnavailable: Blob Storage does not answer.
        """
        self._check_signing()

        async def sign(container: ContainerClient) -> SignedUrl:
            if not self._is_container_there:
                await create_container(container)
                self._is_container_there = True
            return await self._signing.writing(blob, valid_s)

        return await self._ask(sign)

    async def read_url(self, content: Content, valid_s: float) -> SignedUrl:
        """A URL by which a client can read the blob of *content*, which is there.

        Raises:
            NoSas: no SAS can be made.
            BodyMissing: there is no such blob of that length.
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import ResourceNotFoundError

        blob = content.blob
        assert blob is not None
        self._check_signing()

        async def sign(container: ContainerClient) -> SignedUrl:
            name, snapshot = parted(blob)
            url = await self._signing.reading(
                name, snapshot, valid_s, content_type=content.content_type, encoding=content.encoding
            )
            try:
                size_bytes = (await client_of(container, blob).get_blob_properties()).size
            except ResourceNotFoundError:
                raise BodyMissing(blob) from None
            if size_bytes != content.size_bytes:
                raise BodyMissing(blob)
            return url

        return await self._ask(sign)

    async def snapshot(self, blob: str) -> Snapshot:
        """Take a snapshot of what a client has written.

        Raises:
            BodyMissing: it has written nothing.
            Unreadable: it has written what cannot be read.
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
        from azure.storage.blob import BlobType

        async def take(container: ContainerClient) -> Snapshot:
            try:
                taken = await client_of(container, blob).create_snapshot()
                name = f"{blob}{SNAPSHOT_MARK}{taken['snapshot']}"
                found = await client_of(container, name).get_blob_properties()
            except ResourceNotFoundError:
                raise BodyMissing(blob) from None
            except HttpResponseError as error:
                if error.status_code not in _OF_THE_BLOB:
                    raise
                raise Unreadable(str(getattr(error, "error_code", None) or error.status_code)) from None
            if found.blob_type != _BLOCK_BLOB:
                raise Unreadable(f"it is a {BlobType(found.blob_type).value}, not a {_BLOCK_BLOB}")
            settings = found.content_settings
            return Snapshot(name, found.size, settings.content_type or "", settings.content_encoding or "")

        return await self._ask(take)

    async def discard_snapshot(self, blob: str) -> None:
        """Delete a snapshot that no record names. If that fails, it goes with its blob."""
        from azure.core.exceptions import ResourceNotFoundError

        async def delete(container: ContainerClient) -> None:
            with suppress(ResourceNotFoundError):
                await client_of(container, blob).delete_blob()

        with suppress(BlobsUnavailable):
            await self._ask(delete)

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
        from azure.core.exceptions import ResourceNotFoundError

        try:
            await self._upload(container, name, data)
        except ResourceNotFoundError:
            await create_container(container)
            await self._upload(container, name, data)

    async def _upload(self, container: ContainerClient, name: str, data: bytes) -> None:
        self._uploads += 1
        try:
            pieces = max(1, _PIECES_AT_ONCE // self._uploads)
            await container.upload_blob(name, data, overwrite=True, max_concurrency=pieces)
        finally:
            self._uploads -= 1

    def _check_signing(self) -> None:
        if self._why_never is not None:
            raise NoSas(self._why_never)

    @property
    def _signing(self) -> UrlSigner:
        assert self._signer is not None
        return self._signer

    def _open(self) -> ContainerClient:
        if self._container is not None:
            return self._container
        from azure.storage.blob.aio import BlobServiceClient, ContainerClient

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
        url = _endpoint(settings)
        # Not a service's client of the container, which would leave the connections open when it is closed.
        if settings.azurewebjobsstorage and not settings.blob_service_uri:
            self._container = ContainerClient.from_connection_string(
                settings.azurewebjobsstorage.get_secret_value(), settings.blob_container, **options
            )
        elif url:
            from azure.identity.aio import DefaultAzureCredential

            credential = cast("Any", DefaultAzureCredential())
            self._container = ContainerClient(url, settings.blob_container, credential=credential, **options)
        else:
            raise BlobsUnavailable("no storage account is set")

        def open_account() -> BlobServiceClient:
            assert url is not None
            return BlobServiceClient(url, credential=container.credential, **options)

        container = self._container
        self._signer = UrlSigner(container, open_account)
        return container


async def _download(
    container: ContainerClient, content: Content, max_concurrency: int = 1, part: range | None = None
) -> Download:
    from azure.core.exceptions import ResourceNotFoundError

    assert content.blob is not None
    blob = client_of(container, content.blob)
    try:
        if part is None:
            download = await blob.download_blob(max_concurrency=max_concurrency)
            size_bytes = download.size
        else:
            download = await blob.download_blob(offset=part.start, length=len(part), max_concurrency=max_concurrency)
            size_bytes = int((download.properties.content_range or "").rpartition("/")[2])
    except ResourceNotFoundError:
        raise BodyMissing(content.blob) from None
    if size_bytes != content.size_bytes:
        raise BodyMissing(content.blob)
    return download


def _endpoint(settings: Settings) -> str | None:
    """The blob endpoint for the managed identity; None if no account is named for it."""
    name = settings.azurewebjobsstorage__accountname
    of_the_host = settings.azurewebjobsstorage__blobserviceuri or (
        f"https://{name}.blob.core.windows.net" if name else None
    )
    return settings.blob_service_uri or of_the_host


def _why_never(settings: Settings) -> str | None:
    """Why no SAS can ever be made with these settings; None if one may."""
    if settings.azurewebjobsstorage and not settings.blob_service_uri:
        parts = settings.azurewebjobsstorage.get_secret_value().split(";")
        names = {part.partition("=")[0].strip().lower() for part in parts}
        has_key = not names.isdisjoint(("accountkey", "usedevelopmentstorage"))
        return None if has_key else "AzureWebJobsStorage has no account key, and a SAS makes no other SAS"
    return None if _endpoint(settings) else "no storage account is set"


def upload_blob(upload_id: str, task_id: str | None) -> str:
    """The blob of an upload: of a body, or of the result of a task."""
    return f"u-{upload_id}" if task_id is None else f"{_prefix(task_id)}u-{upload_id}"


def _prefix(task_id: str) -> str:
    # With the letter, the ids "." and ".." are no path segments.
    return f"t-{task_id}/"
