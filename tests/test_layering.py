"""The rules about imports: the contracts in pyproject.toml, and two rules that import-linter cannot check."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.stack import ROOT

ROOMS = ("cache_manager", "backend_webhook", "request_reporter", "operator_console", "task_logger")
PACKAGES = (*ROOMS, "shared", "local", "bench", "tests", "tools")
SDK = ROOT / "sdk" / "src"
KNOW_AZURE_FUNCTIONS = ("function_app", *ROOMS, "shared.http")

# A file, an import to add to it, and then the contract and the link that must be reported as broken.
FORBIDDEN = {
    "a neighbour room": (
        "task_logger/timers.py",
        "from request_reporter import api",
        "The rooms do not import each other",
        "task_logger.timers -> request_reporter.api",
    ),
    "a room from shared": (
        "shared/services.py",
        "import cache_manager.owner",
        "The rooms import shared, and shared imports no room",
        "shared.services -> cache_manager.owner",
    ),
    "an upper layer": (
        "shared/store/store.py",
        "from shared.dispatch import retry_policy",
        "Within shared, each layer imports only the layers below it",
        "shared.store.store -> shared.dispatch.retry_policy",
    ),
    "a neighbour in the layer": (
        "shared/bodies.py",
        "import shared.events.publisher",
        "Within shared, each layer imports only the layers below it",
        "shared.bodies -> shared.events.publisher",
    ),
    "a part of the store": (
        "cache_manager/task_api.py",
        "from shared.store.redis import link",
        "The store has one face",
        "cache_manager.task_api -> shared.store.redis.link",
    ),
    "the Redis client": (
        "shared/store/store.py",
        "import redis.asyncio",
        "Only shared.store.redis imports the Redis client",
        "shared.store.store -> redis",
    ),
    "a tool": (
        "cache_manager/health.py",
        "import tools.openapi",
        "Nothing of the app imports function_app, local, bench, tests, tools or the SDK",
        "cache_manager.health -> tools.openapi",
    ),
    "the SDK from the app": (
        "shared/dispatch/dispatcher.py",
        "import taskbackbone",
        "Nothing of the app imports function_app, local, bench, tests, tools or the SDK",
        "shared.dispatch.dispatcher -> taskbackbone",
    ),
    "the app from the SDK": (
        "taskbackbone/__init__.py",
        "from shared.tasks import media",
        "The SDK imports nothing of this repository",
        "taskbackbone -> shared.tasks.media",
    ),
    "the server from a worker": (
        "taskbackbone/_task.py",
        "from taskbackbone import _server",
        "A worker of the SDK imports nothing of the supervisor",
        "taskbackbone._task -> taskbackbone._server",
    ),
    "the network from the steps of a call": (
        "taskbackbone/_core.py",
        "import requests",
        "The steps of a call know no network",
        "taskbackbone._core -> requests",
    ),
    "the app from the local stack": (
        "local/stack.py",
        "from shared import settings",
        "local imports nothing of the app",
        "local.stack -> shared.settings",
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all files that the contracts cover."""
    files = [ROOT / "pyproject.toml", ROOT / "function_app.py"]
    for package in PACKAGES:
        files += (file for file in (ROOT / package).rglob("*.py") if "node_modules" not in file.parts)
    files += (SDK / "taskbackbone").rglob("*.py")
    for file in files:
        copy = tmp_path / file.relative_to(SDK if file.is_relative_to(SDK) else ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return tmp_path


def add_import(file: Path, statement: str) -> None:
    file.write_text(f"{file.read_text()}\n{statement}\n")


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def imported(file: Path) -> set[str]:
    """The modules that a file imports, at any level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def that_know_azure_functions(tree: Path) -> set[str]:
    """The app's modules that import azure.functions and must not. import-linter takes ``azure`` for one package."""
    files = [tree / "function_app.py", *(file for room in (*ROOMS, "shared") for file in (tree / room).rglob("*.py"))]
    modules = {".".join(file.relative_to(tree).with_suffix("").parts): imported(file) for file in files}
    return {
        module
        for module, names in modules.items()
        if any(is_within(name, ("azure.functions",)) for name in names)
        and not is_within(module, KNOW_AZURE_FUNCTIONS)
    }


def test_the_code_keeps_the_contracts(tree: Path):
    linted = lint_imports(tree)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(("file", "statement", "contract", "link"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(tree: Path, file: str, statement: str, contract: str, link: str):
    add_import(tree / file, statement)
    linted = lint_imports(tree)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    broken = linted.stdout.partition("Broken contracts")[2]
    assert contract in broken
    assert link in broken


def test_a_new_module_of_shared_needs_a_layer(tree: Path):
    (tree / "shared" / "utilities.py").write_text("")
    linted = lint_imports(tree)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert "utilities" in linted.stdout.partition("Broken contracts")[2]


def test_only_the_rooms_and_shared_http_know_azure_functions(tree: Path):
    assert that_know_azure_functions(tree) == set()
    add_import(tree / "shared" / "bodies.py", "from azure import functions")
    add_import(tree / "shared" / "store" / "store.py", "import azure.functions as func")
    assert that_know_azure_functions(tree) == {"shared.bodies", "shared.store.store"}


def test_function_app_imports_the_rooms_and_shared_and_nothing_else_of_the_repository():
    own = {name for name in imported(ROOT / "function_app.py") if is_within(name, PACKAGES)}
    assert set(ROOMS) <= own
    assert [name for name in sorted(own) if not is_within(name, (*ROOMS, "shared"))] == []
