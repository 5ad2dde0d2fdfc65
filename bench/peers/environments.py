"""The peers' own environments under ``.local/bench``, created on first use: they need other packages than the app."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from local.azurite import find_node, install_npm_package
from local.processes import LocalStackError

_HERE = Path(__file__).parent
_INSTALLED = _HERE.parent.parent / ".local" / "bench"


def python_with(requirements: str) -> Path:
    """The Python of an environment with the packages in the file *requirements* of this folder."""
    wanted = (_HERE / requirements).read_bytes() + repr(sys.version_info[:2]).encode()
    fingerprint = hashlib.sha256(wanted).hexdigest()
    directory = _INSTALLED / f"{Path(requirements).stem.replace('requirements', 'peers')}-venv"
    python, marker = directory / "bin" / "python", directory / "installed"
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists() and marker.read_text() == fingerprint:
            return python
        print(f"Installing {requirements} of the peers (a minute, only this time) …", file=sys.stderr, flush=True)
        venv.create(directory, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        made = subprocess.run([*pip, "-r", _HERE / requirements], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = made.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise LocalStackError(f"The peers could not be installed, is there a network? ({reason[0]})")
        marker.write_text(fingerprint)
    return python


def bullmq() -> tuple[Path, Path]:
    """Node.js, and the BullMQ peer's script beside the packages it needs."""
    directory = _INSTALLED / "bullmq"
    install_npm_package(_HERE / "bullmq", directory, "BullMQ")
    script = directory / "peer.js"
    wanted = (_HERE / "bullmq" / "peer.js").read_bytes()
    # Another side may be about to read it, and Node.js runs a file that is empty for a moment as a program without
    # work.
    if not script.exists() or script.read_bytes() != wanted:
        new = script.with_suffix(".new")
        new.write_bytes(wanted)
        new.replace(script)
    return find_node()[0], script
