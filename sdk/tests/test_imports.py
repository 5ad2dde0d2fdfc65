"""What a process of each kind loads, since what it does not load costs it nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from taskbackbone.testing import PlayedBackbone

SERVER = {"taskbackbone._server", "taskbackbone._supervisor", "taskbackbone._reports", "uvicorn"}
CALLS = {"requests", "urllib3", "aiohttp"}
MODEL = """
import sys
from taskbackbone import TaskService

service = TaskService()


@service.task("/v1/loaded")
def loaded(body: bytes) -> list:
    return sorted(sys.modules)


service.run()
"""


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after it ran *code*."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())


def test_the_package_alone_loads_nothing() -> None:
    own = {name for name in loaded_by("import taskbackbone") if name.startswith("taskbackbone.")}
    assert own == set()


@pytest.mark.parametrize("name", ["TaskService", "Task", "Fail"])
def test_what_a_service_names_loads_neither_the_server_nor_a_client(name: str) -> None:
    assert loaded_by(f"from taskbackbone import {name}") & (SERVER | CALLS) == set()


def test_a_worker_loads_neither_the_server_nor_a_client(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(MODEL)
    with PlayedBackbone() as backbone, backbone.start([sys.executable, script], cwd=tmp_path):
        loaded = set(backbone.submit("/v1/loaded", b"").wait().json())
    assert "taskbackbone._worker" in loaded
    assert loaded & (SERVER | CALLS) == set()
