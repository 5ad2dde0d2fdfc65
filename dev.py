#!/usr/bin/env python3
"""Everything a developer runs, on a fresh machine: makes .venv, installs, then

    python3 dev.py demo               real pictures through a real model and back
    python3 dev.py test [ARGUMENTS]   the tests; ARGUMENTS go to pytest
    python3 dev.py up [--func]        the local stack, until Ctrl-C
    python3 dev.py faults [--minutes N]  whether any task gets lost, whatever breaks
    python3 dev.py bench [NAME...] [--quick]  benchmarks: half an hour, or three minutes
    python3 dev.py bench --against REV  whether anything is slower than in another revision
    python3 dev.py check              format, lint and types, as CI does

Standard library only, and readable by an old Python, so that it can say that it is too old.
"""

import hashlib
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
BENCH_REQUIREMENTS = "requirements-bench.txt"  # on top of them, for who runs benchmarks
OLDEST = (3, 11)


def main():
    command, arguments = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    if command not in ("demo", "up", "test", "check", "faults", "bench"):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    if os.name != "posix":
        return fail("The local stack needs Linux or macOS (on Windows: WSL).")
    if sys.version_info < OLDEST:
        return fail(
            "Python {}.{} or newer is needed, and this is {}.{}: run dev.py with a newer one.".format(
                *(OLDEST + tuple(sys.version_info[:2]))
            )
        )
    problem = install() or (install_for_bench() if command == "bench" else None)
    if problem:
        return fail(problem)
    if command == "check":
        return check()
    if command == "test":
        # Without arguments the whole suite, on all cores; files stay together, since each has its stack.
        return run("-m", "pytest", *(arguments or ["-n", "auto", "--dist", "loadfile"]))
    os.chdir(ROOT)
    module = {"faults": ["tests.faults"], "bench": ["bench"]}.get(command, ["local", command])
    os.execv(PYTHON, [PYTHON, "-m", *module, *arguments])


def install():
    """Make .venv what the requirements say, unless it is. Returns what went wrong, in one sentence."""
    marker, wanted = os.path.join(VENV, "installed"), fingerprint(*REQUIREMENTS)
    if is_marked(marker, wanted):
        return None
    print("Installing into .venv (a minute or two, this time only) …", file=sys.stderr, flush=True)
    made = quietly(sys.executable, "-m", "venv", "--clear", VENV)
    if made:
        return "No virtual environment could be made (on Debian and Ubuntu: apt install python3-venv): " + made
    return install_from(REQUIREMENTS[-1], marker, wanted)


def install_for_bench():
    """What the benchmarks need on top, likewise."""
    marker, wanted = os.path.join(VENV, "installed-bench"), fingerprint(*REQUIREMENTS, BENCH_REQUIREMENTS)
    if is_marked(marker, wanted):
        return None
    print("Installing what the benchmarks need into .venv (this time only) …", file=sys.stderr, flush=True)
    return install_from(BENCH_REQUIREMENTS, marker, wanted)


def install_from(requirements, marker, wanted):
    failed = quietly(
        PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "-r", os.path.join(ROOT, requirements),
    )  # fmt: skip
    if failed:
        return "The requirements could not be installed (is there a network?): " + failed
    with open(marker, "w") as file:
        file.write(wanted)
    return None


def fingerprint(*requirements):
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for name in requirements:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_marked(marker, wanted):
    if not os.path.exists(marker):
        return False
    with open(marker) as file:
        return file.read() == wanted


def check():
    for tool in (
        ("-m", "ruff", "format", "--check"),
        ("-m", "ruff", "check"),
        ("-m", "basedpyright"),
    ):
        code = run(*tool)
        if code:
            return code
    return 0


def run(*arguments):
    try:
        return subprocess.call([PYTHON, *arguments], cwd=ROOT)
    except KeyboardInterrupt:
        return 130


def quietly(*command):
    """Run a command; returns the last line it printed if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "exit code {}".format(done.returncode)


def fail(sentence):
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
