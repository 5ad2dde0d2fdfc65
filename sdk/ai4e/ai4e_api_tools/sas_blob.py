"""``SasBlob`` of the AI for Earth images: blobs by URLs that carry their permission.

A container's URI is ``https://ACCOUNT.blob.core.windows.net/CONTAINER?SAS``, and a blob's has its name behind the
container. All URIs keep the host that they came with: another cloud's, a private endpoint's, or the emulator's.
``azure-storage-blob`` is imported by the first call that needs it.
"""

from __future__ import annotations

import io
import ipaddress
import os
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_PUBLIC_CLOUD = "https://{account}.blob.core.windows.net"


def account_url_of(account_name: str) -> str:
    """The URL of an account, of which *account_name* may be one already.

    ``AI4E_BLOB_ENDPOINT`` is the pattern in other clouds, such as ``https://{account}.blob.core.chinacloudapi.cn``,
    and with an emulator, ``http://127.0.0.1:10000/{account}``.
    """
    if "://" in account_name:
        return account_name.rstrip("/")
    return (os.environ.get("AI4E_BLOB_ENDPOINT") or _PUBLIC_CLOUD).format(account=account_name).rstrip("/")


class _Parts(NamedTuple):
    """What a URI says, unescaped but for *account_url* and *sas*."""

    account_url: str
    account: str
    container: str
    blob: str
    sas: str


def _parts(sas_uri: str) -> _Parts:
    uri = urlsplit(sas_uri)
    segments = uri.path.lstrip("/").split("/")
    host = uri.hostname or ""
    account, path = host.split(".")[0], ""
    if _has_account_in_path(host):
        account = unquote(segments.pop(0))
        path = "/" + account
    account_url = urlunsplit((uri.scheme, uri.netloc, path, "", ""))
    container = segments[0] if segments else ""
    return _Parts(account_url, account, unquote(container), unquote("/".join(segments[1:])), uri.query)


def _has_account_in_path(host: str) -> bool:
    """Whether it is an emulator's, which has no host of its own for each account."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host
    return True


class SasBlob:
    """Reads and writes blobs. Where a URI is returned, it is the blob's, with the permission of the container's."""

    def _get_resource_reference(self, prefix: str) -> str:
        return prefix + uuid.uuid4().hex

    def get_container_from_uri(self, sas_uri: str) -> str:
        return _parts(sas_uri).container

    def get_blob_from_uri(self, sas_uri: str) -> str:
        """The name of the blob, with all its folders."""
        return _parts(sas_uri).blob

    def get_sas_key_from_uri(self, sas_uri: str) -> str:
        return _parts(sas_uri).sas

    def get_account_from_uri(self, sas_uri: str) -> str:
        return _parts(sas_uri).account

    def get_blob_sas_uri(self, container_sas_uri: str, blob_name: str) -> str:
        uri = urlsplit(container_sas_uri)
        path = uri.path.rstrip("/") + "/" + quote(blob_name, safe="/~")
        return urlunsplit((uri.scheme, uri.netloc, path, uri.query, ""))

    def create_writable_container_sas(
        self, account_name: str, account_key: str, container_name: str, access_duration_hrs: float
    ) -> str:
        """Make a container; returns its URI, by which it can be read, written and listed for so many hours.

        Raises:
            azure.core.exceptions.ResourceExistsError: there is such a container.
        """
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        account_url = account_url_of(account_name)
        container = self._service(account_url, account_key).create_container(container_name)
        sas = generate_container_sas(
            container.account_name,
            container_name,
            account_key=account_key,
            permission=ContainerSasPermissions(read=True, write=True, delete=False, list=True),
            expiry=datetime.now(timezone.utc) + timedelta(hours=access_duration_hrs),
        )
        return f"{account_url}/{container_name}?{sas}"

    def delete_container(self, account_name: str, account_key: str, container_name: str) -> None:
        self._service(account_url_of(account_name), account_key).delete_container(container_name)

    def write_blob(self, container_sas_uri: str, blob_name: str, input_stream: BinaryIO) -> str:
        return self._write(container_sas_uri, blob_name, input_stream)

    def write_blob_from_bytes(self, container_sas_uri: str, blob_name: str, input_bytes: bytes) -> str:
        return self._write(container_sas_uri, blob_name, input_bytes)

    def write_blob_from_text(self, container_sas_uri: str, blob_name: str, text: str) -> str:
        return self._write(container_sas_uri, blob_name, text)

    def get_blob(self, sas_uri: str) -> io.BytesIO:
        """The content, as a stream at its beginning."""
        stream = io.BytesIO()
        self._blob(sas_uri).download_blob().readinto(stream)
        stream.seek(0)
        return stream

    def save_local_text(self, sas_uri: str, local_file: str) -> None:
        """Save a text of UTF-8 as it is."""
        with open(local_file, "wb") as file:
            self._blob(sas_uri).download_blob().readinto(file)

    def _write(self, container_sas_uri: str, blob_name: str, data: Any) -> str:
        uri = self.get_blob_sas_uri(container_sas_uri, blob_name)
        self._blob(uri).upload_blob(data, overwrite=True)
        return uri

    @staticmethod
    def _blob(sas_uri: str) -> Any:
        from azure.storage.blob import BlobClient

        parts = _parts(sas_uri)
        return BlobClient(parts.account_url, parts.container, parts.blob, credential=parts.sas or None)

    @staticmethod
    def _service(account_url: str, account_key: str) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(account_url, credential=account_key)
