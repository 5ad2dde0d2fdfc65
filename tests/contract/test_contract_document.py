"""docs/contract.md and the tests of this directory name the same rows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.stack import ROOT

DOCUMENT = ROOT / "docs" / "contract.md"
HERE = Path(__file__).resolve().parent

_SECTION = re.compile(r"^#+ ([AB]\d+) ", re.MULTILINE)
_ROW = re.compile(r"^\| ([AB]\d+)\.(\d+) \|", re.MULTILINE)


def documented() -> list[str]:
    """The ids of all rows of the document, in its order."""
    return [f"{section}.{number}" for section, number in _ROW.findall(DOCUMENT.read_text())]


def named() -> dict[str, set[str]]:
    """The rows that each test names, by file and function; a mark of the module counts for each of its tests."""
    rows: dict[str, set[str]] = {}
    for file in sorted(HERE.glob("test_*.py")):
        if file.name == Path(__file__).name:
            continue
        module = ast.parse(file.read_text())
        everywhere = {row for node in module.body if _is_pytestmark(node) for row in _rows_of(node)}
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks = {row for decorator in node.decorator_list for row in _rows_of(decorator)}
                rows[f"{file.name}::{node.name}"] = marks | everywhere
    return rows


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


def _rows_of(node: ast.AST) -> Iterator[str]:
    """The arguments of each ``pytest.mark.contract(…)`` in *node*."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.contract":
            yield from (ast.literal_eval(argument) for argument in call.args)


def test_every_row_of_the_document_has_a_test() -> None:
    tested = {row for rows in named().values() for row in rows}
    assert [row for row in documented() if row not in tested] == []


def test_every_row_that_a_test_names_is_in_the_document() -> None:
    rows = set(documented())
    assert {test: sorted(unknown) for test, names in named().items() if (unknown := names - rows)} == {}


def test_every_test_names_a_row() -> None:
    tests = named()
    assert len(tests) > 300
    assert [test for test, rows in tests.items() if not rows] == []


def test_row_ids_are_unique_ascend_and_stand_in_their_own_section() -> None:
    parts = _SECTION.split(DOCUMENT.read_text())[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(sections) == len(parts) // 2, "two sections have one id"
    for section, text in sections.items():
        rows = _ROW.findall(text)
        numbers = [int(number) for _, number in rows]
        assert {name for name, _ in rows} == {section}
        assert numbers == sorted(set(numbers)), section


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ('@pytest.mark.contract("A1.3")\ndef test_a(): ...', {"A1.3"}),
        (
            '@pytest.mark.contract("A1.3", "B2.1")\n@pytest.mark.parametrize("x", [1])\ndef test_a(): ...',
            {"A1.3", "B2.1"},
        ),
        (
            '@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.contract("B2.1"))])\ndef test_a(): ...',
            {"B2.1"},
        ),
        ("@pytest.mark.usefixtures('app')\ndef test_a(): ...", set()),
    ],
    ids=["one row", "two rows", "a parameter", "none"],
)
def test_marks_are_read_from_decorators(source: str, rows: set[str]) -> None:
    [function] = ast.parse(source).body
    assert set(_rows_of(function)) == rows
