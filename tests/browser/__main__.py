"""``python -m tests.browser``: installs Chromium where it may, then runs the console in it."""

from __future__ import annotations

import os
import subprocess
import sys

from local.stack import ROOT
from tests.browser.installing import ASKED_FOR, Absent, ensure_chromium


def main() -> int:
    try:
        ensure_chromium()
    except Absent as reason:
        say(f"Skipped: {reason}")
        say("0 passed, 0 failed, 1 skipped")
        return 0
    command = [sys.executable, "-m", "pytest", *(sys.argv[1:] or ["tests/browser", "-q"])]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, ASKED_FOR: "1"}, check=False).returncode


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
