"""A release is made of files that agree on its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.release import PLACES, NotReady, notes, versions

LINES = {
    "pyproject.toml": '[project]\nversion = "{}"\n',
    "sdk/src/taskbackbone/__init__.py": '__version__ = "{}"\n',
    "sdk/testing/pyproject.toml": 'dependencies = ["taskbackbone=={}"] # of the same sources\n',
}
CHANGES = """# Changes

## 1.3.0, not released

- Later.

## 1.2.0, 2026-12-01

A word.

- One.

## 1.1.0, 2026-11-01

- Two.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, line in LINES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line.format("1.2.0"))
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    return tmp_path


def test_the_files_of_the_repository_agree() -> None:
    assert {*PLACES} == {*LINES}
    assert len({*versions().values()}) == 1


def test_the_notes_are_the_section_of_the_version(root: Path) -> None:
    assert notes("v1.2.0", root) == "A word.\n\n- One."


@pytest.mark.parametrize("name", LINES)
def test_a_file_with_another_version_is_named(root: Path, name: str) -> None:
    (root / name).write_text(LINES[name].format("1.2.1"))
    with pytest.raises(NotReady, match=rf"^v1.2.0 is no tag of these files: {name} says 1.2.1.$"):
        notes("v1.2.0", root)


def test_a_file_without_a_version_is_named(root: Path) -> None:
    (root / "pyproject.toml").write_text("")
    with pytest.raises(NotReady, match=r"^pyproject.toml has 0 lines that say a version.$"):
        notes("v1.2.0", root)


def test_a_tag_has_its_letter(root: Path) -> None:
    with pytest.raises(NotReady, match="a tag begins with v"):
        notes("1.2.0", root)


def test_a_version_without_a_date_is_not_released(root: Path) -> None:
    for name, line in LINES.items():
        (root / name).write_text(line.format("1.3.0"))
    with pytest.raises(NotReady, match=r'^CHANGELOG.md has no heading "## 1.3.0, YEAR-MONTH-DAY".$'):
        notes("v1.3.0", root)
