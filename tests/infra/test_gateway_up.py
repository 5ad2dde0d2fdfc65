"""``dev.py up --gateway``, and what the pages say to do then."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.arguments import GATEWAY_PORT
from local.azurite import ensure_azurite
from local.processes import free_port
from local.sample_model.pictures import photograph
from local.stack import ROOT
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.usefixtures("mono")


@pytest.fixture(scope="module")
def tree(mono: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A copy of the working tree in which the command runs, and the gateway's port."""
    copy, port = tmp_path_factory.mktemp("tree") / "main", free_port()
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "node_modules", "__pycache__", "demo-results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    (copy / ".local").mkdir()
    (copy / ".local" / "npm").symlink_to(next(part for part in ensure_azurite().parents if part.name == "npm"))
    shutil.copy(photograph("china.jpg"), copy / "photo.jpg")
    command = [sys.executable, "-m", "local", "up", "--port", str(free_port()), "--gateway", str(port)]
    output = copy / ".local" / "output"
    with output.open("wb") as file:
        up = subprocess.Popen(command, cwd=copy, stdout=file, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: "Through the gateway" in output.read_text() or up.poll() is not None)
        assert up.poll() is None, output.read_text()
        yield copy, port
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_S) == 0
    finally:
        if up.poll() is None:
            up.kill()


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "### Through the gateway"), ("docs/local-stack.md", "## The local gateway")]
)
def test_the_calls_on_the_pages_get_what_the_pages_say(tree: tuple[Path, int], page: str, heading: str) -> None:
    folder, port = tree
    section = (ROOT / page).read_text().partition(f"\n{heading}\n")[2]
    block = next(one for one in re.findall(r"```console\n(.*?)```", section, re.DOTALL) if "SUBSCRIPTION=" in one)
    lines = block.replace("\\\n    ", "").replace(f":{GATEWAY_PORT}", f":{port}").splitlines()
    script = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    expected = [line for line in lines if line and not line.startswith("$ ")]

    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    for line in expected:
        pattern = re.sub(r"(\\ )*…(\\ )*", ".*", re.escape(_varying(line)))
        assert any(re.fullmatch(pattern, _varying(one)) for one in printed), (line, printed)


def _varying(line: str) -> str:
    """The line with the same task id in it, whichever it has."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", line)


def test_what_up_prints_can_be_run(tree: tuple[Path, int]) -> None:
    folder, port = tree
    printed = (folder / ".local" / "output").read_text().partition("Through the gateway")[2]
    assert f"  gateway            http://127.0.0.1:{port}\n" in printed
    command = next(line for line in printed.splitlines() if "/submit/" in line)

    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("HTTP/1.1 202 Accepted"), done.stdout + done.stderr


def test_a_port_that_is_taken_is_named_with_its_option(tree: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = tree
    # Another checkout: a second stack of the same one is refused before.
    other = shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns(".local"))
    command = [sys.executable, "-m", "local", "up", "--port", str(free_port()), "--gateway", str(port)]

    up = subprocess.run(command, cwd=other, capture_output=True, text=True, check=False)

    assert up.returncode == 1
    assert up.stderr == f"Port {port} is taken: stop the program that listens there, or give another --gateway.\n"
