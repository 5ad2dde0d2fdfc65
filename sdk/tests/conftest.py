"""Fixtures of the SDK's tests, which run in each Python that the SDK is for.

The app runs in the repository's own Python, so in a process of its own. The first test that asks for it starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
HOUSE = os.environ.get("BACKBONE_HOUSE_PYTHON") or str(REPOSITORY / ".venv" / "bin" / "python")
"""The Python that the app runs in."""


@dataclass(frozen=True)
class Place:
    """Where a model service may be: the backbone sends tasks of *path* and of all paths below to *port*.

    ``lease_s`` is how long a task may be silent there, in seconds.
    """

    path: str
    port: int
    lease_s: float


@dataclass
class Backbone:
    """The running app: its URL, its key, and the places of model services that nobody has taken yet."""

    url: str
    key: str
    storage: str
    """Where its bodies and results lie."""
    free: dict[str, list[Place]]
    process: subprocess.Popen[str]
    callbacks: dict[str, Any]
    """The ``port`` where it calls the destination ``tests``, and the ``secret`` with which it signs that."""

    def kill(self) -> None:
        """Kill the app, but none of what it needs."""
        self._tell("kill")

    def start(self) -> None:
        """Start it again; returns when it is ready."""
        self._tell("start")

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == word

    @property
    def environment(self) -> dict[str, str]:
        """The variables that tell a process of the app."""
        return {"BACKBONE_URL": self.url, "BACKBONE_KEY": self.key, "SERVICE_STORAGE": self.storage}

    def place(self, *, brief_lease: bool = False, by_reference: bool = False) -> Place:
        """A place of the caller's own, with a lease of 60 s, or a brief one of 5 s; or one that takes the URLs of
        bodies.
        """
        return self.free["/v1/brief" if brief_lease else "/v1/large" if by_reference else "/v1/test"].pop(0)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    """The real app on the development host, with short pauses: ``IN_A_HURRY`` of tests/conftest.py."""
    folder = tmp_path_factory.mktemp("backbone")
    command = [HOUSE, "-m", "tests.sdk.stack", str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the app did not start: see {folder}"
        told = json.loads(line)
        free: dict[str, list[Place]] = {}
        for path, place in told["places"].items():
            free.setdefault(path.rpartition("/")[0], []).append(Place(path, place["port"], place["lease_s"]))
        yield Backbone(told["url"], told["key"], told["storage"], free, process, told["callbacks"])
    finally:
        process.stdin.close()  # which ends it
        process.wait()


@pytest.fixture(scope="session")
def foreign_python() -> Callable[[str], Path]:
    """The Python of an environment with a server of models that nobody here wrote: ``tests/sdk/foreign.py``.

    Their scripts are in ``sdk/bench/servers``.
    """

    def python(name: str) -> Path:
        command = [HOUSE, "-m", "tests.sdk.foreign", name]
        printed = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout
        return Path(printed.splitlines()[-1])

    return python


@pytest.fixture
def place(backbone: Backbone) -> Place:
    """Where this test's model service may be."""
    return backbone.place()


@pytest.fixture
def report(backbone: Backbone) -> Callable[..., None]:
    """Reports on a task as a model service does: ``report(task_id, BackendStatus="running", Status="any")``."""

    def report(task_id: str, **members: object) -> None:
        answer = requests.post(
            f"{backbone.url}/api/CacheConnectorUpsert",
            json={"TaskId": task_id, "Attempt": 1, **members},
            headers={"x-functions-key": backbone.key},
            timeout=60,
        )
        answer.raise_for_status()

    return report
