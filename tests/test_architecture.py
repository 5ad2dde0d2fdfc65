"""The pages about the code match the code: every file and name on them exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.code_references import Reference, missing, references, walks

PAGE = (ROOT / "docs" / "architecture.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

APP = ("cache_manager", "backend_webhook", "request_reporter", "operator_console", "task_logger", "shared")
FEWEST_MODULES = {"A submit": 20, "A completion": 20, "An event": 20, "A setting": 6, "An error": 12}
"""The least number of files that each walk visits."""

_ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    cells = [re.split(r" \| | \|$", row) for row in _ROW.findall(text)]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("- ")]
    heads = {number - 1 for number in rules}
    return [row for number, row in enumerate(cells) if number not in heads | set(rules)]


def rooms() -> list[str]:
    """The rooms that the table names, from the top to the bottom."""
    table = PAGE.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    return [row[0].strip("`") for row in rows(table)]


def entries() -> list[list[str]]:
    """The glossary's rows: word, meaning, where it is in the code."""
    return rows(GLOSSARY.partition("\n## Words that we do not use\n")[0])


def test_every_name_in_the_architecture_is_in_the_code():
    found = references(PAGE)
    assert len(found) > 100
    assert missing(found) == []


@pytest.mark.parametrize("title", FEWEST_MODULES)
def test_a_walk_visits_many_modules_in_order(title: str):
    steps = [step for steps in walks(PAGE)[title] for step in steps]
    assert len({step.path for step in steps}) >= FEWEST_MODULES[title]
    assert [str(step) for step in steps if not step.name and not step.path.endswith(".lua")] == []


def test_there_are_five_walks():
    assert list(walks(PAGE)) == list(FEWEST_MODULES)


def test_every_room_is_in_the_table():
    folders = {file.parent.relative_to(ROOT) for room in APP for file in (ROOT / room).rglob("*.py")}
    modules = {file.relative_to(ROOT) for file in (ROOT / "shared").glob("*.py")} - {Path("shared/__init__.py")}
    expected = {f"{folder}/" for folder in folders - {Path("shared")}} | set(map(str, modules)) | {"function_app.py"}
    assert expected - set(rooms()) == set()


def test_the_table_of_rooms_follows_the_layers_of_the_contract():
    [contract] = [contract for contract in CONTRACTS if contract["id"] == "layers-of-shared"]
    layers = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    known = {module: number for number, layer in enumerate(layers) for module in layer}
    order = [known[Path(room).parts[1].removesuffix(".py")] for room in rooms() if room.startswith("shared/")]
    assert order == sorted(order)
    assert set(order) == set(known.values())


def test_the_page_names_every_contract_and_no_other():
    assert set(re.findall(r"contract\s+`([\w-]+)`", PAGE)) == {contract["id"] for contract in CONTRACTS}


def test_every_word_of_the_glossary_appears_once():
    words = [row[0].casefold() for row in entries()]
    assert len(words) > 60
    assert [word for word in words if words.count(word) > 1] == []


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry[0])
def test_a_word_has_one_sentence_and_a_name_in_the_code(entry: list[str]):
    word, meaning, where = entry
    assert re.fullmatch(r"[A-Z].*\.", meaning), meaning
    assert re.search(r"[.!?] [A-Z]", meaning) is None, meaning
    assert references(where), word
    assert missing(references(where)) == []


def test_a_changed_name_is_noticed(tmp_path: Path):
    (tmp_path / "room").mkdir()
    module = tmp_path / "room" / "module.py"
    module.write_text("class Store:\n    limit: int = 1\n\n    async def create(self): ...\n")
    script = tmp_path / "room" / "step.lua"
    script.write_text("local function take_step(tag) end\n")
    names = ["Store", "Store.limit", "Store.create", "Store.purge", "create"]
    found = [Reference("room/module.py", name) for name in names]
    found += [Reference("room/step.lua", "take_step"), Reference("room/step.lua", "apply_step")]
    found += [Reference("room/"), Reference("room/other.py"), Reference("other/")]

    assert missing(found, tmp_path) == [
        "room/module.py Store.purge",
        "room/module.py create",
        "room/step.lua apply_step",
        "room/other.py",
        "other/",
    ]
