"""R, and the packages that ``sdk/r`` needs, from Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from local.stack import ROOT

SDK = ROOT / "sdk" / "r"
ASKED_FOR = "BACKBONE_R_TESTS"
"""The variable without which pytest passes these tests over."""
NEEDED = ("plumber", "crul", "jsonlite", "urltools", "callr", "later")
FOR_TESTS = ("testthat", "lintr")
_TIMEOUT_S = 600.0
_QUIETLY = {"DEBIAN_FRONTEND": "noninteractive"}


class Absent(Exception):
    """Raised when there is no R here, and it cannot be installed. The message says why."""


class Failed(Exception):
    """Raised when something that was run has failed. The message has what it printed."""


def ensure_r() -> None:
    """R with what the tests need, from Debian's packages where this is root.

    Raises:
        Absent: it is not here, and cannot be installed.
    """
    if not missing():
        return
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        raise Absent(f"R is not complete ({missing()}), and there is no apt-get to install it with.")
    if os.geteuid() != 0:
        raise Absent(f"R is not complete ({missing()}), and only root can install it: {' '.join(packages())}")
    try:
        call(["apt-get", "update", "-qq"], _QUIETLY)
        call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages()], _QUIETLY)
    except Failed as failure:
        raise Absent(f"R could not be installed: {failure}") from None
    if left := missing():
        raise Absent(f"Debian's packages do not bring {left}.")


def packages() -> list[str]:
    """Debian's names of what is needed."""
    return ["r-base-core", *(f"r-cran-{name}" for name in (*NEEDED, *FOR_TESTS))]


def missing() -> str:
    """What is not here, by its names in R; nothing if all is."""
    if shutil.which("Rscript") is None:
        return "Rscript"
    wanted = ", ".join(f"'{name}'" for name in (*NEEDED, *FOR_TESTS))
    return call(["Rscript", "--vanilla", "-e", f"cat(setdiff(c({wanted}), rownames(installed.packages())))"]).strip()


def run_r(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run ``Rscript`` with the tools of the tree; returns what it printed.

    Raises:
        Failed: it ended with another code than 0.
    """
    return call(["Rscript", *arguments], {"AI4E_API_TOOLS": str(SDK / "ai4e_api_tools"), **(environment or {})})


def call(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} took over {_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout
