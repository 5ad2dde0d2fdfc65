"""Whoever maps items is killed in the middle and called again: each item is one task, whenever it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Backbone
from model import Dispatch, Model, Models, Reply, done

from taskbackbone import TaskClient

PATIENCE_S = 120.0
ITEMS = 40
MAP = """
import sys
from pathlib import Path
from taskbackbone import TaskClient

def items():
    for number, file in enumerate(sorted(Path("items").iterdir())):
        print(number, flush=True)
        yield file

batch = TaskClient().map(sys.argv[1], items(), name=sys.argv[2], concurrency=4)
print("sealed", flush=True)
batch.save("out", 120, concurrency=1)
"""


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place()) as models:
        yield models


@pytest.fixture
def model(models: Models) -> Iterator[Model]:
    with models.model() as model:
        model.reply = lambda dispatch: done(dispatch.body.upper(), "text/plain")
        yield model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items").mkdir()
    for number in range(ITEMS):
        (tmp_path / "items" / f"{number:02}.txt").write_text(f"item {number}")
    (tmp_path / "map.py").write_text(MAP)
    return tmp_path


class Runs:
    """A program that is run in *folder* again and again, and killed."""

    def __init__(self, folder: Path, backbone: Backbone, command: list[str]) -> None:
        self.folder = folder
        self._command = command
        self._environment = {**os.environ, **backbone.environment}

    def until(self, line: str) -> None:
        with self._start() as process:
            assert process.stdout is not None
            assert any(printed.strip() == line for printed in process.stdout), line
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)

    def until_saved(self, files: int) -> None:
        out, end_s = self.folder / "out", time.monotonic() + PATIENCE_S
        with self._start() as process:
            while not out.exists() or len(list(out.iterdir())) < files:
                assert time.monotonic() < end_s
                time.sleep(0.002)
            process.kill()

    def once(self, event: threading.Event) -> None:
        with self._start() as process:
            assert event.wait(PATIENCE_S)
            process.kill()

    def to_the_end(self) -> None:
        with self._start() as process:
            printed, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, printed

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def each_item_once(model: Model, folder: Path) -> None:
    # An attempt that the app did not hear of is followed by another one: that is the same task.
    tasks = {(dispatch.task_id, dispatch.body.decode()) for dispatch in list(model.dispatches.queue)}
    assert Counter(body for _, body in tasks) == Counter(f"item {number}" for number in range(ITEMS))
    files = {file.name: file.read_text() for file in (folder / "out").iterdir() if file.suffix != ".part"}
    assert files == {f"{number:02}.txt.txt": f"ITEM {number}" for number in range(ITEMS)}


def test_a_map_that_is_killed_goes_on_wherever_it_died(backbone: Backbone, model: Model, folder: Path) -> None:
    name = os.urandom(6).hex()
    runs = Runs(folder, backbone, [sys.executable, "map.py", model.path, name])
    for line in ("0", "7", "23", "39", "sealed"):
        runs.until(line)
    runs.until_saved(ITEMS // 4)
    runs.to_the_end()
    each_item_once(model, folder)
    with TaskClient(backbone.url, backbone.key) as client:
        [batch] = [batch for batch in client.batches() if batch.name == name]
        assert (batch.state, batch.total) == ("completed", ITEMS)


def test_a_command_that_is_killed_goes_on_where_it_was(backbone: Backbone, model: Model, folder: Path) -> None:
    command = [sys.executable, "-m", "taskbackbone", "submit", model.path, "items", "-o", "out"]
    runs = Runs(folder, backbone, command)
    seen = threading.Event()

    def reply(dispatch: Dispatch) -> Reply:
        seen.set()
        return done(dispatch.body.upper(), "text/plain")

    model.reply = reply
    runs.once(seen)
    runs.to_the_end()
    before = {file: file.stat().st_ino for file in (folder / "out").iterdir()}
    runs.to_the_end()
    assert {file: file.stat().st_ino for file in (folder / "out").iterdir()} == before
    each_item_once(model, folder)


def test_the_app_may_die_while_items_are_submitted(backbone: Backbone, model: Model, folder: Path) -> None:
    def items() -> Iterator[Any]:
        for number, file in enumerate(sorted((folder / "items").iterdir())):
            if number == ITEMS // 2:
                backbone.kill()
                restarted.start()
            yield file

    restarted = threading.Thread(target=backbone.start)
    with TaskClient(backbone.url, backbone.key) as client:
        batch = client.map(model.path, items())
        restarted.join()
        batch.save(folder / "out", PATIENCE_S)
        assert (batch.total, batch.completed) == (ITEMS, ITEMS)
    each_item_once(model, folder)
