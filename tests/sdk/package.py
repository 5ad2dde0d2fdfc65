"""The SDK as a package: its wheel, what it brings along, what it gets along with, and what its import costs."""

from __future__ import annotations

import ast
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from local.stack import ROOT
from tests.sdk.environments import INSTALLED, Failure, call, clean_environment, environment, install, locked

SDK = ROOT / "sdk"
TESTING = SDK / "testing"
FOR_TESTS = {
    *("_dispatch", "_played", "_played_api", "_played_storage", "_rules"),
    *("check", "pytest_plugin", "testing"),
}
"""The modules that the SDK's own wheel leaves to the one of ``TESTING``."""
MOST_BYTES = 100 * 1024
MOST_PACKAGES = 8
"""Beside the SDK itself. (Below Python 3.11, uvicorn needs one more.)"""
REQUIRED = {"requests", "uvicorn"}
"""All that the SDK needs without its extras."""
BESIDE = ("pydantic<2", "urllib3<2", "protobuf<4")
"""What older models hold on to."""
BESIDE_PYTHON = "3.11"
"""The newest that all of them have wheels for."""
_IMPORTS = 15


@dataclass(frozen=True)
class Footprint:
    """What ``pip install`` of the wheel costs: the packages beside the SDK itself, seconds, and CPU."""

    packages: tuple[str, ...]
    install_s: float
    import_cpu_ms: float
    client_cpu_ms: float


def build(source: Path = SDK) -> Path:
    """The wheel of the working tree: that of the SDK, or the one that is for tests of model services.

    Raises:
        Failure: it cannot be built, or has what it must not have, or lacks what it must have.
    """
    folder = INSTALLED / f"wheel-{source.name}"
    with locked(folder.name):
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
        call([*pip, "-w", str(folder), str(source)])
    [wheel] = folder.glob("*.whl")
    check_wheel(wheel, is_for_tests=source == TESTING)
    return wheel


def check_wheel(wheel: Path, *, is_for_tests: bool) -> None:
    """
    Raises:
        Failure: the wheel lacks a module, or has another program, or what belongs to the repository only.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        described = Parser().parsestr(archive.read(metadata).decode())
        modules = {name: archive.read(name) for name in names if name.endswith(".py")}
    source = SDK / "src"
    modules_of_both = {file.relative_to(source).as_posix() for file in source.rglob("*.py")}
    for_tests = {name for name in modules_of_both if Path(name).stem in FOR_TESTS}
    wanted = for_tests if is_for_tests else modules_of_both - for_tests | {"taskbackbone/py.typed"}
    has = {name for name in names if ".dist-info/" not in name}
    if has != wanted:
        raise Failure(f"the wheel has {sorted(has - wanted)} too much and lacks {sorted(wanted - has)}")
    for name, built in modules.items():
        if _program(built) != _program((source / name).read_bytes()):
            raise Failure(f"{name} of the wheel is not the program of the source, line for line")
    requirements: list[str] = described.get_all("Requires-Dist") or []
    if is_for_tests and requirements != [f"taskbackbone=={described['Version']}"]:
        raise Failure(f"the wheel requires {requirements}, and must require the SDK of its own version")
    required = {line.split(";")[0].rstrip("<>=!~,.0123456789 ") for line in requirements if "extra ==" not in line}
    may_require = {"taskbackbone"} if is_for_tests else REQUIRED
    if required != may_require:
        raise Failure(f"the wheel requires {sorted(required)}, and may require {sorted(may_require)}")


def _program(source: bytes) -> tuple[str, list[int]]:
    """What a module does, and at which lines, without docstrings, annotations, and imports that only they need."""
    tree = _Bare().visit(ast.parse(source))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {_FOR_TYPES}
    tree.body = [node for node in tree.body if _is_needed(node, used)]
    return ast.dump(tree), [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]


_FOR_TYPES = "TYPE_CHECKING"


class _Bare(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        body: object = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1:
            body[:] = [part for part in body if not _is_text(part)]
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        for block in (body, getattr(node, "orelse", None), getattr(node, "finalbody", None)):
            if isinstance(block, list) and not isinstance(node, ast.ClassDef):  # whose own may make its fields
                block[:] = [_assignment(part) for part in block]
        return super().generic_visit(node)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _assignment(node: object) -> object:
    if not isinstance(node, ast.AnnAssign) or node.value is None:
        return node
    return ast.copy_location(ast.Assign([node.target], node.value), node)


def _is_needed(node: ast.stmt, used: set[str]) -> bool:
    """Whether a statement imports what is used, or does anything else. What else it imports is taken out of it."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == _FOR_TYPES:
        node.body = [part for part in node.body if _is_needed(part, used)]
        return bool(node.body)
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    node.names = [alias for alias in node.names if (alias.asname or alias.name).partition(".")[0] in used]
    return bool(node.names)


def check_size(wheel: Path) -> None:
    """
    Raises:
        Failure: the wheel is too large. The message has its largest files.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = sorted(archive.infolist(), key=lambda file: file.compress_size, reverse=True)
    if wheel.stat().st_size > MOST_BYTES:
        largest = ", ".join(f"{Path(file.filename).name} {file.compress_size:,}" for file in files[:10])
        raise Failure(f"it has {wheel.stat().st_size:,} bytes, and may have {MOST_BYTES:,}. The largest: {largest}")


def installed(name: str, python: str | Path, *wheels: Path) -> Path:
    """The Python of an environment with the wheels as they are now, and what they bring along."""
    made, named = environment(name, python, ()), [str(wheel) for wheel in wheels]
    with locked(name):
        install(made, named)
        install(made, named, "--force-reinstall", "--no-deps")
    return made


def footprint(wheel: Path) -> Footprint:
    """Install the wheel into an empty environment, and look at it.

    Raises:
        Failure: it brings too many packages along.
    """
    with tempfile.TemporaryDirectory(prefix="sdk-") as directory:
        call([sys.executable, "-m", "venv", directory])
        python = Path(directory, "bin", "python")
        before = packages(python)
        began_s = time.monotonic()
        install(python, [str(wheel)])
        install_s = time.monotonic() - began_s
        brought = tuple(sorted(packages(python) - before - {"taskbackbone"}))
        if len(brought) > MOST_PACKAGES:
            raise Failure(f"{len(brought)} packages come along, {MOST_PACKAGES} may: {', '.join(brought)}")
        bare_ms = cpu_ms(python, "")
        asked = subprocess.run(
            [python, "-m", "taskbackbone", "check"], stderr=subprocess.PIPE, text=True, check=False
        )
        if (asked.returncode, "taskbackbone-testing" in asked.stderr) != (2, True):
            raise Failure(f"check does not say where it is: {asked.stderr}")
        import_ms = cpu_ms(python, "import taskbackbone") - bare_ms
        client_ms = cpu_ms(python, "from taskbackbone import TaskClient") - bare_ms
    return Footprint(brought, install_s, import_ms, client_ms)


def packages(python: Path) -> set[str]:
    listed = call([str(python), "-m", "pip", "list", "--disable-pip-version-check", "--format", "freeze"])
    return {line.partition("==")[0].lower() for line in listed.splitlines() if "==" in line}


def cpu_ms(python: Path, code: str) -> float:
    """The CPU time of a process that runs *code*, the median of several."""
    taken: list[float] = []
    for _ in range(_IMPORTS):
        process = subprocess.Popen([python, "-c", code], env=clean_environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Failure(f"{code!r} ended with {process.returncode}")
        taken.append((usage.ru_utime + usage.ru_stime) * 1000)
    return statistics.median(taken)


def check_beside(wheel: Path, python: Path) -> None:
    """Install the wheel beside packages that older models need, and import every module of it that needs no other
    package.

    Raises:
        Failure: they do not resolve, or a module cannot be imported.
    """
    beside = environment("beside", python, BESIDE)
    install(beside, [f"{wheel}[async,otel]", *BESIDE], "--upgrade", "--force-reinstall")
    every = (
        "import importlib, pkgutil, taskbackbone\n"
        "for module in pkgutil.iter_modules(taskbackbone.__path__):\n"
        "    if module.name not in ('__main__', 'flask', 'pytest_plugin'):\n"
        "        importlib.import_module('taskbackbone.' + module.name)\n"
        "import google.protobuf, pydantic, urllib3\n"
        "for package, most in ((pydantic, 2), (urllib3, 2), (google.protobuf, 4)):\n"
        "    version = getattr(package, '__version__', None) or package.VERSION\n"
        "    assert int(version.split('.')[0]) < most, (package, version)\n"
    )
    call([str(beside), "-c", every])
