"""``python -m tests.r``: installs R, lints ``sdk/r``, runs its own tests, then services in R before the real app."""

from __future__ import annotations

import os
import subprocess
import sys

from local.stack import ROOT
from tests.r.installing import ASKED_FOR, SDK, Absent, Failed, ensure_r, run_r

_LINT = f"found <- lintr::lint_dir('{SDK.relative_to(ROOT)}'); print(found); quit(status = length(found) > 0)"
_UNITS = f"testthat::test_dir('{SDK.relative_to(ROOT)}/tests/testthat', stop_on_failure = TRUE)"


def main() -> int:
    arguments = sys.argv[1:]
    try:
        ensure_r()
    except Absent as reason:
        say(f"Skipped: {reason}")
        say("0 passed, 0 failed, 1 skipped")
        return 0
    if not arguments:
        for name, code in (("lint", _LINT), ("testthat", _UNITS)):
            try:
                say(f"{name}: right\n{run_r(['--vanilla', '-e', code])}")
            except Failed as failure:
                say(f"{name}: {failure}")
                return 1
    command = [sys.executable, "-m", "pytest", *(arguments or ["tests/r", "-q", "-n", "2", "--dist", "loadfile"])]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, ASKED_FOR: "1"}, check=False).returncode


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
