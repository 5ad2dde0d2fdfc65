"""``dev.py`` and ``python -m local``: what a developer runs first."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from PIL import Image

from local.azurite import ensure_azurite
from local.processes import free_port
from local.sample_model.pictures import Picture, sample_pictures
from local.stack import ROOT
from tests.waiting import PATIENCE_S, eventually

CLASSES = 6
PARTS = ("local.event_grid", "local.functions_host", "local.sample_model", "azurite")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree: ``up`` keeps its data there, and a developer may have the real one running."""
    copy = tmp_path_factory.mktemp("tree") / "main"
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "node_modules", "__pycache__", "demo-results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    installed = ensure_azurite()
    npm = next(parent for parent in installed.parents if parent.name == "npm")
    (copy / ".local").mkdir()
    (copy / ".local" / "npm").symlink_to(npm)
    return copy


def test_the_demo_sends_real_pictures_through_a_real_model_and_back(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "local", "demo", "--json", "--results", tmp_path / "results"],
        cwd=ROOT,
        env={**os.environ, "RECONCILER_SCHEDULE": "* * * * * *"},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_S,
        check=False,
    )

    assert (demo.returncode, demo.stderr) == (0, "")
    events = [json.loads(line) for line in demo.stdout.splitlines()]
    assert {event["state"] for event in events if event["event"] == "task"} >= {"created", "running", "completed"}
    summary = events[-1]
    assert summary["event"] == "summary"
    pictures = {picture.name: picture for picture in sample_pictures()}
    assert summary["completed"] == summary["submitted"] == len(pictures) == len(summary["tasks"])
    for task in summary["tasks"]:
        assert task["state"] == "completed"
        _assert_segmentation_of(pictures[task["picture"]], Path(task["result"]))


def test_up_on_a_taken_port_says_so_in_one_sentence(tree: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = _refused_up(tree, port)

    assert up.stderr == f"Port {port} is taken: stop what listens there, or give --port.\n"


def test_a_second_up_is_refused_and_ctrl_c_stops_all_that_the_first_has_started(tree: Path, tmp_path: Path) -> None:
    with _up(tree, tmp_path) as (process, children):
        second = _refused_up(tree, free_port())
        assert second.stderr == "The stack is up already: stop it first.\n"

        process.send_signal(signal.SIGINT)

        assert process.wait(PATIENCE_S) == 0
        assert _all_gone(children)
    assert (tmp_path / "stderr").read_text() == ""


def test_up_ends_with_one_sentence_when_a_part_is_killed_and_leaves_nothing_behind(
    tree: Path, tmp_path: Path
) -> None:
    with _up(tree, tmp_path) as (process, children):
        next(child for child in children if "local.event_grid" in child.cmdline()).kill()

        assert process.wait(PATIENCE_S) == 1
        assert _all_gone(children)
    sentence, *log_tail = (tmp_path / "stderr").read_text().splitlines()
    assert sentence == "the Event Grid emulator has ended unexpectedly (SIGKILL)."
    assert all(line.startswith("  ") for line in log_tail)


def test_an_old_python_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = _dev()
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    monkeypatch.setattr(sys, "argv", ["dev.py", "demo"])

    assert dev.main() == 1

    assert capsys.readouterr().err == (
        "Python 3.11 or newer is needed, and this is 3.9: run dev.py with a newer one.\n"
    )


def test_an_old_python_can_read_dev_py() -> None:
    ast.parse((ROOT / "dev.py").read_text(), feature_version=(3, 5))


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["help"], 0), (["--help"], 0), (["no-such-command"], 2)])
def test_what_dev_py_can_do_is_shown_to_who_asks_or_mistypes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    dev = _dev()
    monkeypatch.setattr(sys, "argv", ["dev.py", *arguments])

    assert dev.main() == code

    shown = capsys.readouterr().out
    for command in ("demo", "test", "up", "check", "faults", "bench"):
        assert f"python3 dev.py {command}" in shown


def test_without_a_network_the_installation_fails_in_one_sentence_and_is_tried_again(tmp_path: Path) -> None:
    for name in ("dev.py", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    isolated = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}

    run = subprocess.run(
        [sys.executable, "dev.py", "test"],
        cwd=tmp_path,
        env={**isolated, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_S,
        check=False,
    )

    assert (run.returncode, run.stdout) == (1, "")
    announcement, sentence = run.stderr.splitlines()
    assert announcement.startswith("Installing into .venv")
    assert sentence.startswith("The requirements could not be installed (is there a network?): ERROR: ")
    assert not (tmp_path / ".venv" / "installed").exists()


def _assert_segmentation_of(picture: Picture, result: Path) -> None:
    """A map of few colours in clean regions, which tells the picture's colours apart."""
    original = Image.open(io.BytesIO(picture.data)).convert("RGB")
    drawn = Image.open(result)
    assert drawn.format == "PNG"
    assert drawn.width / drawn.height == pytest.approx(original.width / original.height, rel=0.01)
    labels = np.asarray(drawn.quantize(256) if drawn.mode != "P" else drawn)
    numbers, counts = np.unique(labels, return_counts=True)
    assert len(numbers) == CLASSES
    assert counts.min() / labels.size > 0.01
    assert counts.max() / labels.size < 0.8

    pixels = np.asarray(original.resize(drawn.size), dtype=np.float64)
    assert _evenness(labels[..., None]) > 0.95 > 0.5 > _evenness(pixels)
    within = sum(
        pixels[labels == number].var(axis=0).sum() * count for number, count in zip(numbers, counts, strict=True)
    )
    assert within / labels.size < 0.6 * pixels.reshape(-1, 3).var(axis=0).sum()


def _evenness(pixels: np.ndarray) -> float:
    """The share of pixels that are as their right neighbour."""
    return float((pixels[:, 1:] == pixels[:, :-1]).all(axis=-1).mean())


@contextmanager
def _up(tree: Path, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """``python -m local up`` once it says that the stack is up, and all its child processes."""
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "local", "up", "--port", str(free_port())], cwd=tree, stdout=stdout, stderr=stderr
        )
    try:
        says: Callable[[], str] = (directory / "stdout").read_text
        eventually(lambda: "The stack is up." in says() or process.poll() is not None)
        assert process.poll() is None, (directory / "stderr").read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(child.cmdline()) for child in children]
        assert all(any(part in command for command in commands) for part in PARTS)
        yield process, children
    finally:
        process.kill()
        process.wait()


def _refused_up(tree: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local", "up", "--port", str(port)]
    up = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (up.returncode, up.stdout) == (1, "")
    return up


def _all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return not alive


def _dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
