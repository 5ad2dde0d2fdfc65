"""Which partition a task or a queue lies in, and how arguments and records are packed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
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
HASH_TAGS: Final = tuple(f"{{{tag}}}" for tag in TAGS)
"""The tags as keys begin with them: the braces make a cluster look at nothing else."""

# msgpack ships no types.
pack: Final[Callable[[Mapping[str, Any]], bytes]] = cast("Any", msgpack).Packer(use_bin_type=False).pack
_unpackb: Final[Any] = cast("Any", msgpack).unpackb
_Unpacker: Final[Any] = cast("Any", msgpack).Unpacker
NOT_PACKED: Final[tuple[type[Exception], ...]] = (ValueError, cast("Any", msgpack).UnpackException)
"""What :func:`unpack` raises for bytes that nobody has packed."""


def unpack(packed: bytes) -> Any:
    """Undo :func:`pack`, by Python or by a script. Packed bytes within are for :func:`unpack_each`."""
    return _unpackb(packed, unicode_errors="surrogateescape")


def unpack_each(packed: str) -> list[Any]:
    """Unpack the values that a script packed, one after the other, into a string of a packed map."""
    # Lua has one type for text and bytes.
    unpacker = _Unpacker()
    unpacker.feed(packed.encode(errors="surrogateescape"))
    return [*unpacker]


def partition(name: str) -> int:
    """The partition of a task id or a queue's path: the first hexadecimal digit of its SHA-1, which a script in Redis
    can compute too."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()[0] >> 4


def tag_of(name: str) -> str:
    return HASH_TAGS[partition(name)]


def by_tag(task_ids: Iterable[str]) -> dict[str, list[str]]:
    """Task ids by the hash tags of their partitions."""
    found: dict[str, list[str]] = {}
    for task_id in task_ids:
        found.setdefault(tag_of(task_id), []).append(task_id)
    return found


def to_ms(seconds: float) -> int:
    return round(seconds * 1000)


def texts(names: Iterable[bytes]) -> set[str]:
    """The names that are texts. Others were written by somebody else."""
    found: set[str] = set()
    for name in names:
        with suppress(UnicodeDecodeError):
            found.add(name.decode())
    return found
