"""The Lua scripts, as Redis runs them.

A file names the files that it uses by lines of the form ``-- @include task/record``, which is
``lua/includes/task/record.lua``. Each is put before the file that names it, once. So a script declares only what it
uses, which matters: each declaration costs time whenever the script runs. ``python -m tools.print_script NAME``
prints a script with the line numbers that Redis' error messages have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shared.store.record_codec import HISTORY_NUMBERS
from shared.store.redis.partitions import TAGS
from shared.tasks.task import DEFAULT_PRIORITY

LUA: Final = Path(__file__).parent.parent / "lua"
_INCLUDES: Final = LUA / "includes"
_INCLUDE: Final = re.compile(r"^-- @include (\S+)\n", re.MULTILINE)


class IncludeError(Exception):
    """Raised when a Lua file includes one that does not exist, or itself."""


def _generated() -> dict[str, str]:
    """Includes that are made of Python's own constants, so that these have one home."""
    tags = ", ".join(f"[{ord(f'{digit:x}')}] = '{{{tag}}}'" for digit, tag in enumerate(TAGS))
    numbers = ", ".join(f"{name} = {number}" for name, number in HISTORY_NUMBERS.items())
    return {
        "generated/partition_tags": (
            "-- By the character code of the first hexadecimal digit of the name's SHA-1.\n"
            f"local PARTITION_TAGS = {{ {tags} }}\n"
        ),
        "generated/history_numbers": f"local HISTORY_NUMBERS = {{ {numbers} }}\n",
        "generated/default_priority": f"local DEFAULT_PRIORITY = {DEFAULT_PRIORITY}\n",
    }


def read_scripts() -> dict[str, str]:
    """All scripts as they are sent, by names such as ``task/apply``.

    Raises:
        IncludeError: a file includes one that does not exist, or itself.
    """
    files = [file for file in sorted(LUA.rglob("*.lua")) if _INCLUDES not in file.parents]
    generated = _generated()
    return {
        file.relative_to(LUA).with_suffix("").as_posix(): _assemble(file.read_text(), generated) for file in files
    }


def _assemble(text: str, generated: Mapping[str, str]) -> str:
    included: dict[str, str] = {}

    def include(name: str, including: tuple[str, ...]) -> None:
        if name in including:
            raise IncludeError(f"{name} includes itself")
        if name not in included:
            body = _read_include(name, generated)
            for needed in _needed(body):
                include(needed, (*including, name))
            included[name] = body

    for name in _needed(text):
        include(name, ())
    parts = [f"-- [{name}]\n{_without_directives(body)}" for name, body in included.items()]
    return "".join([*parts, "-- [script]\n", _without_directives(text)])


def _read_include(name: str, generated: Mapping[str, str]) -> str:
    if name in generated:
        return generated[name]
    try:
        return (_INCLUDES / f"{name}.lua").read_text()
    except FileNotFoundError:
        raise IncludeError(f"there is no {name}") from None


def _needed(text: str) -> Iterator[str]:
    return (match[1] for match in _INCLUDE.finditer(text))


def _without_directives(text: str) -> str:
    return _INCLUDE.sub("", text)
