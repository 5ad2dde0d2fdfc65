"""Blobs of Azure Storage that a request names, read and written without having them in memory.

    scene = blob.download(body["scene"], task.folder / "scene.tif")

A URL with a shared access signature carries its own permission. For another, the service's own Entra identity is
used if its beginning stands in ``SERVICE_STORAGE_IDENTITY``; that needs the extra ``blob``. Else the blob has to be
public. Only Azure's Blob Storage is called, at public addresses, and what stands in this variable or in
``SERVICE_STORAGE``.

All raise ``NotAllowed``, ``NotFound``, ``Refused``, ``Unreachable`` and ``Corrupted`` of ``errors``, without a
signature or a token in them.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from . import errors
from ._blobs import Blob, Source, put, sums_of
from ._payload import StreamPayload, body_of, iter_chunks, spooled, stream_type
from ._storage import IDENTITY, PLACES, TRUSTED, Gate, Places, Transfer

__all__ = ["Item", "download", "list", "open", "upload", "use"]

RETRY_FOR_S = 60.0
_SCOPE = "https://storage.azure.com/.default"
_LEAST_LEFT_S = 300
_READ_BYTES = 1024 * 1024
"""By ``open``, at a time at least."""
_HARMLESS = {"snapshot", "versionid"}


class Item(NamedTuple):
    """A blob: its name, its size in bytes, and its URL for the other functions."""

    name: str
    size: int
    url: str

    def __repr__(self) -> str:
        return f"Item({self.name!r}, {self.size} bytes)"


def download(url: str, path: os.PathLike[str] | str, *, retry_for_s: float = RETRY_FOR_S) -> Path:
    """Fetch a blob into a file, in several parts at a time, and return the file's path. It is there once it is whole.

    Parameters:
        retry_for_s: for how long the storage may be away.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        Blob(_transfer(url, retry_for_s), Source(url)).save(part)
        part.replace(target)
    finally:
        if part.exists():
            part.unlink()
    return target


def open(url: str, *, retry_for_s: float = RETRY_FOR_S) -> BinaryIO:
    """A blob as a file for reading, from any place on. Only what is read is fetched."""
    blob = Blob(_transfer(url, retry_for_s), Source(url), first_bytes=_READ_BYTES)
    return cast("BinaryIO", io.BufferedReader(_Reader(blob), _READ_BYTES))


def upload(url: str, data: Any, content_type: str | None = None, *, retry_for_s: float = RETRY_FOR_S) -> None:
    """Make a block blob of what ``TaskClient.submit`` takes, in several parts at a time."""
    transfer = _transfer(url, retry_for_s)
    with spooled() as spool:
        ready = body_of(data)
        if ready is None:
            spool.writelines(iter_chunks(data))
            spool.seek(0)
            ready = StreamPayload(spool), stream_type(data)
        body, kind = ready
        put(transfer, url, body, sums_of(body, transfer), content_type or kind)


def list(url: str, prefix: str = "", *, retry_for_s: float = RETRY_FOR_S) -> Iterator[Item]:
    """The blobs of a container whose names begin with *prefix*, in their order."""
    from xml.etree import ElementTree

    base, _, permission = url.partition("?")
    base, marker = base.rstrip("/"), ""
    inside = f"{base}/{quote(prefix)}" if prefix else base
    transfer = _transfer(inside + ("?" + permission if permission else ""), retry_for_s)
    while True:
        query = urlencode({"restype": "container", "comp": "list", "prefix": prefix, "marker": marker})
        page = ElementTree.fromstring(transfer.demand("GET", url, query).body)
        for found in page.iterfind("Blobs/Blob"):
            name = found.findtext("Name") or ""
            if found.find("Name[@Encoded='true']") is not None:
                name = unquote(name)
            size = int(found.findtext("Properties/Content-Length") or 0)
            yield Item(name, size, f"{base}/{quote(name)}" + ("?" + permission if permission else ""))
        marker = page.findtext("NextMarker") or ""
        if not marker:
            return


def use(credential: Any) -> None:
    """Take an object of ``azure.identity`` for the service's identity, instead of ``DefaultAzureCredential()``."""
    _identity.use(credential)


class _Identity:
    """The service's own identity, and its token while that lasts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credential: Any = None
        self._token: Any = None

    def use(self, credential: Any) -> None:
        with self._lock:
            self._credential, self._token = credential, None

    def headers(self) -> Mapping[str, str]:
        with self._lock:
            if self._token is None or self._token.expires_on - time.time() < _LEAST_LEFT_S:
                self._token = self._new_token()
            return {"Authorization": f"Bearer {self._token.token}"}

    def _new_token(self) -> Any:
        if self._credential is None:
            try:
                from azure.identity import DefaultAzureCredential
            except ImportError:
                raise ImportError('An identity needs azure-identity: pip install "taskbackbone[blob]"') from None
            self._credential = DefaultAzureCredential()
        try:
            return self._credential.get_token(_SCOPE)
        except Exception as error:
            why = type(error).__name__
        raise errors.NotAllowed(f"The service's identity gets no token for the storage ({why}).")


_identity = _Identity()


def _transfer(url: str, retry_for_s: float) -> Transfer:
    """What may call a URL."""
    names = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if "sig" not in names:
        if not names <= _HARMLESS:
            raise errors.NotAllowed("The URL of a blob has no other parameters than snapshot and versionid.")
        if Places.of_environment(IDENTITY).has(url):
            if not url.startswith("https:"):
                raise errors.NotAllowed(f"An identity is used over https only: {IDENTITY}.")
            return Transfer(retry_for_s, TRUSTED, _identity.headers)
    transport = Gate(Places.of_environment(PLACES), is_open=True).transport(url)
    return Transfer(retry_for_s, transport)


class _Reader(io.RawIOBase):
    """Reads a blob from any place on."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._blob.size}[whence]
        if start + offset < 0:
            raise ValueError("There is nothing before the beginning.")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._blob.read(self._at, self._at + len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        self._blob.close()
        super().close()
