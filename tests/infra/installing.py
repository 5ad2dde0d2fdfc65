"""What the judges of the infrastructure are: packages in an environment of their own, and programs of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from local.gateway.expressions import APT_COMMAND, missing
from tests.sdk.environments import environment

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CHECKOV = Path(__file__).with_name("requirements-checkov.txt")
ASKED_FOR = "JUDGE_INFRA"
"""Set by ``python3 dev.py infra``: other runs of the tests leave these out."""


def install() -> Path:
    """The Python that has the judges' packages. Their programs lie beside it."""
    return environment("infra", sys.executable, [REQUIREMENTS])


def install_checkov() -> Path:
    """The program."""
    return environment("infra-checkov", sys.executable, [CHECKOV]).parent / "checkov"


def find_bicep() -> str | None:
    """The compiler: the program that BICEP names, or the one on PATH. Nothing installs it, and no index has it."""
    return os.environ.get("BICEP") or shutil.which("bicep")


def lacks_mono() -> str | None:
    """Why the local gateway cannot run, having tried to install what it needs where this is root; None if it can."""
    problem = missing()
    if problem is None or shutil.which("apt-get") is None or os.geteuid() != 0:
        return problem
    for command in (["apt-get", "update", "-qq"], [*APT_COMMAND.split(), "-y", "-qq"]):
        quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=quietly, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{problem} It could not be installed: {done.stderr.strip()}"
    return missing()
