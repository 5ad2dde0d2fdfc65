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
from taskbackbone.batch import Batch
from taskbackbone.cli import _line, _line_of_batch, _plain
from taskbackbone.client import _Line as Line

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
        done = run("submit", model.path, "photos", "--out", "out")
        saved = ["out/a.json.json", "out/b.txt.txt"]
        assert done.stdout.decode().splitlines() == saved
        assert done.stderr.decode().splitlines()[-1] == "2 of 2 ended"
        assert (tmp_path / "out" / "a.json.json").read_text() == '"A.JSON"'
        again = run("submit", model.path, "photos", "--out", "out")
        assert again.stdout.decode().splitlines() == saved
        assert again.stderr.split()[0] == done.stderr.split()[0]
        assert len(model.dispatches.queue) == 2

    def test_the_result_of_one_file_goes_where_it_is_to(self, run: Run, model: Model, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("to be")
        assert run("submit", model.path, "text.txt", "-o", "loud.txt").stdout == b"loud.txt\n"
        assert (tmp_path / "loud.txt").read_text() == "TO BE"

    def test_the_same_key_is_the_same_task(self, run: Run, model: Model) -> None:
        first, second = (run("submit", model.path, "-", "--idempotency-key", "k", input=b"x").stdout for _ in "12")
        assert first == second

    def test_several_files_are_a_batch_whose_id_is_printed(
        self, run: Run, model: Model, models: Models, tmp_path: Path
    ) -> None:
        for name in ("one", "two", "three"):
            (tmp_path / name).write_text(name)
        with models.model() as gather:
            gather.reply = lambda dispatch: done(dispatch.body)
            arguments = ["submit", model.path, "one", "two", "--name", "numbers", "--then", gather.path]
            batch = run(*arguments).stdout.decode().strip()
            assert run(*arguments).stdout.decode().strip() == batch
            assert run("watch", batch).stderr.decode().splitlines()[-1] == "2 of 2 ended"
            listed = json.loads(run("batches", "--json", "--limit", "1").stdout)
            assert (listed["TaskId"], listed["Name"], listed["Total"]) == (batch, "numbers", 2)
            assert b"2 of     2 ended" in run("batches").stdout
            assert len(run("list", "--batch", batch).stdout.splitlines()) == 2
            assert run("watch", batch, "-o", "numbers").stdout.count(b"\n") == 2
            other = run("submit", model.path, "one", "three", "--json").stdout.decode()
            assert json.loads(other)["Total"] == 2

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

    def test_a_batch_is_cancelled_replayed_and_purged_by_its_id(
        self, run: Run, models: Models, client: TaskClient
    ) -> None:
        batch = client.map(models.new_path(), [b"x", b"y"])
        run("purge", batch.id, code=1)
        assert run("cancel", batch.id).stdout.decode() == f"{batch.id}  cancelled\n"
        with models.model() as model:
            model.reply = failing("too many bands")
            failed = client.map(model.path, [b"x", b"y"]).wait(PATIENCE_S)
            model.reply = lambda dispatch: done(b"fine")
            assert run("replay", failed.id).stdout.decode().startswith(f"{failed.id}  running")
            run("watch", failed.id)
        assert run("purge", failed.id).stdout.decode() == f"{failed.id}  purged\n"
        run("watch", failed.id, code=1)

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

    def test_1_tasks_of_a_batch_have_failed(self, run: Run, model: Model, tmp_path: Path) -> None:
        for name in ("good", "bad"):
            (tmp_path / name).write_text(name)
        good = model.reply
        model.reply = lambda dispatch: failing("no bands")(dispatch) if dispatch.body == b"bad" else good(dispatch)
        ended = run("submit", model.path, "good", "bad", "-o", "out", code=1)
        assert ended.stdout == b"out/good.bin\n"
        assert b"1 of 2 have no result: bad (" in ended.stderr
        ended = run("submit", model.path, "good", "bad", "--wait", code=1)
        assert b"failed - 1 of 2 failed" in ended.stderr

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
            ("submit", "/v1/x", "-", "--name", "n"),
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

    def test_that_nobody_answers_is_told_once_while_calls_are_repeated(self, run: Run) -> None:
        said = run("list", "--url", "http://127.0.0.1:9", "--retry-for", "1.5", code=3).stderr.decode().splitlines()
        assert said[0] == (
            "taskbackbone: no answer yet (ConnectionRefusedError: Connection refused); trying for 1.5 s"
        )
        assert len(said) == 2

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

    def test_a_batch_has_its_rate_and_its_estimated_end(self) -> None:
        document = {"Total": 200, "Completed": 90, "Failed": 10, "Cancelled": 0, "Unfinished": 100}
        batch = Batch(Line(Address("http://b.example"), 1, 1), {"TaskId": "b", **document})
        line = _line_of_batch(batch, [(0.0, 0), (50.0, 100)], bar=True)
        assert line.startswith("█" * 12 + "░" * 12 + " 100 of 200 ended, 10 failed, 100 to go, 2.0/s, ends at about ")
        assert line.endswith(", in 50 s")
        assert _line_of_batch(batch, [(0.0, 100)], bar=False) == "100 of 200 ended, 10 failed, 100 to go"

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


class TestWhen:
    def test_a_task_may_start_later_and_expire(
        self, run: Run, model: Model, client: TaskClient, tmp_path: Path
    ) -> None:
        (tmp_path / "text.txt").write_text("a")
        later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
        options = ("--start-after", "3600", "--start-before", later, "--max-run", "60")
        task_id = run("submit", model.path, "text.txt", *options).stdout.decode().strip()
        document = client.task(task_id).cancel().document
        assert document["MaxRunSeconds"] == 60
        assert document["StartAt"] > document["CreatedAt"]

    @pytest.mark.parametrize("option", ["--start-after", "--start-before"])
    def test_a_time_that_is_none_is_a_wrong_command(
        self, run: Run, model: Model, tmp_path: Path, option: str
    ) -> None:
        (tmp_path / "text.txt").write_text("a")
        for text in ("soon", "2026-11-30T06:00:00"):
            run("submit", model.path, "text.txt", option, text, code=2)

    def test_the_estimate_of_a_delayed_task_is_its_start(self) -> None:
        start = datetime.now(timezone.utc) + timedelta(seconds=300.5)
        document = {"TaskId": "1", "BackendStatus": "created", "Status": "created", "StartAt": start.isoformat()}
        line = _line(TaskView(Caller(Address("http://b.example")), document), bar=False)
        assert re.fullmatch(r"starts at about \d\d:\d\d:\d\d, in 5 min", line)

    def test_a_schedule_is_put_shown_run_and_deleted(self, run: Run, model: Model, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("a")
        name = f"cli-{os.urandom(4).hex()}"
        how = ("--cron", "30 6 * * *", "--time-zone", "Europe/Berlin", "--overlap", "queue", "--query", "a=1")
        put = run("schedule", "put", name, model.path, "text.txt", *how).stdout.decode()
        assert put.startswith(f"{name}  30 6 * * *  Europe/Berlin  {model.path}  next 20")
        task_id = run("schedule", "run", name).stdout.decode().strip()
        shown = run("schedule", "show", name).stdout.decode()
        assert task_id in shown
        bounded = run("schedule", "put", name, model.path, *how, "--start-before", "60", "--max-run", "5", "--json")
        assert [json.loads(bounded.stdout)[member] for member in ("StartBefore", "MaxRun")] == [60, 5]
        run("schedule", "put", name, model.path, *how, "--callback", "nobody", code=1)
        assert name in run("schedule", "list").stdout.decode()
        assert "paused" in run("schedule", "pause", name).stdout.decode()
        [resumed] = run("schedule", "resume", name, "--json").stdout.splitlines()
        assert json.loads(resumed)["Paused"] is False
        run("schedule", "delete", name)
        run("schedule", "show", name, code=1)

    @pytest.mark.parametrize("arguments", [("show",), ("put", "any"), ("put", "any", "/v1/x"), ("stop", "any")])
    def test_what_is_missing_is_a_wrong_command(self, run: Run, arguments: tuple[str, ...]) -> None:
        run("schedule", *arguments, code=2)
