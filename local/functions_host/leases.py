"""The blob leases of timer triggers: of all hosts of an app, the one that holds a timer's lease fires it.

They are as the original host keeps them. A lease lasts 60 s, and is renewed when half of that is over. A host that
did not get it asks again after 60 s. A stop gives the lease back, a kill does not. A host whose storage account gives
no answer to a renewal for 25 s ends itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from local.functions_host.clock import Clock
from local.functions_host.errors import HostError

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient, BlobServiceClient

LEASE_S = 60
RENEWED_AFTER_S = 30
ASKED_AGAIN_AFTER_S = 60
FATAL_S = 25
_RETRIED_AFTER_S = 1
_CALL_TIMEOUT_S = 5
_CONTAINER = "azure-webjobs-hosts"

_log = logging.getLogger("local.functions_host")


class StorageAway(Exception):
    """Raised if the storage account gives no answer."""


class LeaseRefused(Exception):
    """Raised if the storage account refuses a lease for another reason than that somebody else holds it, as it does
    to a wrong key."""


class LeaseStore(Protocol):
    async def acquire(self, name: str) -> str | None:
        """Acquire the lease *name*. Returns its id; None if another host holds it. Raises `StorageAway` or
        `LeaseRefused`.
        """
        ...

    async def renew(self, name: str, lease_id: str) -> bool:
        """Returns whether the lease is still held. Raises `StorageAway`."""
        ...

    async def release(self, name: str, lease_id: str) -> None:
        """Raises `StorageAway`."""
        ...

    async def aclose(self) -> None: ...


def end_process() -> None:
    """Ends this process as an exception does that nothing handles in the original host."""
    _log.critical("The storage account gave no answer to the renewal of a timer's lease: the host ends")
    os._exit(1)


class TimerLease:
    """One timer's lease.

    Parameters:
        end_host: called when the lease could not be renewed for too long.
    """

    def __init__(self, store: LeaseStore, name: str, clock: Clock, end_host: Callable[[], None]) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._end_host = end_host

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs *work*, which has no end, while this host holds the lease."""
        while True:
            lease_id = await self._acquire()
            working = asyncio.create_task(work())
            try:
                await self._keep(lease_id)
            finally:
                working.cancel()
                with suppress(StorageAway):
                    await self._store.release(self._name, lease_id)

    async def _acquire(self) -> str:
        while True:
            try:
                lease_id = await self._store.acquire(self._name)
            except StorageAway:
                await self._clock.sleep(_RETRIED_AFTER_S)
                continue
            except LeaseRefused as error:
                _log.error("The timer %s does not run: its lease was refused: %s", self._name, error)
                lease_id = None
            if lease_id is not None:
                return lease_id
            await self._clock.sleep(ASKED_AGAIN_AFTER_S)

    async def _keep(self, lease_id: str) -> None:
        """Returns when another host has taken the lease, as one can from a host that was frozen."""
        is_held = True
        while is_held:
            await self._clock.sleep(RENEWED_AFTER_S)
            began = self._clock.now()
            while True:
                try:
                    is_held = await self._store.renew(self._name, lease_id)
                    break
                except StorageAway:
                    if (self._clock.now() - began).total_seconds() >= FATAL_S:
                        self._end_host()
                await self._clock.sleep(_RETRIED_AFTER_S)


class BlobLeases:
    """Leases of blobs in a storage account, or in Azurite."""

    def __init__(self, connection_string: str, host_id: str) -> None:
        self._connection_string = connection_string
        self._host_id = host_id
        self._service: BlobServiceClient | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> BlobLeases | None:
        """None without a storage account: each host then fires all timers. Raises `HostError`."""
        connection_string = settings.get("AzureWebJobsStorage")
        if not connection_string:
            return None
        _check_connection_string(connection_string)
        return cls(connection_string, settings.get("AzureFunctionsWebHost__hostid", "local"))

    async def acquire(self, name: str) -> str | None:
        from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

        async def acquire() -> str | None:
            blob = self._blob(name)
            try:
                lease = await blob.acquire_lease(LEASE_S)
            except ResourceNotFoundError:
                with suppress(ResourceExistsError):
                    await self._opened().create_container(_CONTAINER)
                with suppress(ResourceExistsError):
                    await blob.upload_blob(b"")
                lease = await blob.acquire_lease(LEASE_S)
            return lease.id

        try:
            return await _answered(acquire())
        except ResourceExistsError:
            return None
        except HttpResponseError as error:
            raise LeaseRefused(error.reason or error.message) from error

    async def renew(self, name: str, lease_id: str) -> bool:
        from azure.core.exceptions import HttpResponseError, ResourceExistsError
        from azure.storage.blob.aio import BlobLeaseClient

        try:
            await _answered(BlobLeaseClient(self._blob(name), lease_id).renew())
        except (ResourceExistsError, HttpResponseError):
            return False
        return True

    async def release(self, name: str, lease_id: str) -> None:
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob.aio import BlobLeaseClient

        with suppress(HttpResponseError):
            await _answered(BlobLeaseClient(self._blob(name), lease_id).release())

    async def aclose(self) -> None:
        if self._service is not None:
            await self._service.close()

    def _blob(self, name: str) -> BlobClient:
        return self._opened().get_blob_client(_CONTAINER, f"locks/{self._host_id}/{name}.Listener")

    def _opened(self) -> BlobServiceClient:
        if self._service is None:
            from azure.storage.blob.aio import BlobServiceClient

            self._service = BlobServiceClient.from_connection_string(self._connection_string, retry_total=0)
        return self._service


def _check_connection_string(connection_string: str) -> None:
    from azure.storage.blob import BlobServiceClient

    try:
        BlobServiceClient.from_connection_string(connection_string).close()
    except ValueError as error:
        # Without the error's text, in case that has a part of the key.
        raise HostError("AzureWebJobsStorage is no connection string of a storage account.") from error


async def _answered(call: Awaitable[Any]) -> Any:
    """Raises `StorageAway` in place of an error that is not the service's answer."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            return await call
    except ClientAuthenticationError:  # without a status if the key cannot even sign
        raise
    except HttpResponseError as error:
        if error.status_code is None or error.status_code >= 500:
            raise StorageAway from error
        raise
    except (AzureError, OSError, TimeoutError) as error:
        raise StorageAway from error
