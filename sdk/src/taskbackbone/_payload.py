"""The bytes of a body: how many they are, and how to read them again for each time that they are sent."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

from . import errors

CHUNK_BYTES = 64 * 1024
MOST_BYTES = 100 * 1024 * 1024
"""Of an answer that is kept in memory: the backbone takes no larger body."""
MOST_DECODED_BYTES = 1 << 30
"""Of a content that was compressed, in memory."""
_SPOOL_BYTES = 1024 * 1024
"""A stream that cannot be read twice is kept in memory up to this, and beyond it in a temporary file."""
TOGETHER_BYTES = 64 * 1024
"""A body of up to this may be sent together with others."""
GROUP_BYTES, MOST_TOGETHER = 1024 * 1024, 250
"""In about one call."""
_PART_BYTES = 1024 * 1024
_BYTES, _JSON = "application/octet-stream", "application/json"


class Payload:
    """Bytes that are read anew for each time that they are sent: ``len`` says how many, iterating yields them."""

    _size: int

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        try:
            with self._opened() as file:
                while left:
                    chunk = file.read(min(CHUNK_BYTES, left))
                    if not chunk:  # a request must have as many bytes as it has announced
                        missing = f"{left:,} of {self._size:,} bytes are missing"
                        raise errors.BodyUnreadable(f"The body has become shorter: {missing}.")
                    left -= len(chunk)
                    yield chunk
        except (OSError, ValueError) as error:
            raise errors.BodyUnreadable("The body cannot be read.") from error

    def part(self, start: int, size: int) -> bytes:
        """Some of them. It may be called by several threads."""
        parts, left = list[bytes](), size
        try:
            with self._lock, self._opened() as file:
                file.seek(start, os.SEEK_CUR)
                while left and (chunk := file.read(left)):
                    parts.append(chunk)
                    left -= len(chunk)
        except (OSError, ValueError) as error:
            raise errors.BodyUnreadable("The body cannot be read.") from error
        if left:
            raise errors.BodyUnreadable("The body has become shorter.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _opened(self) -> AbstractContextManager[IO[bytes]]:
        raise NotImplementedError


class FilePayload(Payload):
    def __init__(self, path: os.PathLike[str] | str) -> None:
        super().__init__()
        self._path = Path(path)
        self._size = self._path.stat().st_size
        if not self._path.is_file():
            raise ValueError(f"{path} is no file; a pipe may be given open.")

    def _opened(self) -> AbstractContextManager[IO[bytes]]:
        return self._path.open("rb")


class StreamPayload(Payload):
    """What is left in a stream that can rewind."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._start = stream.tell()
        stream.seek(0, os.SEEK_END)
        self._size = max(0, stream.tell() - self._start)

    def _opened(self) -> AbstractContextManager[IO[bytes]]:
        self._stream.seek(self._start)
        return nullcontext(self._stream)


class Decoder:
    """Takes the ``Content-Encoding`` off what is fed to it, if that is gzip or deflate."""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding if encoding in ("gzip", "x-gzip", "deflate") else None
        self._inflate: Any = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What it becomes, which may be a thousand times as much, in parts of up to 1 MiB."""
        if self._encoding is None:
            yield chunk
            return
        import zlib

        try:
            while chunk:  # what is left after an end is another gzip member
                if self._inflate is None or self._inflate.eof:
                    self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its head
                yield self._inflate.decompress(chunk, _PART_BYTES)
                chunk = self._inflate.unconsumed_tail or self._inflate.unused_data
        except zlib.error as error:
            raise ValueError(f"The content is not {self._encoding}.") from error

    def end(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            raise ValueError(f"The content breaks off: it is no whole {self._encoding}.")


def decoded(encoding: str | None, content: bytes, most: int = MOST_DECODED_BYTES) -> bytes:
    """Raises ValueError: it is not what *encoding* says, or has more than *most* bytes without it."""
    decoder, plain = Decoder(encoding), bytearray()
    if encoding is None:
        return content
    for part in decoder.feed(content):
        plain += part
        if len(plain) > most:
            raise ValueError(f"The content has more than {most:,} bytes without its {encoding}.")
    decoder.end()
    return bytes(plain)


def body_of(body: Any) -> tuple[bytes | Payload, str] | None:
    """What is sent of a caller's *body*, and its content type; None for a stream that cannot rewind."""
    if body is None or isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", body or b"")), _BYTES
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, os.PathLike):
        path = os.fspath(cast("os.PathLike[str]", body))
        return FilePayload(path), _type_of_name(path)
    if hasattr(body, "model_dump_json"):
        return body.model_dump_json().encode(), _JSON
    if isinstance(body, (dict, list, tuple, int, float)):
        import json

        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode(), _JSON
    if not (hasattr(body, "read") or hasattr(body, "__iter__") or hasattr(body, "__aiter__")):
        raise TypeError(f"A body cannot be made of {type(body).__name__}.")
    if isinstance(body, io.TextIOBase):
        raise TypeError("A body's stream must yield bytes; open a file in binary mode.")
    if hasattr(body, "__aiter__") or not hasattr(body, "seekable") or not body.seekable():
        return None
    return StreamPayload(body), stream_type(body)


def stream_type(stream: Any) -> str:
    """The content type that the name of a stream says."""
    name = getattr(stream, "name", None)
    return _type_of_name(name) if isinstance(name, str) else _BYTES


def spooled() -> Any:
    """A file for what cannot be read twice."""
    from tempfile import SpooledTemporaryFile

    return SpooledTemporaryFile(_SPOOL_BYTES)


def ready(body: Any, spool: Any) -> tuple[bytes | Payload, str]:
    """What is sent of *body*, which is read into *spool* first if it cannot rewind, and its content type."""
    found = body_of(body)
    if found is not None:
        return found
    for chunk in iter_chunks(body):
        spool.write(chunk)
    return _of_spool(body, spool)


async def aready(body: Any, spool: Any) -> tuple[bytes | Payload, str]:
    """The same, of a stream that may be asynchronous."""
    found = body_of(body)
    if found is not None:
        return found
    async for chunk in aiter_chunks(body):
        spool.write(chunk)
    return _of_spool(body, spool)


def _of_spool(body: Any, spool: Any) -> tuple[Payload, str]:
    spool.seek(0)
    return StreamPayload(spool), stream_type(body)


def weight_of(body: Any) -> float:
    """Which part of a call with many bodies this one takes: 1 if it is large, or nobody knows."""
    try:
        if isinstance(body, os.PathLike):
            size = Path(cast("Any", body)).stat().st_size
        else:
            size = len(repr(cast("Any", body)) if isinstance(body, (dict, list)) else body)
    except (OSError, TypeError):
        return 1
    return 1 if size > TOGETHER_BYTES else max(size / GROUP_BYTES, 1 / MOST_TOGETHER)


def digest(body: bytes | Payload) -> str:
    """Its SHA-256, in hexadecimal digits."""
    import hashlib

    whole = hashlib.sha256()
    for chunk in [body] if isinstance(body, bytes) else body:
        whole.update(chunk)
    return whole.hexdigest()


async def unpacked(encoding: str | None, content: bytes) -> bytes:
    """As ``decoded``, in a thread if it may take long."""
    import asyncio

    if encoding is None:
        return content
    return await asyncio.get_running_loop().run_in_executor(None, decoded, encoding, content)


async def adigest(body: bytes | Payload) -> str:
    """The same, in a thread if it may take long."""
    import asyncio

    if isinstance(body, bytes) and len(body) <= TOGETHER_BYTES:
        return digest(body)
    return await asyncio.get_running_loop().run_in_executor(None, digest, body)


def _type_of_name(name: str) -> str:
    from mimetypes import guess_type

    kind, encoding = guess_type(name)
    return kind if kind and not encoding else _BYTES


def iter_chunks(stream: Any) -> Iterator[bytes]:
    """What a stream yields that has ``read`` or is an iterable."""
    return iter(lambda: stream.read(CHUNK_BYTES), b"") if hasattr(stream, "read") else iter(stream)


async def aiter_chunks(stream: Any) -> AsyncIterator[bytes]:
    """The same, of a stream that may be asynchronous; one that is not is read in a thread."""
    import asyncio
    import inspect

    if inspect.iscoroutinefunction(getattr(stream, "read", None)):
        while chunk := await stream.read(CHUNK_BYTES):
            yield chunk
    elif hasattr(stream, "__aiter__"):
        async for chunk in stream:
            yield chunk
    else:
        loop, chunks = asyncio.get_running_loop(), iter_chunks(stream)
        while (chunk := await loop.run_in_executor(None, next, chunks, None)) is not None:
            yield chunk
