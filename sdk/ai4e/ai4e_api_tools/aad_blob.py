"""``AadBlob`` of the AI for Earth images: blobs by an identity of Entra ID, or in a folder of this machine.

``azure-storage-blob`` and ``azure-identity`` are imported by the first call that needs them. No call prints anything;
the logger ``ai4e`` has each at the level DEBUG.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import threading
from typing import Any, BinaryIO

from sas_blob import account_url_of

CLIENT_SECRET_CRED_TYPE = "client_secret"
MANAGED_IDENTITY_CRED_TYPE = "managed_identity"
LOCAL_CRED_TYPE = "local"

logger = logging.getLogger("ai4e")


class AadBlob:
    """Reads and writes blobs in one of three ways:

    - with a client secret: *aad_tenant_id*, *aad_application_id*, *aad_application_secret*, *aad_account_name*;
    - with a managed identity, which may be that of a workload in AKS: *aad_application_id* and *aad_account_name*;
    - in a folder, for tests: *local_test_directory*.

    *aad_account_name* may be the account's URL. What writes returns the blob's URI, or its path in the folder.
    """

    def __init__(
        self,
        aad_tenant_id: str | None = None,
        aad_application_id: str | None = None,
        aad_application_secret: str | None = None,
        aad_account_name: str | None = None,
        local_test_directory: str | None = None,
    ) -> None:
        self.aad_tenant_id = aad_tenant_id
        self.aad_application_id = aad_application_id
        self.aad_application_secret = aad_application_secret
        self.aad_account_name = aad_account_name
        self.local_test_directory = local_test_directory
        self.account_url = account_url_of(aad_account_name or "")
        if local_test_directory is not None:
            self.credential_type = LOCAL_CRED_TYPE
        elif aad_application_secret is None:
            self.credential_type = MANAGED_IDENTITY_CRED_TYPE
        else:
            self.credential_type = CLIENT_SECRET_CRED_TYPE
        self._made: Any = None
        self._making = threading.Lock()

    def write_blob_from_text(self, container: str, blob: str, text: str | bytes) -> str:
        return self._write(container, blob, text.encode() if isinstance(text, str) else text)

    def create_blob_from_path(self, container: str, blob: str, path: str) -> str:
        with open(path, "rb") as file:
            return self._write(container, blob, file)

    def save_local_blob(self, container: str, blob: str, local_file: str) -> None:
        self.save_blob_locally(container, blob, local_file)

    def save_local_text(self, container: str, blob: str, local_file: str) -> None:
        """Save a text of UTF-8 as it is."""
        self.save_blob_locally(container, blob, local_file)

    def save_blob_locally(self, container: str, blob: str, local_file: str, encoding: str | None = None) -> None:
        """Save a blob as it is; one of another *encoding* than UTF-8 becomes UTF-8."""
        if encoding is not None and encoding.replace("-", "").lower() != "utf8":
            with open(local_file, "w", encoding="utf-8", newline="") as file:
                file.write(self.get_blob_to_bytes(container, blob).decode(encoding))
            return
        with open(local_file, "wb") as file:
            self._read_into(container, blob, file)

    def get_blob(self, container: str, blob: str) -> io.BytesIO:
        """The content, as a stream at its beginning."""
        stream = io.BytesIO()
        self._read_into(container, blob, stream)
        stream.seek(0)
        return stream

    def get_blob_to_bytes(self, container: str, blob: str) -> bytes:
        return self.get_blob(container, blob).getvalue()

    def get_blob_to_text(self, container: str, blob: str) -> str:
        return self.get_blob_to_bytes(container, blob).decode("utf-8")

    def does_blob_exist(self, container: str, blob: str) -> bool:
        if self.credential_type == LOCAL_CRED_TYPE:
            return os.path.isfile(self._path(container, blob))
        return self._client(container, blob).exists()

    def get_blob_uri(self, container: str, blob: str) -> str:
        if self.credential_type == LOCAL_CRED_TYPE:
            return self._path(container, blob)
        return f"{self.account_url}/{container}/{blob}"

    def _write(self, container: str, blob: str, data: bytes | BinaryIO) -> str:
        logger.debug("writes %s/%s", container, blob)
        if self.credential_type != LOCAL_CRED_TYPE:
            self._client(container, blob).upload_blob(data, overwrite=True)
            return self.get_blob_uri(container, blob)
        path = self._path(container, blob)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file)
        return path

    def _read_into(self, container: str, blob: str, file: BinaryIO) -> None:
        logger.debug("reads %s/%s", container, blob)
        if self.credential_type != LOCAL_CRED_TYPE:
            self._client(container, blob).download_blob().readinto(file)
            return
        with open(self._path(container, blob), "rb") as stored:
            shutil.copyfileobj(stored, file)

    def _path(self, container: str, blob: str) -> str:
        """
        Raises:
            ValueError: it would lie outside the folder.
        """
        folder = os.path.abspath(self.local_test_directory or ".")
        path = os.path.abspath(os.path.join(folder, container, blob))
        if os.path.commonpath([folder, path]) != folder or path == folder:
            raise ValueError(f"{container}/{blob} is no blob's name")
        return os.path.join(self.local_test_directory or ".", container, blob)

    def _client(self, container: str, blob: str) -> Any:
        from azure.storage.blob import BlobServiceClient

        with self._making:
            if self._made is None:
                self._made = BlobServiceClient(self.account_url, credential=self._credential())
        return self._made.get_blob_client(container, blob)

    def _credential(self) -> Any:
        from azure.identity import ClientSecretCredential, ManagedIdentityCredential

        if self.credential_type == CLIENT_SECRET_CRED_TYPE:
            # Of another authority than the clouds', nobody else can tell whether it is one.
            more = {"disable_instance_discovery": True} if os.environ.get("AZURE_AUTHORITY_HOST") else {}
            return ClientSecretCredential(
                self.aad_tenant_id or "", self.aad_application_id or "", self.aad_application_secret or "", **more
            )
        return ManagedIdentityCredential(client_id=self.aad_application_id)
