"""Builds the wheel without comments, and without the docstrings of modules that nobody imports.

Only those read them who change the modules, and each model's image would have them.

Each line keeps its number, so that a traceback leads to the same line of the repository. An editable installation has
the sources as they are.
"""

from __future__ import annotations

import ast
import io
import re
import tempfile
import tokenize
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "taskbackbone"
COMMANDS = ("check", "cli", "sidecar")


class WithoutCommentsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="taskbackbone-build-")
        for module in Path(self.root, "src", PACKAGE).glob("*.py"):
            is_imported = not re.match("_[a-z]", module.name) and module.stem not in COMMANDS
            source = module.read_text(encoding="utf-8")
            bare = Path(self._folder.name, module.name)
            bare.write_text(without_comments(source if is_imported else without_docstrings(source)), encoding="utf-8")
            build_data["force_include"][str(bare)] = f"{PACKAGE}/{module.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()


def without_docstrings(source: str) -> str:
    """The same program, line by line, with nothing where its docstrings are."""
    lines = source.splitlines(keepends=True)
    for text in docstrings(ast.parse(source)):
        for number in range(text.lineno, (text.end_lineno or text.lineno) + 1):
            lines[number - 1] = "\n"
    return "".join(lines)


def without_comments(source: str) -> str:
    """The same program, line by line, with nothing where its comments are."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1][:column].rstrip() + "\n"
    return "".join(lines)


def docstrings(tree: ast.AST) -> list[ast.Expr]:
    """The texts that stand alone, but for those that are all that a block has."""
    blocks = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    return [
        statement
        for block in blocks
        for statement in block
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        and len(block) > 1
    ]
