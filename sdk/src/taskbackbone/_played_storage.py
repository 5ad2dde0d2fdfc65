"""The uploads of a played backbone, and the blobs that they become, in memory (``docs/large-files.md``)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs

from ._played import Content, Problem, invalid

ROOT = "/storage/"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Call(Protocol):
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Upload:
    """One that was asked for: what was declared of it, its blocks, and its content once it is there."""

    told: Mapping[str, Any]
    attempt: int | None
    blocks: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    content: Content | None = None
    user: tuple[str, int | None] | None = None
    """The task and the attempt that have taken it."""


class Storage:
    """Blobs, and the URLs that allow one thing with one of them."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self._readable: dict[str, Content] = {}

    def open(self, told: Mapping[str, Any], attempt: int | None, most_bytes: int) -> str:
        """A new upload; returns its id. Raises Problem."""
        size = told.get("Size")
        if not isinstance(size, int) or size < 0 or isinstance(size, bool):
            raise invalid("/Size", "a number of bytes is expected")
        if size > most_bytes:
            raise Problem(413, "too-large", "The upload is too large.", f"At most {most_bytes} bytes are taken.")
        if not isinstance(told.get("ContentType"), str):
            raise invalid("/ContentType", "a text is expected")
        name = secrets.token_urlsafe(16)
        self.uploads[name] = Upload(told, attempt)
        return name

    def take(self, name: str, task_id: str, attempt: int | None) -> Content:
        """The content of an upload, for a result. Raises Problem."""
        upload = self.uploads.get(name)
        if upload is None or upload.told.get("TaskId") != task_id:
            raise Problem(404, "unknown-upload", "There is no such upload.", "Its id is unknown, or it has expired.")
        if upload.user not in (None, (task_id, attempt)) or upload.attempt != attempt:
            raise Problem(409, "upload-used", "The upload is another's.", "Another attempt has it.")
        told, content = upload.told, upload.content
        if content is None or len(content.data) != told["Size"] or content.content_type != told["ContentType"]:
            raise Problem(
                409, "upload-mismatch", "The upload is not what was declared.", "Its size or type is another."
            )
        upload.user = task_id, attempt
        return content

    def link(self, content: Content) -> str:
        """The path of a URL by which it can be read."""
        name = secrets.token_urlsafe(16)
        self._readable[name] = content
        return f"{ROOT}{name}?sp=r&sig={secrets.token_urlsafe(8)}"

    def answer(self, call: _Call) -> tuple[int, bytes, dict[str, str]]:
        """What the storage answers: the status, the body and the headers."""
        name = call.path[len(ROOT) :]
        if call.method == "PUT":
            upload = self.uploads.get(name)
            return (404, b"", {}) if upload is None else self._put(upload, call)
        content = self._readable.get(name)
        if content is None:
            return 404, b"", {"x-ms-error-code": "BlobNotFound"}
        return _read(content, call.headers.get("range", ""))

    def _put(self, upload: Upload, call: _Call) -> tuple[int, bytes, dict[str, str]]:
        query, md5 = parse_qs(call.query), call.headers.get("content-md5")
        if md5 and base64.b64decode(md5) != hashlib.md5(call.body, usedforsecurity=False).digest():
            return 400, b"", {"x-ms-error-code": "Md5Mismatch"}
        if query.get("comp") == ["block"]:
            upload.blocks[query["blockid"][0]] = call.body
        else:
            names = re.findall(r"<Latest>(.*?)</Latest>", call.body.decode())
            if not set(names) <= set(upload.blocks):
                return 400, b"", {"x-ms-error-code": "InvalidBlockList"}
            kinds = (call.headers.get(f"x-ms-blob-content-{what}", "") for what in ("type", "encoding"))
            upload.content = Content(b"".join(upload.blocks[each] for each in names), *kinds)
        return 201, b"", {}


def digest(content: Content) -> str:
    """As ``Repr-Digest`` has it."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content.data).digest()).decode()}:"


def _read(content: Content, wanted: str) -> tuple[int, bytes, dict[str, str]]:
    data, match = content.data, _RANGE.fullmatch(wanted)
    headers = {"Content-Type": content.content_type, "ETag": f'"{len(data)}"'}
    if content.encoding:
        headers["Content-Encoding"] = content.encoding
    if match is None:
        return 200, data, headers
    start, end = int(match[1]), min(len(data), int(match[2]) + 1 if match[2] else len(data))
    if start >= len(data):
        return 416, b"", {}
    return 206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
