"""Builds the wheel without what only those read who change the SDK, since each model's image would have it.

Comments and most blanks go everywhere. What is private loses its docstrings and annotations, too, and private modules
and commands their idle imports. A class that a public module shows keeps its texts wherever it is. What remains is
packed by Zopfli, which takes longer and needs less.

Each line keeps its number, so that a traceback leads to the same line of the repository. An editable installation has
the sources as they are.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import struct
import tempfile
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import zopfli.zlib
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "taskbackbone"
COMMANDS = ("check", "cli", "sidecar")
TESTING = (
    *("_dispatch", "_played", "_played_api", "_played_storage", "_rules"),
    *("check", "pytest_plugin", "testing"),
)
"""Modules of the wheel that ``testing/pyproject.toml`` describes, and of no other one."""
ROUNDS = 15
"""Of Zopfli: more make no difference."""


class SlimHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="taskbackbone-build-")
        home = Path(__file__).parent
        files = Path(home, "src", PACKAGE).glob("*.py")
        for name, source in slim({file.stem: file.read_text(encoding="utf-8") for file in files}).items():
            if (name in TESTING) == (Path(self.root) != home):
                bare = Path(self._folder.name, f"{name}.py")
                bare.write_text(source, encoding="utf-8")
                build_data["force_include"][str(bare)] = f"{PACKAGE}/{name}.py"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
            pack(Path(artifact_path))


# What is left out of the modules.


def slim(sources: Mapping[str, str]) -> dict[str, str]:
    """The same programs, line by line, by the names of their modules."""
    shown = classes_on_show(sources)
    made = {
        name: without_comments(edited(source, unseen(ast.parse(source), source, shown.get(name, set()), name)))
        for name, source in sources.items()
    }
    asked = imported_names(made.values())
    for name, source in made.items():
        idle = () if is_imported(name) else idle_imports(ast.parse(source), asked.get(name, set()))
        made[name] = with_thin_blanks(edited(source, idle))
    return made


def is_imported(module: str) -> bool:
    return is_public(module) and module not in COMMANDS


def is_public(name: str) -> bool:
    return not re.match("_[a-z]", name)


class Edit(NamedTuple):
    """What stands in place of the source from one line and byte to another: lines count from 1, bytes from 0."""

    line: int
    start: int
    last_line: int
    end: int
    text: str = ""

    @classmethod
    def of(cls, node: Any, text: str = "") -> Edit:
        return cls(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, text)


def edited(source: str, edits: Iterable[Edit]) -> str:
    """*source* with these edits, and with as many lines as before."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    for edit in sorted(edits, reverse=True):
        line = lines[edit.line - 1][: edit.start] + edit.text.encode()
        rest = lines[edit.last_line - 1][edit.end :]
        gap = edit.last_line - edit.line
        touched = [line + b"\n", *[b"\n"] * (gap - 1), rest] if gap else [line + rest]
        lines[edit.line - 1 : edit.last_line] = [each if each.strip() else b"\n" for each in touched]
    return b"".join(lines).decode()


def classes_on_show(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """By private modules, the classes that a public one exports, or makes its own classes of."""
    shown: dict[str, set[str]] = {}
    for tree in [ast.parse(source) for name, source in sources.items() if is_imported(name)]:
        named = {part.value for part in ast.walk(tree) if isinstance(part, ast.Constant)}
        named |= {base.id for part in tree.body for base in getattr(part, "bases", ()) if isinstance(base, ast.Name)}
        for module, names in imported_names_in(tree):
            shown.setdefault(module, set()).update(names & named)
    return shown


def imported_names(sources: Iterable[str]) -> dict[str, set[str]]:
    """By modules, what others import of them."""
    asked: dict[str, set[str]] = {}
    for source in sources:
        for module, names in imported_names_in(ast.parse(source)):
            asked.setdefault(module, set()).update(names)
    return asked


def imported_names_in(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and part.level and part.module:
            yield part.module, {alias.name for alias in part.names}


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def unseen(tree: ast.Module, source: str, shown: set[str], name: str) -> Iterator[Edit]:
    """Take away the docstrings and annotations that nobody sees."""
    lines = source.encode().splitlines()

    def visit(node: ast.AST, is_seen: bool) -> Iterator[Edit]:
        if not is_seen:
            yield from docstrings(node)
        for part in ast.iter_child_nodes(node):
            if not is_seen and not (isinstance(node, ast.ClassDef) and isinstance(part, ast.AnnAssign)):
                yield from annotation(part, lines)  # those of a class may make its fields
            if isinstance(part, ast.ClassDef) and isinstance(node, ast.Module) and part.name in shown:
                yield from visit(part, True)
            elif isinstance(part, (ast.ClassDef, *_FUNCTIONS)):
                yield from visit(part, is_seen and is_public(part.name) and not isinstance(node, _FUNCTIONS))
            else:
                yield from visit(part, is_seen)

    return visit(tree, is_imported(name))


def docstrings(node: ast.AST) -> Iterator[Edit]:
    """The texts that stand alone in a block, but for one that is all that it has."""
    body: Any = getattr(node, "body", None)
    for part in body if isinstance(body, list) and len(body) > 1 else ():
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
            yield Edit.of(part)


def annotation(node: ast.AST, lines: list[bytes]) -> Iterator[Edit]:
    if isinstance(node, ast.arg) and node.annotation:
        yield Edit.of(node, node.arg)
    elif isinstance(node, _FUNCTIONS) and node.returns and node.returns.lineno == node.returns.end_lineno:
        number, column = node.returns.lineno, node.returns.col_offset
        arrow = lines[number - 1].rindex(b" ->", 0, column)
        yield Edit(number, arrow, number, node.returns.end_col_offset or column)
    elif isinstance(node, ast.AnnAssign) and node.value and node.target.lineno == node.annotation.end_lineno:
        number, column = node.lineno, node.target.end_col_offset or 0
        yield Edit(number, column, number, node.annotation.end_col_offset or column)


def idle_imports(tree: ast.Module, asked: set[str]) -> Iterator[Edit]:
    """Take away what a module imports and no longer needs, except for what others import of it (*asked*)."""
    for_types = [part for part in tree.body if isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING"]
    tests = {part.test for part in for_types}
    has_annotations = any(isinstance(part, (ast.AnnAssign, ast.arg)) and part.annotation for part in ast.walk(tree))
    used = asked | {part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and part not in tests}

    def needed(part: ast.stmt) -> list[ast.alias]:
        names: list[ast.alias] = getattr(part, "names", [])
        return [alias for alias in names if (alias.asname or alias.name).partition(".")[0] in used]

    for block in for_types:
        if any(needed(part) for part in block.body):
            used.add("TYPE_CHECKING")
        else:
            yield Edit.of(block)
    for part in tree.body:
        if not isinstance(part, (ast.Import, ast.ImportFrom)):
            continue
        kept = needed(part)
        if getattr(part, "module", "") == "__future__":
            kept = part.names if has_annotations else []
        if len(kept) < len(part.names):
            part.names = kept
            yield Edit.of(part, ast.unparse(part) if kept else "")


def without_comments(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1][:column].rstrip() + "\n"
    return "".join(lines)


def with_thin_blanks(source: str) -> str:
    """A blank for each level, none at the beginning of a line within brackets, and none between signs."""
    depth, begins, texts = 0, True, 0
    gaps: list[Edit] = []
    before = tokenize.TokenInfo(tokenize.NL, "", (0, 0), (0, 0), "")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
            continue
        if token.type in (tokenize.NL, tokenize.ENDMARKER):
            continue
        texts += (tokenize.tok_name[token.type] == "FSTRING_START") - (
            tokenize.tok_name[before.type] == "FSTRING_END"
        )
        (line, start), (last_line, end) = token.start, before.end
        if line > last_line:
            gaps.append(Edit(line, 0, line, start, " " * (depth if begins else 0)))
        elif start > end and not texts and not is_gap_needed(before, token):
            gaps.append(Edit(line, len(token.line[:end].encode()), line, len(token.line[:start].encode())))
        begins, before = token.type == tokenize.NEWLINE, token
    return "".join(line if line.strip() else "\n" for line in edited(source, gaps).splitlines(keepends=True))


def is_gap_needed(before: tokenize.TokenInfo, token: tokenize.TokenInfo) -> bool:
    is_word = [each.type != tokenize.OP for each in (before, token)]
    has_keyword = keyword.iskeyword(before.string) or keyword.iskeyword(token.string)
    return all(is_word) or has_keyword or (before.type == tokenize.NUMBER and token.string.startswith("."))


# How the wheel is packed.


def pack(wheel: Path) -> None:
    """Pack a wheel again, by Zopfli: the zip file of before, but smaller."""
    with zipfile.ZipFile(wheel) as archive:
        files = [(info, archive.read(info)) for info in archive.infolist()]
    content, directory = bytearray(), bytearray()
    for info, data in files:
        packed = zopfli.zlib.compress(data, numiterations=ROUNDS)[2:-4]  # without the head and sum of zlib
        method, packed = (8, packed) if len(packed) < len(data) else (0, data)
        year, month, day, hour, minute, second = info.date_time
        date, time = (year - 1980) << 9 | month << 5 | day, hour << 11 | minute << 5 | second // 2
        name = info.filename.encode("ascii")
        head = struct.pack("<5H3L2H", 20, 0, method, time, date, info.CRC, len(packed), len(data), len(name), 0)
        made_by = struct.pack("<2B", 20, info.create_system)
        where = struct.pack("<3H2L", 0, 0, 0, info.external_attr, len(content))
        directory += b"PK\1\2" + made_by + head + where + name
        content += b"PK\3\4" + head + name + packed
    end = struct.pack("<4H2LH", 0, 0, len(files), len(files), len(directory), len(content), 0)
    wheel.write_bytes(content + directory + b"PK\5\6" + end)
