"""URLs by which others write or read one blob for a while: shared access signatures (SAS), made with the account's
key or, for a managed identity, with a key that Blob Storage delegates to it. Whoever has such a URL may use it, so it
goes to its one receiver and never into a log, a trace, a history or a problem."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shared.settings import LONGEST_URL_S
from shared.tasks.value import value

if TYPE_CHECKING:
    from azure.storage.blob import UserDelegationKey
    from azure.storage.blob.aio import BlobServiceClient, ContainerClient

_CLOCKS_DIFFER_S: Final = 300.0
"""By how much the clock here may be ahead of that of Blob Storage."""
_DELEGATED_S: Final = LONGEST_URL_S - _CLOCKS_DIFFER_S
"""How long a delegated key is valid; Blob Storage gives none for longer than seven days. No SAS outlives its key."""
_FRESH_S: Final = 3600.0
"""After this time another key is asked for, though the old one would still do: an operator may have revoked it, since
that is how a signed URL is stopped."""
_FORBIDDEN: Final = 403


class NoSas(Exception):
    """Raised if no SAS can be made with what the app has of the storage account. The message says why."""


@value
class SignedUrl:
    url: str
    expires_ms: int

    def __repr__(self) -> str:
        return f"SignedUrl(until {self.expires_ms})"


class UrlSigner:
    """Signs URLs of the blobs of one container.

    Args:
        container: its client, by whose credential the URLs are signed.
        open_account: opens a client of its account. It is closed after use.
        now_s: the time, as Blob Storage sees it.

    Attributes:
        refusal: why the last URL could not be signed; None if it could.
    """

    def __init__(
        self,
        container: ContainerClient,
        open_account: Callable[[], BlobServiceClient],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._container = container
        self._open_account = open_account
        self._now_s = now_s
        self._account_key: str | None = getattr(container.credential, "account_key", None)
        self._delegated: UserDelegationKey | None = None
        self._delegated_s = 0.0
        self._asking = asyncio.Lock()
        self.refusal: str | None = None

    async def writing(self, name: str, valid_s: float) -> SignedUrl:
        """A URL by which the blob *name* can be created and written, and nothing else.

        Raises:
            NoSas: no SAS can be made.
            AzureError: Blob Storage or Entra ID does not answer.
        """
        return await self._signed(name, valid_s, "cw")

    async def reading(
        self, name: str, snapshot: str | None, valid_s: float, *, content_type: str, encoding: str
    ) -> SignedUrl:
        """A URL by which the blob, or that *snapshot* of it, can be read. Blob Storage then tells this content type
        and encoding of it.

        Raises:
            NoSas: no SAS can be made.
            AzureError: Blob Storage or Entra ID does not answer.
        """
        told: dict[str, Any] = {"content_type": content_type, "content_encoding": encoding or None}
        return await self._signed(name, valid_s, "r", snapshot, **told)

    async def _signed(
        self, name: str, valid_s: float, permission: str, snapshot: str | None = None, **told: Any
    ) -> SignedUrl:
        from azure.storage.blob import generate_blob_sas

        expires_s = self._now_s() + valid_s
        signing: dict[str, Any] = {"account_key": self._account_key}
        if self._account_key is None:
            key = await self._delegated_key(valid_s)
            signing = {"user_delegation_key": key}
            expires_s = min(expires_s, self._delegated_s + _DELEGATED_S)
        # Whole seconds, which is what a SAS has.
        expires = datetime.fromtimestamp(int(expires_s), UTC)
        blob = self._container.get_blob_client(name, snapshot=snapshot)
        sas = generate_blob_sas(
            account_of(blob.url),
            blob.container_name,
            name,
            snapshot=snapshot,
            permission=permission,
            expiry=expires,
            protocol="https" if blob.scheme == "https" else "https,http",
            **signing,
            **told,
        )
        return SignedUrl(f"{blob.url}{'&' if '?' in blob.url else '?'}{sas}", int(expires_s) * 1000)

    async def _delegated_key(self, valid_s: float) -> UserDelegationKey:
        from azure.core.exceptions import AzureError

        async with self._asking:  # all callers of the moment share one key
            now_s = self._now_s()
            age_s = now_s - self._delegated_s
            known = self._delegated
            if known is None or age_s > _FRESH_S:
                try:
                    known = await self._ask_for_key(now_s)
                    self._delegated, self._delegated_s = known, now_s
                except AzureError:
                    if known is None or _DELEGATED_S - age_s < valid_s:
                        raise
            return known

    async def _ask_for_key(self, now_s: float) -> UserDelegationKey:
        from azure.core.exceptions import HttpResponseError

        now = datetime.fromtimestamp(int(now_s), UTC)
        begins, ends = now - timedelta(seconds=_CLOCKS_DIFFER_S), now + timedelta(seconds=_DELEGATED_S)
        try:
            async with self._open_account() as account:
                key = await account.get_user_delegation_key(begins, ends)
        except HttpResponseError as error:
            if error.status_code != _FORBIDDEN:
                raise
            self.refusal = "the app's identity lacks a role that may ask for a user delegation key"
            raise NoSas(self.refusal) from None
        self.refusal = None
        return key


def account_of(url: str) -> str:
    """The account of a blob's URL: the beginning of its host, or, of an emulator without names, of its path."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            return host.partition(".")[0]
    return parts.path.split("/")[1]
