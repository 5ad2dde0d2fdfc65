"""What the pages about the code refer to, and what there is in the files."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from local.stack import ROOT

_REFERENCE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:\.(?:py|lua|md|toml|json)|/))`(?:\s+`([A-Za-z_][\w.]*)`)?")
_LUA_NAME = re.compile(r"^(?:local )?function (\w+)|^local (\w+) =", re.MULTILINE)
_WALK = re.compile(r"^### (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^(\d+)\. (.*(?:\n   .*)*)", re.MULTILINE)

FUNCTION, OTHER = "function", "other"


class Reference(NamedTuple):
    """A file or folder that a page names, and a name in it."""

    path: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path} {self.name}".strip()

    @property
    def is_function(self) -> bool:
        return self.path.endswith(".py") and names_of(self.path).get(self.name) == FUNCTION


def references(text: str) -> list[Reference]:
    """What the text names in the form `` `path` `` or `` `path` `name` ``."""
    return [Reference(path, name) for path, name in _REFERENCE.findall(text)]


def missing(found: list[Reference], root: Path = ROOT) -> list[str]:
    """Those that are not there."""
    return [str(reference) for reference in found if not _exists(reference, root)]


def walks(page: str) -> dict[str, list[list[Reference]]]:
    """The walks by their titles; each is one list of steps or several, and each step what its item begins with.

    Raises:
        AssertionError: the items of a list are not numbered in order, or one begins with no reference.
    """
    _, *parts = _WALK.split(page.partition("\n## The five walks\n")[2])
    return {title: _lists(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def _lists(text: str) -> list[list[Reference]]:
    lists: list[list[Reference]] = []
    for number, item in _ITEM.findall(text):
        if number == "1":
            lists.append([])
        lists[-1].append(references(item)[0])
        assert item.startswith(f"`{lists[-1][-1].path}`"), item
        assert int(number) == len(lists[-1]), item
    return lists


def _exists(reference: Reference, root: Path) -> bool:
    path = root / reference.path
    if reference.path.endswith("/"):
        return path.is_dir() and not reference.name
    return path.is_file() and (not reference.name or reference.name in names_of(reference.path, root))


@cache
def names_of(path: str, root: Path = ROOT) -> dict[str, str]:
    """The names that a file defines, such as ``Class.method`` or ``function.inner``, and what each is."""
    text = (root / path).read_text()
    if path.endswith(".lua"):
        return {function or other: FUNCTION if function else OTHER for function, other in _LUA_NAME.findall(text)}
    return _names(ast.parse(text).body, "")


def _names(body: list[ast.stmt], prefix: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names[prefix + node.name] = FUNCTION
                names |= _names(node.body, f"{prefix}{node.name}.")
            case ast.ClassDef():
                names[prefix + node.name] = OTHER
                names |= _names(node.body, f"{prefix}{node.name}.")
            case ast.Assign():
                names |= {prefix + target.id: OTHER for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names[prefix + name] = OTHER
            case _:
                pass
    return names
