"""How what is kept in Redis is packed, and in which partition it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]

# Sixteen partitions; each tag's slot lies in the middle of its sixteenth of a cluster's slots.
TAGS: Final = (
    "04s",
    "003",
    "pt6",
    "4x6",
    "0ay",
    "0e9",
    "4mt",
    "4i4",
    "265",
    "22u",
    "c0h",
    "6zp",
    "gio",
    "5f",
    "6o2",
    "6kr",
)
PARTITIONS: Final = len(TAGS)
_BRACED: Final = tuple(f"{{{tag}}}" for tag in TAGS)

# msgpack ships no types.
pack: Final[Callable[[Mapping[str, Any]], bytes]] = cast("Any", msgpack).Packer(use_bin_type=False).pack
_unpackb: Final[Any] = cast("Any", msgpack).unpackb
_Unpacker: Final[Any] = cast("Any", msgpack).Unpacker


def unpack(packed: bytes) -> Any:
    """What :func:`pack` made, or a script; packed bytes within it are for :func:`unpack_each`."""
    return _unpackb(packed, unicode_errors="surrogateescape")


def unpack_each(packed: str) -> list[Any]:
    """What a script packed, one after the other, into a string of a packed map."""
    # Lua has one type for text and bytes.
    unpacker = _Unpacker()
    unpacker.feed(packed.encode(errors="surrogateescape"))
    return [*unpacker]


def partition(name: str) -> int:
    """Where a task lies, by its id, or a queue, by its path: the first hexadecimal digit of its SHA-1, which a script
    in Redis can tell too."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()[0] >> 4


def tag_of(name: str) -> str:
    return _BRACED[partition(name)]


def to_ms(seconds: float) -> int:
    return round(seconds * 1000)
