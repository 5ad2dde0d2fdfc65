"""Environments under ``.local/sdk``, one for each Python that the SDK is tested on and for each question about it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local.stack import ROOT

INSTALLED = ROOT / ".local" / "sdk"
PYTHONS = ("3.9", "3.11", "3.13")
"""What the SDK is tested on: the oldest, the one in between that Azure has, and the newest."""
COMMAND_TIMEOUT_S = 600.0


class Failure(Exception):
    """Raised when the SDK is not what it has to be, or cannot be looked at."""


def interpreter(version: str) -> Path:
    """The Python of a version such as 3.9.

    Raises:
        Failure: there is none on PATH or in pyenv.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    for candidate in candidates:
        # Among those on PATH may be a stand-in of pyenv, also for a version that is not chosen.
        if candidate and (found := described(candidate))[:1] == [version]:
            return Path(found[1])
    raise Failure(f"There is no Python {version} on PATH or in pyenv: install one, or name others with --python.")


def described(python: str | Path) -> list[str]:
    """Its version, such as 3.9, and its own path. Nothing, if it does not run."""
    says = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable, sep='\\n')"
    done = subprocess.run([python, "-c", says], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def environment(name: str, python: str | Path, requirements: Sequence[str | Path]) -> Path:
    """The Python of an environment with the packages of these files, and of these requirements. Made once."""
    wanted = [str(python), *(each.read_text() if isinstance(each, Path) else each for each in requirements)]
    fingerprint = hashlib.sha256("\0".join(wanted).encode()).hexdigest()
    folder = INSTALLED / name
    marker = folder / "installed"
    with locked(name):
        if not marker.exists() or marker.read_text() != fingerprint:
            say(f"Installing .local/sdk/{name} (this time only) …")
            call([str(python), "-m", "venv", "--clear", str(folder)])
            install(folder / "bin" / "python", requirements)
            marker.write_text(fingerprint)
    return folder / "bin" / "python"


def install(python: Path, requirements: Sequence[str | Path], *options: str) -> None:
    """Install packages as pip is told to, from files or by requirements, with wheels only."""
    named = [word for each in requirements for word in (["-r", str(each)] if isinstance(each, Path) else [each])]
    if named:
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary"]
        call([*pip, *options, *named])


@contextmanager
def locked(name: str) -> Generator[None]:
    """Keeps others from the environment meanwhile."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def call(command: Sequence[str], *, cwd: Path = ROOT) -> str:
    """Run a command; returns what it printed.

    Raises:
        Failure: it failed. The message has what it printed.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{Path(command[0]).name} took over {COMMAND_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)[:100]} … ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The variables of this process, without what would show another Python the packages of this one."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    }


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
