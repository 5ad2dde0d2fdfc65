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
unpack: Final[Callable[[bytes], Any]] = cast("Any", msgpack).unpackb


def partition(name: str) -> int:
    """Where a task lies, by its id, or a queue, by its path: the first hexadecimal digit of its SHA-1, which a script
    in Redis can tell too."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()[0] >> 4


def tag_of(name: str) -> str:
    return _BRACED[partition(name)]


def to_ms(seconds: float) -> int:
    return round(seconds * 1000)
