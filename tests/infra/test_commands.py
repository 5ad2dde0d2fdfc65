"""Every command and option of other people's programs that the repository tells somebody to use: it exists.

The Azure CLI is asked itself. For the others, and for the CLI's extensions, commands.json has a list: with the source
that it was taken from, and the date. Values of options are not looked at.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.infra.commands import PROGRAMS, Use, has_error, known, listed, shell_texts, typed, uses, uses_in
from tests.sdk.environments import environment, install

REQUIREMENTS = Path(__file__).with_name("requirements-azure-cli.txt")
Found = tuple[str, set[str]]

USES = uses()


@pytest.fixture(scope="module")
def azure_cli(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Use]], list[Found | str]]:
    """Asks the Azure CLI for the commands of calls: their options, or what is wrong with them."""
    python = environment("infra-azure-cli", sys.executable, [REQUIREMENTS])
    [core] = re.findall(r"^azure-cli-core(==.+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    if not (python.parent / "az").exists():
        install(python, [f"azure-cli{core}"], "--no-deps")
    variables = {
        "AZURE_CONFIG_DIR": str(tmp_path_factory.mktemp("azure")),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
    }
    script = Path(__file__).with_name("azure_cli.py")

    def ask(calls: list[Use]) -> list[Found | str]:
        asked = json.dumps([call.words for call in calls])
        done = subprocess.run(
            [python, script], input=asked, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        # Parts that nobody needs yet are not installed: one of them may have the command.
        missing = "".join(f"; {line}" for line in dict.fromkeys(done.stderr.splitlines()) if "loading" in line)
        everywhere = {*known()["az"]["everywhere"].split()}
        return [
            (answer["name"], {*answer["options"]} | everywhere) if "name" in answer else answer["problem"] + missing
            for answer in json.loads(done.stdout)
        ]

    return ask


def problems(use: Use, found: Found | str) -> list[str]:
    """What is wrong with a call, one sentence each."""
    if isinstance(found, str):
        return [f"{use}: {found}"]
    name, options = found
    wrong = [option for option in use.options if option not in options]
    near = {option: difflib.get_close_matches(option, options, 1) for option in wrong}
    return [
        f"{use}: {name} has no {option}" + "".join(f", but {other}" for other in near[option]) for option in wrong
    ]


def test_there_are_calls_of_each_kind() -> None:
    places = {use.where for use in USES}
    assert {"docs/running.md", ".github/workflows/deploy.yml"} <= places
    assert {use.program for use in USES} <= {*PROGRAMS}
    assert len([use for use in USES if use.program == "az"]) > 20


def test_every_command_of_the_azure_cli_has_the_options_that_it_is_given(
    azure_cli: Callable[[list[Use]], list[Found | str]],
) -> None:
    asked = [use for use in USES if use.program == "az" and listed(use) is None]
    found = azure_cli(asked)
    assert [problem for use, answer in zip(asked, found, strict=True) for problem in problems(use, answer)] == []


def test_every_command_of_another_program_is_in_the_list_with_its_options() -> None:
    others = [use for use in USES if use.program != "az" or listed(use) is not None]
    found = [(use, listed(use) or f"the list has no such command of {use.program}") for use in others]
    assert [problem for use, answer in found for problem in problems(use, answer)] == []


def test_what_no_program_was_asked_about_is_said() -> None:
    by_list: dict[str, set[str]] = {}
    for use in USES:
        if found := listed(use):
            by_list.setdefault(use.program, set()).add(found[0])
    told = "; ".join(
        f"{program} ({known()[program]['date']}): {', '.join(sorted(names))}" for program, names in by_list.items()
    )
    pytest.skip(f"looked up in commands.json, and not asked of the program: {told}")


@pytest.mark.parametrize("program", ["azd", "helm", "kubectl"])
def test_a_program_that_is_here_has_what_the_list_says(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on PATH: the list alone was asked")
    for use in USES:
        if use.program == program and (found := listed(use)):
            command = [program, *found[0].split(), "--help"]
            shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            shown += subprocess.run([program, "options"], capture_output=True, text=True, check=False).stdout
            options = {*re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", shown)}
            assert problems(use, (found[0], options)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("az group create --name A --location=b", [("group create", ["--name", "--location"])]),
        ("ID=$(az group show -n A \\\n  --query id) && azd up", [("group show", ["-n", "--query"]), ("up", [])]),
        ('curl "https://$(az account show --query id)/x"', [("account show", ["--query"])]),
        ("for R in a b; do\n  az role list --role $R; done", [("role list", ["--role"])]),
        ("kubectl exec -it pod -- az --no", [("exec", ["-i", "-t"])]),
        ("docker run -p 1:2 -e A image --port 3", [("run", ["-p", "-e"])]),
        ("echo az group; # az group create --x", []),
        ("sudo helm lint charts/a --strict | tee x", [("lint", ["--strict"])]),
    ],
)
def test_the_calls_in_a_text_are_found(text: str, expected: list[tuple[str, list[str]]]) -> None:
    assert [(" ".join(use.words), [*use.options]) for use in uses_in(text, "here")] == expected


def test_a_console_block_is_its_commands_without_their_answers() -> None:
    block = "$ az a \\\n    --b 'c\n  d'\nWARNING: az x --y\n$ azd up\nSUCCESS\n"
    assert [*typed(block)] == ["az a \\\n    --b 'c\n  d'", "azd up"]


def test_what_does_not_exist_is_found(azure_cli: Callable[[list[Use]], list[Found | str]]) -> None:
    [misspelt, unknown] = uses_in("az group create --nam A --location b\naz grup list", "here")
    answers = azure_cli([misspelt, unknown])
    assert problems(misspelt, answers[0]) == [
        "here: az group create --nam --location: group create has no --nam, but --name"
    ]
    [sentence] = problems(unknown, answers[1])
    assert sentence.startswith("here: az grup list: the CLI has no command grup list")
    [down] = uses_in("azd down --purge --forse", "here")
    assert problems(down, listed(down) or "") == ["here: azd down --purge --forse: down has no --forse, but --force"]


def test_every_piece_of_shell_is_read_whole() -> None:
    # What cannot be parsed may hide a command.
    assert [(where, text) for text, where in shell_texts(ROOT) if has_error(text)] == []
