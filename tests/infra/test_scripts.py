"""Scripts: shellcheck reads each, with all that it knows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.infra.conftest import Run

_SHELL = re.compile(rb"#!(?:/bin/|/usr/bin/env )(?:ba|da)?sh\n")


def scripts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in os.fsdecode(listed.stdout).split("\0") if name]
    files = [file for file in files if file.is_file()]
    return sorted(file for file in files if file.suffix == ".sh" or _SHELL.match(file.read_bytes()[:40]))


SCRIPTS = scripts()


def test_scripts_are_found_by_their_name_and_by_their_first_line() -> None:
    assert {ROOT / ".ci" / "run", ROOT / "infra" / "smoke.sh"} <= {*SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_shellcheck_finds_nothing(judge: Run, script: Path) -> None:
    done = judge("shellcheck", "--enable", "require-double-brackets,quote-safe-concat", "--external-sources", script)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_it_says_its_shell_and_ends_at_the_first_failure(script: Path) -> None:
    first, *lines = script.read_text().splitlines()
    assert _SHELL.match(f"{first}\n".encode())
    options = next(line for line in lines if not line.startswith("#") and line)
    assert options == ("set -euo pipefail" if "bash" in first else "set -eu")


def test_there_is_no_script_of_another_shell_which_nothing_here_could_run() -> None:
    assert [*ROOT.glob("infra/**/*.ps1")] == []
