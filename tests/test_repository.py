"""The files around the code: what a deployment contains, and what CI runs."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch

import pytest

from local.stack import ROOT
from tests.sdk.ai4e import PYTHONS as AI4E_PYTHONS
from tests.sdk.environments import PYTHONS as SDK_PYTHONS
from tests.test_lock import PYTHONS

DEPLOYED = {
    "LICENSE",
    "backend_webhook",
    "cache_manager",
    "host.json",
    "operator_console",
    "request_reporter",
    "requirements.lock",
    "requirements.txt",
    "shared",
    "task_logger",
}
"""All that is deployed, besides the app's top-level modules."""
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_only_the_app_is_deployed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: what belongs to the repository is unknown")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    at_the_top = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    patterns = [*(ROOT / ".funcignore").read_text().split(), ".funcignore"]
    left = {name for name in at_the_top if not any(fnmatch(name, pattern) for pattern in patterns)}
    assert {name for name in left if not name.endswith(".py")} == DEPLOYED
    assert "dev.py" not in left
    assert "function_app.py" in left


def test_ci_tests_on_every_supported_python() -> None:
    [matrix] = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert matrix == ", ".join(f'"{python}"' for python in PYTHONS)


def test_ci_tests_the_sdk_and_the_drop_in_on_each_of_their_pythons() -> None:
    installed = re.findall(r"python-version: \|\n((?:\s+\d\.\d+\n)+)", WORKFLOW)
    assert [{*pythons.split()} for pythons in installed] == [{*SDK_PYTHONS}, {*AI4E_PYTHONS}]


def test_ci_runs_every_command_that_judges_and_the_first_commands_of_the_readme() -> None:
    first_steps = (ROOT / "README.md").read_text().partition("\n## Try it\n")[2].partition("\n## ")[0]
    promised = re.findall(r"^\$ (.+)$", first_steps, re.MULTILINE)
    assert promised == ["python3 dev.py demo", "python3 dev.py test"]
    run = re.findall(r"- run: (.+)", WORKFLOW)
    commands = ("check", "judges", "test --slow", "browser", "infra", "sdk", "r", "ai4e", "examples")
    others = {f"python3 dev.py {command}" for command in commands}
    assert {*promised, *others} == {*run}
    alone = (ROOT / ".ci" / "run").read_text()
    # One of them gets the compiler of Bicep, before its name.
    assert {*re.findall(r"^(?:BICEP=.+ )?(python3 .+)$", alone, re.MULTILINE)} == {*run} - {"python3 dev.py demo"}
