"""Fixtures of the judges of the infrastructure. Only ``python3 dev.py infra`` runs them, and installs them first."""

from __future__ import annotations

import json
import os
import site
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.infra.installing import ASKED_FOR, find_bicep, install, install_checkov, lacks_mono

Checkov = Callable[[Path, str], "tuple[set[tuple[str, str, str]], int]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_ignore_collect() -> bool | None:
    return None if ASKED_FOR in os.environ else True


if ASKED_FOR in os.environ:
    programs = install().parent
    # At the end: what .venv has comes first.
    for packages in programs.parent.glob("lib/python*/site-packages"):
        site.addsitedir(str(packages))


@pytest.fixture(scope="session")
def judge() -> Run:
    """Runs a program of the judges' packages in the repository: ``judge("actionlint", "-version")``."""
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # one judge may ask another

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(programs / name), *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def checkov() -> Checkov:
    """Reads a folder by the rules of a framework: ``checkov(folder, "arm")``. Returns rule, file and resource of each
    check that failed, and how many passed."""
    program = install_checkov()

    def run(folder: Path, framework: str) -> tuple[set[tuple[str, str, str]], int]:
        command = [program, "--directory", folder, "--framework", framework]
        command += ["--skip-download", "--compact", "--quiet", "--output", "json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        report = json.loads(done.stdout)
        # What it cannot read, it passes over.
        assert report["summary"]["parsing_errors"] == 0
        failed = report["results"]["failed_checks"]
        found = {(each["check_id"], Path(each["file_path"]).name, each["resource"]) for each in failed}
        return found, report["summary"]["passed"]

    return run


@pytest.fixture(scope="session")
def bicep() -> Run:
    """Runs the compiler of Bicep in the repository: ``bicep("build", file, "--stdout")``."""
    program = find_bicep()
    if program is None:
        pytest.skip("there is no bicep on PATH, and BICEP names none")
    # It needs no ICU, which a machine may lack.
    environment = {**os.environ, "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def mono() -> None:
    """What runs the C# of the policies: mono, installed where this is root."""
    if problem := lacks_mono():
        pytest.skip(problem)
