"""Request bodies and results: small ones inline in the task store, large ones in Blob Storage (claim check)."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, cast

from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.task import Content

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient


log = logging.getLogger("task_backbone")


class BlobsUnavailable(Exception):
    """Raised when Blob Storage cannot be asked now, or the app has none."""


class BodyMissing(Exception):
    """Raised when a blob that a record names is gone."""


class BodyStore:
    """All blobs of a task lie under one prefix, so that they can be removed together whatever happened before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._container: ContainerClient | None = None

    async def put(self, task_id: str, content_type: str, data: bytes) -> Content:
        """Store *data* if it is too large to be inline. Each call writes a blob of its own and overwrites none."""
        if len(data) <= INLINE_LIMIT_BYTES:
            return Content(content_type, len(data))
        name = _prefix(task_id) + secrets.token_hex(8)
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        container = self._open()
        try:
            try:
                await self._upload(container, name, data)
            except ResourceNotFoundError:
                await self._create(container)
                await self._upload(container, name, data)
        except (AzureError, OSError, TimeoutError) as error:
            raise BlobsUnavailable(type(error).__name__) from error
        return Content(content_type, len(data), name)

    async def read(self, blob: str) -> bytes:
        """
        Raises:
            BodyMissing: there is no such blob.
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        try:
            stream = await self._open().download_blob(blob, max_concurrency=4)
            return await stream.readall()
        except ResourceNotFoundError:
            raise BodyMissing(blob) from None
        except (AzureError, OSError, TimeoutError) as error:
            raise BlobsUnavailable(type(error).__name__) from error

    async def discard(self, content: Content | None) -> None:
        """Delete a blob that no record came to name. If that fails, the storage account's lifecycle rule does it."""
        from azure.core.exceptions import AzureError

        if content is not None and content.blob is not None:
            try:
                await self._open().delete_blob(content.blob)
            except (AzureError, OSError, TimeoutError):
                log.warning("an unused blob could not be deleted: %s", content.blob)

    async def delete_all(self, task_id: str) -> None:
        """Delete every blob of a task."""
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        container = self._open()
        try:
            names = [name async for name in container.list_blob_names(name_starts_with=_prefix(task_id))]
            for name in names:
                try:
                    await container.delete_blob(name)
                except ResourceNotFoundError:
                    continue
        except ResourceNotFoundError:
            return
        except (AzureError, OSError, TimeoutError) as error:
            raise BlobsUnavailable(type(error).__name__) from error

    async def ping(self) -> None:
        """
        Raises:
            BlobsUnavailable: Blob Storage does not answer.
        """
        from azure.core.exceptions import AzureError

        try:
            await self._open().exists()
        except (AzureError, OSError, TimeoutError) as error:
            raise BlobsUnavailable(type(error).__name__) from error

    async def aclose(self) -> None:
        if self._container is not None:
            await self._container.close()

    async def _upload(self, container: ContainerClient, name: str, data: bytes) -> None:
        await container.upload_blob(name, data, overwrite=True, max_concurrency=4)

    async def _create(self, container: ContainerClient) -> None:
        from azure.core.exceptions import ResourceExistsError

        try:
            await container.create_container()
        except ResourceExistsError:
            return

    def _open(self) -> ContainerClient:
        if self._container is not None:
            return self._container
        from azure.storage.blob.aio import BlobServiceClient

        settings = self._settings
        options: dict[str, Any] = {
            "retry_total": 1,
            "retry_connect": 0,
            "connection_timeout": 2,
            "read_timeout": 20,
        }
        url = settings.azurewebjobsstorage__blobserviceuri or (
            f"https://{settings.azurewebjobsstorage__accountname}.blob.core.windows.net"
            if settings.azurewebjobsstorage__accountname
            else None
        )
        if settings.azurewebjobsstorage:
            service = BlobServiceClient.from_connection_string(
                settings.azurewebjobsstorage.get_secret_value(), **options
            )
        elif url:
            from azure.identity.aio import DefaultAzureCredential

            service = BlobServiceClient(url, credential=cast("Any", DefaultAzureCredential()), **options)
        else:
            raise BlobsUnavailable("no storage account is set")
        self._container = service.get_container_client(settings.blob_container)
        return self._container


def _prefix(task_id: str) -> str:
    # The letter keeps the ids "." and ".." from being path segments.
    return f"t-{task_id}/"
