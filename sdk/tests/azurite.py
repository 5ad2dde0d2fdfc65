"""Azurite as a process of its own, and URLs that allow something with a blob of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    generate_blob_sas,
    generate_container_sas,
)
from conftest import HOUSE, REPOSITORY

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every storage emulator, and public."""
CONTAINER = "images"


class Azurite:
    """A container of it. *options* are those of its client."""

    def __init__(self, address: str, **options: Any) -> None:
        self.url = f"{address}/{ACCOUNT}/{CONTAINER}"
        service = BlobServiceClient(f"{address}/{ACCOUNT}", credential=KEY, **options)
        self.container: ContainerClient = service.create_container(CONTAINER)

    def put(self, name: str, content: bytes, content_type: str = "image/tiff") -> None:
        blob = self.container.get_blob_client(name)
        blob.upload_blob(content, overwrite=True)
        blob.set_http_headers(ContentSettings(content_type=content_type))

    def content(self, name: str) -> bytes:
        return self.container.download_blob(name).readall()

    def content_type(self, name: str) -> str:
        return str(self.container.get_blob_client(name).get_blob_properties().content_settings.content_type)

    def plain(self, name: str) -> str:
        """A URL that allows nothing."""
        return f"{self.url}/{quote(name)}"

    def signed(self, name: str, permission: str, hours: float = 1) -> str:
        until = datetime.now(timezone.utc) + timedelta(hours=hours)
        given = {"account_key": KEY, "permission": permission, "expiry": until}
        return f"{self.plain(name)}?{generate_blob_sas(ACCOUNT, CONTAINER, name, **given)}"

    def signed_container(self, permission: str) -> str:
        until = datetime.now(timezone.utc) + timedelta(hours=1)
        given = {"account_key": KEY, "permission": permission, "expiry": until}
        return f"{self.url}?{generate_container_sas(ACCOUNT, CONTAINER, **given)}"


@contextmanager
def azurite(folder: Path, *options: str | Path, **of_client: Any) -> Generator[Azurite, None, None]:
    command = [HOUSE, "-m", "local.azurite", "--port", "0", "--directory", str(folder), *map(str, options)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready = re.fullmatch(r"READY (http\S+)\n", process.stdout.readline())
        assert ready, f"Azurite did not start: see {folder}"
        yield Azurite(ready[1], **of_client)
    finally:
        process.terminate()
        process.wait()
