"""``python -m tests.shared.delegated_process``: stores, reads and signs as an app with a managed identity does, and
prints the URLs that it has signed, as JSON. In a process of its own, since the certificates that a process trusts are
read when it begins.

Nobody is asked to take the URLs: Azurite 3.35 knows an older form of what is signed with a delegated key, and none
for a snapshot."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, cast

from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient

from shared.bodies import BodyStore, upload_blob
from shared.settings import Settings
from shared.tasks.task import Content
from tests.shared.delegation import DATA


async def main() -> None:
    settings = Settings.from_env(os.environ)
    bodies = BodyStore(settings)
    assert bodies.most_upload_bytes == settings.max_upload_bytes
    name = upload_blob("u1", None)
    written = await bodies.upload_url(name, 600)
    account = settings.blob_service_uri or settings.azurewebjobsstorage__blobserviceuri or ""
    async with (
        DefaultAzureCredential() as identity,
        BlobServiceClient(account, credential=cast("Any", identity)) as client,
        client.get_blob_client(settings.blob_container, name) as blob,
    ):
        kind = ContentSettings(content_type="image/tiff")
        await blob.upload_blob(DATA, content_settings=kind)
        snapshot = await bodies.snapshot(name)
        await blob.upload_blob(DATA[::-1], content_settings=kind, overwrite=True)
        content = Content(snapshot.content_type, snapshot.size_bytes, snapshot.blob)
        found = await bodies.read_url(content, 600)
        assert await bodies.read(content) == DATA
        await bodies.delete(snapshot.blob)
        assert not await blob.exists()
    await bodies.aclose()
    json.dump([written.url, found.url], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
