"""The bytes of a body: how many they are, and how to read them again for each time that they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO

CHUNK_BYTES = 64 * 1024
SPOOL_BYTES = 1024 * 1024
"""A stream that cannot be read twice is kept in memory up to this, and beyond it in a temporary file."""


class BodyUnreadable(Exception):
    """What a body is read from failed, or has become shorter. The cause is its own error."""


class Payload:
    """Bytes that are read anew for each time that they are sent: ``len`` says how many, iterating yields them."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    def close(self) -> None:
        """Give up what is kept for sending."""


class FilePayload(Payload):
    """A file by its path.

    Raises:
        OSError: there is none.
    """

    def __init__(self, path: os.PathLike[str] | str) -> None:
        from pathlib import Path

        self._path = Path(path)
        self._size = self._path.stat().st_size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise BodyUnreadable("The file of the body cannot be opened.") from error
        with file:
            yield from _exactly(file, self._size)


class StreamPayload(Payload):
    """What is left in a stream that can rewind."""

    def __init__(self, stream: IO[bytes], *, owned: bool = False) -> None:
        self._stream = stream
        self._owned = owned
        self._start = stream.tell()
        stream.seek(0, os.SEEK_END)
        self._size = max(0, stream.tell() - self._start)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._stream.seek(self._start)
        except (OSError, ValueError) as error:
            raise BodyUnreadable("The stream of the body cannot be read.") from error
        yield from _exactly(self._stream, self._size)

    def close(self) -> None:
        if self._owned:
            self._stream.close()


class Spool:
    """Keeps what comes from a stream that cannot rewind, until it is a payload."""

    def __init__(self) -> None:
        from tempfile import SpooledTemporaryFile

        self._file: IO[bytes] = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (outlives this)

    def add(self, chunk: object) -> None:
        """
        Raises:
            TypeError: the stream yields no bytes.
        """
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError("A body's stream must yield bytes; open a file in binary mode.")
        self._file.write(chunk)

    def payload(self) -> Payload:
        self._file.seek(0)
        return StreamPayload(self._file, owned=True)

    def close(self) -> None:
        self._file.close()


def _exactly(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next *size* bytes: a request must have as many as it has announced."""
    left = size
    while left:
        try:
            chunk = file.read(min(CHUNK_BYTES, left))
        except (OSError, ValueError) as error:
            raise BodyUnreadable("The body cannot be read to its end.") from error
        if not chunk:
            raise BodyUnreadable(f"The body has become shorter: {left:,} of {size:,} bytes are missing.")
        left -= len(chunk)
        yield chunk


def decoded(encoding: str | None, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """*chunks* without their ``Content-Encoding``, if it is gzip or deflate; else as they are.

    Raises:
        ValueError: they are not what the encoding says.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        yield from chunks
        return
    import zlib

    inflate = None
    try:
        for chunk in chunks:
            while chunk:  # what is left after an end is another gzip member
                if inflate is None or inflate.eof:
                    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its head
                yield inflate.decompress(chunk)
                chunk = inflate.unused_data
    except zlib.error as error:
        raise ValueError(f"The content is not {encoding}.") from error
    if inflate is not None and not inflate.eof:
        raise ValueError(f"The content breaks off: it is no whole {encoding}.")
