"""``python -m tests.infra``: installs the judges of what goes to Azure, and asks them."""

from __future__ import annotations

import os
import subprocess
import sys

from local.stack import ROOT
from tests.infra.installing import ASKED_FOR, install


def main() -> int:
    install()
    arguments = sys.argv[1:] or ["tests/infra", "-n", "auto", "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, ASKED_FOR: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
