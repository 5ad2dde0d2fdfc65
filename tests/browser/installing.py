"""Chromium, from Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from local.azurite import install_npm_package
from local.stack import ROOT

ASKED_FOR: Final = "BACKBONE_BROWSER_TESTS"
"""The variable without which pytest passes these tests over."""
SOURCES: Final = ROOT / "console"
INSTALLED: Final = ROOT / ".local" / "console"
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_PACKAGES: Final = ("chromium", "fonts-dejavu-core")
_TIMEOUT_S: Final = 600.0


class Absent(Exception):
    """Raised when there is no browser here, and none can be installed. The message says why."""


def ensure_chromium() -> Path:
    """The browser, from Debian's packages where this is root.

    Raises:
        Absent: it is not here, and cannot be installed.
    """
    if found := chromium():
        return found
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        raise Absent("There is no Chromium, and no apt-get to install it with.")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PACKAGES]
    if os.geteuid() != 0:
        raise Absent(f"There is no Chromium, and only root can install it: {' '.join(command)}")
    for each in (["apt-get", "update", "-qq"], command):
        done = subprocess.run(
            each,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise Absent(f"Chromium could not be installed: {(done.stderr or done.stdout).strip()[-500:]}")
    if found := chromium():
        return found
    raise Absent("Debian's package chromium brings no program of a known name.")


def chromium() -> Path | None:
    return next((Path(found) for name in _NAMES if (found := shutil.which(name))), None)


def axe() -> str:
    """The script of axe-core, which looks for what keeps people from using a page."""
    install_npm_package(SOURCES, INSTALLED, "What builds and judges the console", size="45 MB")
    return (INSTALLED / "node_modules" / "axe-core" / "axe.min.js").read_text()
