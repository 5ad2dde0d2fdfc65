"""Bicep: the compiler and its linter find nothing, and every file is as its formatter writes it.

What they cannot know: whether Azure takes it. Where Azure's types are open, the compiler takes any text
(``test_snapshots.py`` checks such values); it asks no provider, no quota and no policy of a subscription.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.infra.conftest import Run

INFRA = ROOT / "infra"
FILES = sorted([*INFRA.rglob("*.bicep"), *INFRA.glob("*.bicepparam")])
MAIN = INFRA / "main.bicep"
OFF = {"use-recent-api-versions", "use-user-defined-types"}
"""The first ages: what it says depends on the day. The second would have each value of a model service typed."""
_PARAMETER = re.compile(r"^param (\w+) ?(.*)$", re.MULTILINE)


def ids(file: Path) -> str:
    return str(file.relative_to(INFRA))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the templates, where a test may write. They read openapi.json too."""
    folder = tmp_path_factory.mktemp("bicep")
    shutil.copytree(INFRA, folder / "infra")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "openapi.json", folder / "docs")
    return folder / "infra"


def test_the_compiler_and_the_linter_find_nothing(bicep: Run) -> None:
    # A property that Azure does not know is only a warning, and the compiler then ends with 0.
    done = bicep("lint", "--pattern", "infra/**/*.bicep")
    assert (done.returncode, done.stderr) == (0, "")
    for file in FILES:
        if file.suffix == ".bicepparam":
            done = bicep("build-params", file, "--stdout")
            assert (done.returncode, done.stderr) == (0, "")


def test_the_formatter_changes_nothing(bicep: Run, copied: Path) -> None:
    for suffix in ("bicep", "bicepparam"):
        done = bicep("format", "--pattern", copied / "**" / f"*.{suffix}")
        assert (done.returncode, done.stderr) == (0, "")
    for file in FILES:
        assert (copied / file.relative_to(INFRA)).read_text() == file.read_text(), ids(file)


def test_it_would_find_a_misspelt_property_a_secret_in_an_output_and_bad_form(bicep: Run, copied: Path) -> None:
    bad = copied / "modules" / "bad.bicep"
    bad.write_text(
        "resource account 'Microsoft.Storage/storageAccounts@2025-06-01' existing = { name: 'account' }\n"
        "resource topic 'Microsoft.EventGrid/topics@2025-02-15' = {\n  name: 'topic'\n  location: 'westeurope'\n"
        "  properties: {\n    disableLocalAuht: true\n  }\n}\n"
        "param unused    string\noutput key string = account.listKeys().keys[0].value\n"
    )
    found = bicep("lint", "--pattern", copied / "**" / "*.bicep").stderr
    for rule in ("BCP037|BCP089", "outputs-should-not-contain-secrets", "no-hardcoded-location", "no-unused-params"):
        assert re.search(rf"modules/bad\.bicep\S+ : (Error|Warning) ({rule})", found), found
    before = bad.read_text()
    bicep("format", "--pattern", copied / "**" / "*.bicep")
    assert bad.read_text() != before


def test_every_rule_of_the_linter_is_an_error_but_those_that_age() -> None:
    rules = json.loads((INFRA / "bicepconfig.json").read_text())["analyzers"]["core"]["rules"]
    assert {name for name, rule in rules.items() if rule["level"] == "off"} == OFF
    assert {rule["level"] for name, rule in rules.items() if name not in OFF} == {"error"}


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".bicep"], ids=ids)
def test_each_parameter_and_output_is_typed_and_described(file: Path) -> None:
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(("param ", "output ")):
            assert len(line.split("=")[0].split()) >= 3, f"{line}: no type"
            above = lines[:number]
            while above and above[-1].startswith("@") and not above[-1].startswith("@description("):
                above.pop()
            while above and above[-1] in ("])",):  # a list of allowed values
                while not above[-1].startswith("@"):
                    above.pop()
                above.pop()
                while above and above[-1].startswith("@") and not above[-1].startswith("@description("):
                    above.pop()
            assert above[-1].startswith("@description("), f"{line}: no description"


def test_azd_gives_every_parameter_and_no_other() -> None:
    template = MAIN.read_text()
    names = {name for name, _ in _PARAMETER.findall(template)}
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    assert {*given} == names
    for name, value in given.items():
        # A variable that is not set is an empty text: where that is no value, the file says what is.
        [default] = re.findall(r"^\$\{[A-Z_]+(?:=([^}]*))?\}$", value["value"])
        rest = dict(_PARAMETER.findall(template))[name]
        if "=" in rest:
            assert rest.partition("= ")[2] == f"'{default}'", name


def test_no_parameter_and_no_output_of_the_deployment_is_a_secret() -> None:
    template = MAIN.read_text()
    assert "@secure()" not in template
    assert not re.search(r"\blist[A-Z]\w*\(", "".join(file.read_text() for file in FILES))


def test_nothing_differs_from_one_deployment_to_the_next() -> None:
    """So a second one changes no setting: what goes in is the same, and that is all that the templates go by."""
    assert not re.search(r"\b(newGuid|utcNow|deployment)\(", "".join(file.read_text() for file in FILES))


def test_no_secret_is_made_of_what_anybody_can_compute() -> None:
    """``uniqueString`` makes names, ``guid`` makes names of role assignments, and neither makes anything else."""
    for file in FILES:
        for line in file.read_text().splitlines():
            if "uniqueString(" in line:
                assert line == "var token = toLower(uniqueString(subscription().id, environmentName, location))"
            if re.search(r"\bguid\(", line):
                assert line.strip().startswith("name: guid("), line
