"""``python -m tests.sdk.ai4e``: runs ``sdk/ai4e/tests`` in each Python that the drop-in for legacy images is for.

In Python 3.7 the packages are those that the images have, or the last ones that there are for it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from local.stack import ROOT
from tests.sdk.environments import Failure, clean_environment, environment, interpreter, say

AI4E = ROOT / "sdk" / "ai4e"
OLDEST = "3.7"
PYTHONS = (OLDEST, "3.11", "3.13")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 dev.py ai4e", description="Test the drop-in for legacy images.")
    parser.add_argument(
        "--python", action="append", choices=PYTHONS, metavar="VERSION", help="only this one; may be repeated"
    )
    options, arguments = parser.parse_known_args()
    versions: list[str] = options.python or list(PYTHONS)
    failed: list[str] = []
    for version in versions:
        say(f"\n── Python {version} " + "─" * 90)
        try:
            run_tests(version, arguments)
        except Failure as failure:
            say(f"Python {version}: {failure}")
            failed.append(version)
    say(f"\nFailed in Python {', '.join(failed)}." if failed else "\nThe drop-in is right.")
    return 1 if failed else 0


def requirements(version: str) -> list[Path]:
    suffix = "-py37" if version == OLDEST else ""
    return [AI4E / f"requirements{suffix}.txt", AI4E / "tests" / f"requirements{suffix}.txt"]


def run_tests(version: str, arguments: list[str]) -> None:
    """
    Raises:
        Failure: a test failed, or there is no such Python.
    """
    python = environment(f"ai4e-{version}", interpreter(version), requirements(version))
    done = subprocess.run(
        [python, "-m", "pytest", *(arguments or ["-q"])],
        cwd=AI4E,
        env={
            **clean_environment(),
            "BACKBONE_HOUSE_PYTHON": sys.executable,
            "PYTHONPATH": "",
            "NO_PROXY": _no_proxy(),
        },
        check=False,
    )
    if done.returncode != 0:
        raise Failure(f"pytest ended with {done.returncode}")


def _no_proxy() -> str:
    """The services and emulators of the tests are on this machine."""
    return ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1"]))


if __name__ == "__main__":
    sys.exit(main())
