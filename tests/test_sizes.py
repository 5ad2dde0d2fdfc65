"""Files and handlers of the app stay small enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

from local.stack import ROOT

APP = (
    *("function_app.py", "cache_manager", "backend_webhook", "request_reporter", "operator_console", "task_logger"),
    "shared",
)
MOST_LINES = 450
MOST_LINES_OF_A_HANDLER = 20


def files(*endings: str) -> list[Path]:
    found = [ROOT / APP[0], *(file for room in APP[1:] for file in (ROOT / room).rglob("*"))]
    return [file for file in found if file.suffix in endings]


def handlers(file: Path) -> list[ast.AsyncFunctionDef]:
    """The functions of a file that answer a request of the host."""
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.AsyncFunctionDef)]
    return [each for each in functions if is_handler(each)]


def is_handler(function: ast.AsyncFunctionDef) -> bool:
    takes, gives = [arg.arg for arg in function.args.args], function.returns
    return takes == ["req", "services"] and gives is not None and ast.unparse(gives) == "func.HttpResponse"


def lines_of(handler: ast.AsyncFunctionDef) -> int:
    """How many lines a handler's body has, without what it says of itself."""
    first = handler.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(handler) and first.end_lineno else 0
    return (handler.end_lineno or first.lineno) - first.lineno + 1 - docstring


def test_no_file_of_the_app_is_too_long():
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in files(".py", ".lua")}
    assert len(lengths) > 150
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_handler_is_too_long():
    found = {handler.name: lines_of(handler) for file in files(".py") for handler in handlers(file)}
    assert len(found) > 20
    assert {handler: lines for handler, lines in found.items() if lines > MOST_LINES_OF_A_HANDLER} == {}
