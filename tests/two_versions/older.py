"""The code of an older revision, beside that of the working tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from local.processes import ChildProcess
from local.stack import ROOT

OLDER: Final = "3ac185633df8e846131cb7d76ef6ac559a49fd62"
"""The last revision before deployments to Azure, and the oldest that the present one may share a Redis with. If a
change forbids that (docs/upgrade.md), the revision of that change takes its place."""


class NoHistory(Exception):
    """Raised if the repository does not have the older revision, with the reason."""


def older_tree(directory: Path) -> Path:
    """The files of the older revision, in *directory*.

    Raises:
        NoHistory: git is not there, or the checkout is shallow or no repository.
    """
    if shutil.which("git") is None:
        raise NoHistory("there is no git to fetch the older version's code from the history")
    archive = directory / "older.tar"
    command = ["git", "-C", str(ROOT), "archive", f"--output={archive}", OLDER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise NoHistory(f"the history here has no {OLDER[:7]} (a shallow checkout?): {done.stderr.strip()}")
    tree = directory / "older"
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    return tree


def older_host(tree: Path, port: int, log_path: Path, environment: Mapping[str, str]) -> ChildProcess:
    """The older version's app on its own development host. It runs with the packages of the working tree."""
    # -P: otherwise the working directory would come first, and with it the present code.
    command = [sys.executable, "-P", "-m", "local.functions_host", "--script-root", str(tree), "--port", str(port)]
    return ChildProcess(
        "the functions host of the older version",
        command,
        log_path=log_path,
        environment={**environment, "PYTHONPATH": str(tree)},
    )
