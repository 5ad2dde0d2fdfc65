"""What is served was built from the sources as they are: a build of them has the same bytes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from local.azurite import find_node, install_npm_package
from local.stack import ROOT
from operator_console.page import DIST

SOURCES = ROOT / "console"
INSTALLED = ROOT / ".local" / "console"
TOO_LONG_S = 300.0


@pytest.fixture(scope="module")
def modules() -> Path:
    install_npm_package(SOURCES, INSTALLED, "What builds the console", size="40 MB")
    return INSTALLED / "node_modules"


def run(modules: Path, *arguments: str | Path) -> None:
    node, _ = find_node()
    done = subprocess.run(
        [node, *arguments],
        cwd=SOURCES,
        env={**os.environ, "CONSOLE_MODULES": str(modules), "NODE_PATH": str(modules)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOO_LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_build_of_the_sources_has_the_same_bytes(modules: Path, tmp_path: Path) -> None:
    run(modules, SOURCES / "build.mjs", tmp_path / "dist")
    built, served = contents(tmp_path / "dist"), contents(DIST)
    # Names first: they have the hashes, and say it in one line.
    assert sorted(built) == sorted(served), (
        "run: npm ci && npm run build, in console/, and commit operator_console/dist"
    )
    assert built == served


def test_the_types_of_the_sources_are_right(modules: Path, tmp_path: Path) -> None:
    # A copy beside what is installed: the compiler looks for it from the sources upwards.
    (tmp_path / "src").symlink_to(SOURCES / "src")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "tsconfig.json").write_bytes((SOURCES / "tsconfig.json").read_bytes())
    run(modules, modules / "typescript" / "bin" / "tsc", "--project", tmp_path, "--preserveSymlinks")


def test_its_parts_do_what_they_say(modules: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "parts.test.mjs"
    run(
        modules,
        modules / "esbuild" / "bin" / "esbuild",
        SOURCES / "tests" / "parts.test.mjs",
        "--bundle",
        "--format=esm",
        "--platform=node",
        "--jsx=automatic",
        "--jsx-import-source=preact",
        "--log-level=error",
        # What a browser has when the page begins.
        "--banner:js=globalThis.location = { hash: '', href: 'http://page.example/' };",
        f"--outfile={bundle}",
    )
    run(modules, "--test", bundle)


@pytest.mark.parametrize("source", sorted((SOURCES / "src").glob("*.ts*")), ids=lambda path: path.name)
def test_no_source_makes_html_or_script_of_text(source: Path) -> None:
    text = source.read_text()
    assert (
        re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|dangerouslySet", text) == []
    )
    # Relative to the page, wherever a gateway has it; a link elsewhere comes from the server alone.
    assert re.findall(r"""["'`](?:https?:)?/(?:/|api\b)""", text) == []
