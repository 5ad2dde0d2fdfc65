"""What the judges of the infrastructure are: packages in an environment of their own, and programs of the machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.sdk.environments import environment

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ASKED_FOR = "JUDGE_INFRA"
"""Set by ``python3 dev.py infra``: other runs of the tests leave these out."""


def install() -> Path:
    """The Python that has the judges' packages. Their programs lie beside it."""
    return environment("infra", sys.executable, [REQUIREMENTS])


def find_bicep() -> str | None:
    """The compiler: the program that BICEP names, or the one on PATH. Nothing installs it, and no index has it."""
    return os.environ.get("BICEP") or shutil.which("bicep")
