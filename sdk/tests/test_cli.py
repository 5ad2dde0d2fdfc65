"""The command line against the real app, as a process; its bar on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Backbone
from model import Dispatch, Model, Models, Reply, done
from scripted_server import ScriptedServer, answer

from taskbackbone import TaskClient
from taskbackbone._calls import Caller, TaskView
from taskbackbone._core import Backbone as Address
from taskbackbone.cli import _line, _plain

PATIENCE_S = 60.0
SECRET = "the-secret-of-nobody"
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place()) as models:
        yield models


@pytest.fixture
def model(models: Models) -> Iterator[Model]:
    with models.model() as model:
        model.reply = lambda dispatch: done(dispatch.body.upper(), dispatch.headers["content-type"])
        yield model


@pytest.fixture(scope="module")
def client(backbone: Backbone) -> Iterator[TaskClient]:
    with TaskClient(backbone.url, backbone.key) as client:
        yield client


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "taskbackbone", *arguments]


@pytest.fixture
def run(backbone: Backbone, tmp_path: Path) -> Run:
    """Runs a command; *code* is how it has to end."""

    def run(*arguments: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **backbone.environment}
        settings = {"cwd": tmp_path, "env": environment, "capture_output": True, "timeout": PATIENCE_S, **options}
        done = subprocess.run(command(*arguments), check=False, **settings)
        assert done.returncode == code, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done

    return run


def failing(text: str) -> Callable[[Dispatch], Reply]:
    return lambda dispatch: Reply(422, {"Content-Type": "text/plain"}, text.encode())


class TestSubmit:
    def test_a_file_is_a_task_whose_id_is_printed(self, run: Run, model: Model, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("to be")
        printed = run("submit", model.path, "text.txt", "--query", "least=2", "--priority", "9").stdout.decode()
        dispatch = model.dispatches.get(timeout=PATIENCE_S)
        assert printed == dispatch.task_id + "\n"
        assert (dispatch.path, dispatch.headers["content-type"]) == (model.path + "?least=2", "text/plain")

    def test_a_pipeline_leads_on(self, run: Run, models: Models, model: Model) -> None:
        with models.model() as second:
            second.reply = lambda dispatch: done(dispatch.body + b"!", "text/plain")
            way = ["--pipeline", second.path + "?x=1", "--pipeline", second.path]
            said = run("submit", model.path, "-", *way, "-o", "out.txt", input=b"to be").stderr.decode()
            assert "step 1 of 3, " in said
            assert run("result", said.split()[0]).stdout == b"TO BE!!"

    def test_the_standard_input_is_one(self, run: Run, model: Model) -> None:
        run("submit", model.path, "-", "--content-type", "image/x-any", input=b"bytes")
        dispatch = model.dispatches.get(timeout=PATIENCE_S)
        assert (dispatch.body, dispatch.headers["content-type"]) == (b"bytes", "image/x-any")

    def test_a_folder_is_as_many_as_it_has_files(self, run: Run, model: Model, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        (folder / "below").mkdir(parents=True)
        for name in ("b.txt", "a.json", ".hidden"):
            (folder / name).write_text(f'"{name}"')
        saved = run("submit", model.path, "photos", "--output", "out").stdout.decode().splitlines()
        assert saved == ["out/a.json.json", "out/b.txt.txt"]
        assert (tmp_path / "out" / "a.json.json").read_text() == '"A.JSON"'

    def test_the_result_of_one_file_goes_where_it_is_to(self, run: Run, model: Model, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("to be")
        assert run("submit", model.path, "text.txt", "-o", "loud.txt").stdout == b"loud.txt\n"
        assert (tmp_path / "loud.txt").read_text() == "TO BE"

    def test_the_same_key_is_the_same_task(self, run: Run, model: Model) -> None:
        first, second = (run("submit", model.path, "-", "--idempotency-key", "k", input=b"x").stdout for _ in "12")
        assert first == second

    def test_json_has_the_task_at_its_submit_and_at_its_end(self, run: Run, model: Model) -> None:
        lines = run("submit", model.path, "-", "--wait", "--json", input=b"x").stdout.decode().splitlines()
        assert [json.loads(line)["BackendStatus"] for line in lines] == ["created", "completed"]


class TestOtherCommands:
    def test_a_task_is_watched_to_its_end(self, run: Run, model: Model, client: TaskClient) -> None:
        done = run("watch", client.submit(model.path, b"x").id)
        assert done.stdout == b""
        assert done.stderr.decode().splitlines()[-1] == "100% completed"

    def test_several_are_watched_one_after_the_other(self, run: Run, model: Model, client: TaskClient) -> None:
        ids = [client.submit(model.path, b"x").id for _ in range(2)]
        lines = run("watch", *ids).stderr.decode().splitlines()
        assert lines[-1] == f"2/2 {ids[1]} 100% completed"

    def test_a_result_is_printed_or_saved(self, run: Run, model: Model, client: TaskClient, tmp_path: Path) -> None:
        task = client.submit(model.path, "to be")
        assert run("result", task.id).stdout == b"TO BE"
        assert run("result", task.id, "-o", ".").stdout.decode() == f"{task.id}.txt\n"
        assert (tmp_path / f"{task.id}.txt").read_text() == "TO BE"

    def test_tasks_are_cancelled_listed_and_replayed(self, run: Run, models: Models, client: TaskClient) -> None:
        path = models.new_path()
        task = client.submit(path, b"x")
        assert run("cancel", task.id).stdout.decode() == f"{task.id}  cancelled\n"
        [line] = run("list", "--path", path, "--status", "cancelled").stdout.decode().splitlines()
        assert line.split()[:2] == [task.id, "cancelled"]
        assert json.loads(run("list", "--path", path, "--json").stdout)["TaskId"] == task.id
        assert run("list", "--path", path, "--limit", "0").stdout == b""
        with models.model() as model:
            model.reply = failing("too many bands")
            failed = client.submit(model.path, b"x").wait(PATIENCE_S)
            assert run("replay", failed.id).stdout.decode() == f"{failed.id}  created  attempt 2\n"

    def test_queues_are_shown(self, run: Run, models: Models, client: TaskClient) -> None:
        path = models.new_path()
        client.submit(path, b"x")
        [line] = run("queues", path).stdout.decode().splitlines()
        assert re.fullmatch(rf"\s*\d+ waiting\s+\d+ in flight\s+\d+ slots  {path}", line)
        assert path in line
        assert path in run("queues").stdout.decode()
        assert json.loads(run("queues", path, "--json").stdout)["EndpointPath"] == path

    def test_the_version_is_told(self, run: Run) -> None:
        assert run("--version").stdout.decode().startswith("taskbackbone 0.")


class TestExitCodes:
    def test_1_a_task_has_failed(self, run: Run, model: Model) -> None:
        model.reply = failing("too many bands")
        done = run("submit", model.path, "-", "--wait", input=b"x", code=1)
        assert b"too many bands" in done.stderr

    def test_1_the_backbone_refuses(self, run: Run) -> None:
        assert b"id is unknown" in run("watch", "nobody", code=1).stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("fly",),
            ("submit", "/v1/x"),
            ("submit", "/v1/x", "no-such-file"),
            ("submit", "/v1/x", "."),
            ("submit", "/v1/../x", "-"),
            ("submit", "/v1/x", "-", "--query", "code=1"),
            ("submit", "/v1/x", "-", "-", "--idempotency-key", "k"),
            ("list", "--url", "backbone"),
            ("serve",),
            ("sidecar",),
            ("check",),
        ],
    )
    def test_2_usage(self, run: Run, arguments: tuple[str, ...]) -> None:
        run(*arguments, code=2, stdin=subprocess.DEVNULL)

    def test_3_nobody_answers(self, run: Run, backbone: Backbone) -> None:
        done = run("list", "--url", "http://127.0.0.1:9", "--retry-for", "0", code=3)
        assert backbone.key.encode() not in done.stderr

    def test_4_the_time_is_up(self, run: Run, models: Models, client: TaskClient) -> None:
        task = client.submit(models.new_path(), b"x")
        assert b"goes on" in run("watch", task.id, "--timeout", "0.2", code=4).stderr
        run("result", task.id, "--timeout", "0.2", code=4)

    def test_130_it_is_interrupted(self, backbone: Backbone, models: Models, client: TaskClient) -> None:
        task = client.submit(models.new_path(), b"x")
        environment = {**os.environ, **backbone.environment}
        hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background is deaf to it
        process = subprocess.Popen(
            command("watch", task.id), env=environment, stderr=subprocess.PIPE, preexec_fn=hear
        )
        assert process.stderr is not None
        assert any(b"waiting" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert b"Traceback" not in said

    def test_an_output_that_nobody_reads_ends_it_quietly(self, backbone: Backbone, client: TaskClient) -> None:
        task = client.submit("/v1/test/39", os.urandom(10))
        environment = {**os.environ, **backbone.environment}
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            command("cancel", task.id), env=environment, stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")


class TestTheBar:
    def test_it_changes_in_place_on_a_terminal(self, backbone: Backbone) -> None:
        document = {"TaskId": "t", "BackendStatus": "created", "Status": "created"}
        begun = {**document, "BackendStatus": "running", "Status": "features \x1b[2J\n and more", "Progress": 0.5}
        ended = {**begun, "BackendStatus": "completed", "Status": "completed"}
        waiting = answer(200, {**document, "QueuePosition": 3}, {"ETag": '"1"'})
        deeds = [waiting, answer(200, begun, {"ETag": '"2"'}), answer(200, ended, {"ETag": '"3"'})]
        with ScriptedServer(deeds) as server:
            ours, theirs = pty.openpty()
            environment = {**os.environ, "BACKBONE_KEY": SECRET, "COLUMNS": "80"}
            process = subprocess.Popen(command("watch", "t", "--url", server.url), env=environment, stderr=theirs)
            os.close(theirs)
            shown = bytearray()

            def read() -> None:
                try:
                    while chunk := os.read(ours, 1000):
                        shown.extend(chunk)
                except OSError:  # the terminal has no other end any more
                    pass

            reader = threading.Thread(target=read)
            reader.start()
            assert process.wait(PATIENCE_S) == 0
            reader.join(PATIENCE_S)
            os.close(ours)
        frames = shown.decode().split("\r\x1b[K")[1:]
        assert frames[0] == "waiting, position 3"
        assert frames[1] == "█" * 12 + "░" * 12 + "  50% features  [2J  and more"
        assert frames[2].strip() == "█" * 24 + " 100% completed"
        assert SECRET not in shown.decode()

    def test_the_estimated_start_is_told(self) -> None:
        start = datetime.now(timezone.utc) + timedelta(minutes=5, seconds=2)
        document = {"QueuePosition": 7, "EstimatedStart": start.isoformat().replace("+00:00", "Z")}
        task = TaskView(Caller(Address("http://b.example")), document)
        assert (
            _line(task, bar=False) == f"waiting, position 7, starts at about {start.astimezone():%H:%M:%S}, in 5 min"
        )

    def test_a_long_text_is_cut(self) -> None:
        assert _plain("x" * 100, 10) == "x" * 9 + "…"


class TestCompletion:
    @pytest.mark.parametrize(
        ("typed", "completed"),
        [
            (["subm"], ["submit"]),
            (["submit", "--prio"], ["--priority"]),
            (["completion", "z"], ["zsh"]),
            (["submit", "no-flag"], []),
        ],
    )
    def test_bash_completes_commands_and_options(self, run: Run, typed: list[str], completed: list[str]) -> None:
        words = " ".join(["taskbackbone", *typed])
        script = run("completion", "bash").stdout.decode() + (
            f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _taskbackbone; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == completed

    @pytest.mark.parametrize("shell", ["zsh"])
    def test_other_shells_have_scripts_too(self, run: Run, shell: str) -> None:
        script = run("completion", shell).stdout.decode()
        assert "taskbackbone" in script
        assert "priority" in script
