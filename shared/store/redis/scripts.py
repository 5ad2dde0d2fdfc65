"""The Lua scripts, as Redis runs them.

A file names the files that it uses by lines of the form ``-- @include task/record``, which is
``lua/includes/task/record.lua``. Each is put before the file that names it, once. So a script declares only what it
uses, which matters: each declaration costs time whenever the script runs. A line ``-- @function apply_step
task/apply`` includes a script as a function of the keys and arguments that it names: ``apply_step(tag, step,
data)``. The script itself stays the main chunk, since a function that captures twenty locals made a heartbeat 5 %
slower. A line ``-- @late settle batch/settle`` includes a file for its function of that name, which most runs do not
call: what only that function needs is declared when it is called. A function that a file declares and the script
does not use is left out. ``python -m tools.print_script NAME`` prints a script with the line numbers that Redis'
error messages have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import indent
from typing import Final

from shared.store.record_codec import HISTORY_NUMBERS
from shared.store.redis.partitions import TAGS
from shared.tasks.task import DEFAULT_PRIORITY

LUA: Final = Path(__file__).parent.parent / "lua"
_INCLUDES: Final = LUA / "includes"
_DIRECTIVE: Final = re.compile(r"^-- @(?:include|(?P<how>function|late) (?P<name>\w+)) (?P<file>\S+)\n", re.MULTILINE)
_FUNCTION: Final = re.compile(r"^local function (\w+)(?:\(.*\bend\n|.*\n(?:(?!end\n).*\n)*end\n)", re.MULTILINE)
"""One that a file declares: in one line, or up to the next ``end`` without indentation."""
_COMMENT: Final = re.compile(r"--.*")
_ARGUMENT: Final = re.compile(r"\b(KEYS|ARGV)\[(\d)\]")
_WORD: Final = re.compile(r"\w+")


class IncludeError(Exception):
    """Raised when a Lua file includes one that does not exist, or itself."""


def _generated() -> dict[str, str]:
    """Includes that are made of Python's own constants, so that these have one home."""
    tags = "".join(f"{digit:x}{{{tag}}}" for digit, tag in enumerate(TAGS))
    # A table would be built by each run of a script, which costs 3 % of a step.
    numbers = "".join(f"  if name == '{name}' then return {number} end\n" for name, number in HISTORY_NUMBERS.items())
    return {
        "generated/partition_tags": (
            "-- Each behind its digit, the first one of the name's SHA-1. A table would be built by each run.\n"
            f"local PARTITION_TAGS = '{tags}'\n"
        ),
        "generated/history_number": f"local function history_number(name)\n{numbers}end\n",
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
    parts, script = _parts(text, generated, ())
    files = [*parts.items(), ("script", script)]
    return _without_unused("".join(f"-- [{name}]\n{body}" for name, body in files))


def _without_unused(script: str) -> str:
    words = _words(script)
    functions = {function[1]: function[0] for function in _FUNCTION.finditer(script)}
    while unused := [name for name in functions if words[name] == 1]:
        for name in unused:
            function = functions.pop(name)
            script = script.replace(function, "", 1)
            words.subtract(_words(function))  # others may have been used by this one alone
    return script


def _words(script: str) -> Counter[str]:
    return Counter(_WORD.findall(_COMMENT.sub("", script)))


def _parts(text: str, generated: Mapping[str, str], outside: Collection[str]) -> tuple[dict[str, str], str]:
    """What a text needs beside what is *outside* already, in that order, and the text without its directives."""
    included: dict[str, str] = {}

    def include(directive: re.Match[str], including: tuple[str, ...]) -> None:
        how, name, file = directive["how"], directive["name"], directive["file"]
        if file in including:
            raise IncludeError(f"{file} includes itself")
        if file in included or file in outside:
            return
        if how == "late":
            needed, body = _parts(_read(_INCLUDES / f"{file}.lua"), generated, {*outside, *included})
            whole = indent("".join([*needed.values(), body]), "  ")
            included[file] = f"local function {name}(...)\n{whole}  return {name}(...)\nend\n"
            return
        body = _read(LUA / f"{file}.lua") if how else generated.get(file) or _read(_INCLUDES / f"{file}.lua")
        for needed in _DIRECTIVE.finditer(body):
            include(needed, (*including, file))
        body = _DIRECTIVE.sub("", body)
        included[file] = _function(name, body) if how else body

    for directive in _DIRECTIVE.finditer(text):
        include(directive, ())
    return included, _DIRECTIVE.sub("", text)


def _function(name: str, script: str) -> str:
    """A function of what the script is called with: tables for it would be built by each call."""
    body = _ARGUMENT.sub(r"\1_\2", script)
    named = sorted(set(_ARGUMENT.findall(script)), key=lambda argument: (argument[0] != "KEYS", argument))
    return f"local function {name}({', '.join(map('_'.join, named))})\n{indent(body, '  ')}end\n"


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        name = file.with_suffix("").relative_to(_INCLUDES if _INCLUDES in file.parents else LUA).as_posix()
        raise IncludeError(f"there is no {name}") from None
