"""The five-minute start of ``sdk/r/README.md``, as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from local.stack import ROOT, Stack
from tests.r.installing import SDK, run_r
from tests.sdk.commands import Command, Ports, Terminal, commands_in
from tests.waiting import PATIENCE_S

PAGE = (SDK / "README.md").read_text()
_ELSEWHERE = ("sudo apt-get", "python3 dev.py", "export ")
"""Commands that were run before: they install, start the stack, or tell where it is."""


def test_what_the_page_shows_is_what_the_files_have() -> None:
    for name in ("stations.R", "call.R"):
        [shown] = re.findall(rf"\(example/{name}\):\n\n```r\n(.*?)```", PAGE, re.DOTALL)
        assert shown == (SDK / "example" / name).read_text()


def test_the_five_minute_start_works_as_it_is_printed(tmp_path: Path) -> None:
    ports = Ports()
    [(path, url)] = re.findall(r"--backend (/\S+)=(http://\S+)", PAGE)
    serve, call = (each for each in commands_in(PAGE) if not each.line.startswith(_ELSEWHERE))
    with Stack(tmp_path / "stack", backends={path: ports.rewrite(url)}, with_model=False) as stack:
        variables = {
            **os.environ,
            "BACKBONE_URL": stack.url,
            "BACKBONE_KEY": stack.key,
            "AI4E_API_TOOLS": str(SDK / "ai4e_api_tools"),
        }
        terminal = Terminal(ROOT, variables, ports)
        with terminal.going_on(serve, tmp_path / "service.log"):
            terminal.call(call)


def test_what_the_page_for_callers_shows_of_r_works_with_its_service(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "calling.md").read_text()
    [service] = re.findall(r"```python\n([^`]*?service\.run\(\)\n)```", page)
    [code] = re.findall(r"```r\n(.*?)```", page, re.DOTALL)
    (tmp_path / "words.py").write_text(service)
    ports = Ports()
    serve = Command(f"PORT=8081 {sys.executable} {tmp_path}/words.py")
    backends = {"/v1/words": ports.rewrite("http://127.0.0.1:8081")}
    with Stack(tmp_path / "stack", backends=backends, with_model=False) as stack:
        variables = {"BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key}
        with Terminal(ROOT, {**os.environ, **variables}, ports).going_on(serve, tmp_path / "service.log"):
            printed = run_r(["--vanilla", "-e", code], variables)
    assert printed.split() == ["$words", "[1]", "1"]


def test_the_launcher_runs_a_script_that_serves_by_itself_too(tmp_path: Path) -> None:
    script = tmp_path / "own.R"
    script.write_text(
        'source(file.path(Sys.getenv("AI4E_API_TOOLS"), "task_management", "api_task.R"))\n'
        'cat("up\\n")\n'
        "repeat later::run_now(1)\n"
    )
    process = subprocess.Popen(
        [SDK / "serve", script],
        env={**os.environ, "AI4E_API_TOOLS": str(SDK / "ai4e_api_tools")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()


def test_a_shell_that_runs_the_file_on_its_page_alone_is_told_what_is_missing() -> None:
    done = subprocess.run([SDK / "serve"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "serve SCRIPT" in done.stderr
