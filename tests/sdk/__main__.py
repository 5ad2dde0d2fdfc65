"""``python -m tests.sdk``: builds the SDK's wheel, looks at it, and runs ``sdk/tests`` in each Python that it is for.

The tests get the installed wheel, not the sources beside them. Everything that this needs goes into ``.local/sdk``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.sdk import package, telemetry
from tests.sdk.environments import PYTHONS, Failure, clean_environment, environment, install, interpreter, locked, say

REQUIREMENTS = package.SDK / "tests" / "requirements.txt"
ALL_TESTS = ("tests", "-q", "-n", "2", "--dist", "loadfile")
SLOW_IN = "3.11"
"""The Python that runs the slow tests too: they are about other processes than its own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 dev.py sdk", description="Build and test the SDK.")
    parser.add_argument(
        "--python", action="append", choices=PYTHONS, metavar="VERSION", help="only this one; may be repeated"
    )
    options, arguments = parser.parse_known_args()
    versions: list[str] = options.python or list(PYTHONS)
    failed: list[str] = []

    def step(name: str, do: Callable[[], object]) -> None:
        say(f"\n── {name} " + "─" * (100 - len(name)))
        try:
            do()
        except Failure as failure:
            say(f"{name}: {failure}")
            failed.append(name)

    try:
        wheel, for_tests = package.build(), package.build(package.TESTING)
    except Failure as failure:
        say(f"wheel: {failure}")
        return 1
    if not arguments:
        say(f"wheel: {wheel.name}, {wheel.stat().st_size / 1024:.1f} KB of {package.MOST_BYTES // 1024}")
        step("size", lambda: package.check_size(wheel))
        step("footprint", lambda: show(package.footprint(wheel)))
        step("beside " + ", ".join(package.BESIDE), lambda: beside(wheel))
        step("telemetry", lambda: telemetry.check(wheel))
    for version in versions:
        step(f"Python {version}", lambda version=version: run_tests(wheel, for_tests, version, arguments))
    say(f"\nFailed: {', '.join(failed)}." if failed else "\nThe SDK is right.")
    return 1 if failed else 0


def show(footprint: package.Footprint) -> None:
    say(f"packages      {len(footprint.packages)} of {package.MOST_PACKAGES}: {', '.join(footprint.packages)}")
    say(f"install       {footprint.install_s:.1f} s (at most 10, on a machine with nothing else to do)")
    say(f"import CPU    {footprint.import_cpu_ms:.0f} ms")
    say(f"TaskClient    {footprint.client_cpu_ms:.0f} ms of CPU to import (at most 40, likewise)")


def beside(wheel: Path) -> None:
    package.check_beside(wheel, interpreter(package.BESIDE_PYTHON))
    say("They resolve, and every module of the SDK can be imported beside them.")


def run_tests(wheel: Path, for_tests: Path, version: str, arguments: list[str]) -> None:
    """Run the tests with the wheels in a Python.

    Raises:
        Failure: a test failed.
    """
    name = f"python-{version}"
    python = environment(name, interpreter(version), [REQUIREMENTS])
    with locked(name):
        for each in (wheel, for_tests):
            install(python, [str(each)], "--force-reinstall", "--no-deps")
        install(python, [f"{wheel}[async,otel]"])
        done = subprocess.run(
            [python, "-m", "pytest", *(arguments or all_tests(version))],
            cwd=package.SDK,
            env={**clean_environment(), "BACKBONE_HOUSE_PYTHON": sys.executable, "PATH": path_before(python)},
            check=False,
        )
    if done.returncode != 0:
        raise Failure(f"pytest ended with {done.returncode}")


def all_tests(version: str) -> tuple[str, ...]:
    return ALL_TESTS if version == SLOW_IN else (*ALL_TESTS, "-m", "not slow")


def path_before(python: Path) -> str:
    """PATH with the programs of an environment first, such as ``taskbackbone``."""
    return f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"


if __name__ == "__main__":
    sys.exit(main())
