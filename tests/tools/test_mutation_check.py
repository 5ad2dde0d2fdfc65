from __future__ import annotations

import ast
import re
from pathlib import Path
from queue import Queue

import pytest

from tools.mutation_check import HOMES, MUTATIONS, ROOT, Mutation, require_green


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_each_guard_stands_where_it_is_broken(mutation: Mutation) -> None:
    whole = (ROOT / mutation.file).read_text()
    assert whole.count(mutation.old) == 1
    if mutation.file.endswith(".py"):
        ast.parse(whole.replace(mutation.old, mutation.new))  # or every test would notice it


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_the_tests_of_each_guard_exist(mutation: Mutation) -> None:
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists()
        assert not name or f"def {name.split('[')[0].split('::')[-1]}(" in (ROOT / file).read_text()


def test_the_page_has_each_guard_with_a_test_that_notices() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().partition("## Each guard is tested")[2]
    rows = re.findall(r"^\| ([^|]+) \| `([\w.]+)::(?:\w+::)?(\w+)` \|$", page, re.MULTILINE)
    assert sorted(guard for guard, _, _ in rows) == sorted(mutation.guard for mutation in MUTATIONS)
    tests = {
        (file.name, test)
        for home in HOMES
        for file in (ROOT / home / "tests").rglob("test_*.py")
        for test in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    assert [row for row in rows if row[1:] not in tests] == []


def test_a_test_that_fails_anyway_stops_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # these tests need no others, and loading takes long
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    (tmp_path / "test_green.py").write_text("def test_green(): pass\n")
    (tmp_path / "test_red.py").write_text("def test_red(): assert False\n")
    trees: Queue[Path] = Queue()
    trees.put(tmp_path)
    require_green(["test_green.py"], trees)
    with pytest.raises(SystemExit, match="test_red"):
        require_green(["test_green.py", "test_red.py"], trees)
