"""How a service starts, stops, and is started: signals, set-up, and the ways to run one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from service_process import HEAD, Service, running, serving

from taskbackbone._dispatch import free_port
from taskbackbone.testing import PlayedBackbone, PlayedTask

CODE = """
service = TaskService(drain_s=DRAIN, cancel_grace_s=2, workers=2)

@service.task("/wait")
def wait(task: Task) -> str:
    print("begins with", task.restored, flush=True)
    try:
        while not os.path.exists("go on"):
            time.sleep(0.01)
        return "done"
    except Cancelled as cancelled:
        task.checkpoint(str(cancelled).encode())
        raise

@service.task("/deaf")
def deaf() -> None:
    while True:
        try:
            time.sleep(600)
        except BaseException:
            print("cancelled", flush=True)

service.run()
print("after run")
"""


def begun(backbone: PlayedBackbone, path: str) -> PlayedTask:
    return backbone.submit(path).until(lambda task: task.state == "running")


def code(drain_s: float) -> str:
    return CODE.replace("DRAIN", str(drain_s))


def releases(task: PlayedTask) -> list[dict[str, object]]:
    return [json.loads(call.body) for call in task.calls if call.kind == "release"]


def test_a_service_that_stops_lets_its_tasks_end(tmp_path: Path) -> None:
    with serving(tmp_path, code(60)) as (backbone, service):
        task = begun(backbone, "/wait")

        service.process.send_signal(signal.SIGTERM)
        service.until_log("stopping: 1 at work")
        assert service.ask("GET", "/readyz").status == 503
        assert service.ask("GET", "/livez").status == 200
        refused = service.dispatch("/wait", "another")
        assert (refused.status, refused.headers["x-task-slots"]) == (503, "0")

        (tmp_path / "go on").touch()
        assert service.process.wait(60) == 0
        assert (task.state, task.attempt) == ("completed", 1)
        assert task.calls[-1].headers["x-task-slots"] == "0"
        assert service.log.rstrip().endswith("after run")


def test_a_service_gives_back_what_does_not_end_in_time_with_its_checkpoint(tmp_path: Path) -> None:
    with serving(tmp_path, code(0.3)) as (backbone, service):
        task = begun(backbone, "/wait")
        assert service.stop() == 0

    assert (task.failures, task.checkpoint) == (0, b"shutdown")
    assert releases(task) == [{"Failed": False, "Status": "the service is stopping"}]
    (tmp_path / "go on").touch()
    with running(tmp_path, code(1), backbone.environment) as service:
        assert "begins with" not in service.log


def test_a_cancelled_task_keeps_nothing_and_that_is_no_error(tmp_path: Path) -> None:
    with serving(tmp_path, code(1), lease_s=3) as (backbone, service):
        task = begun(backbone, "/wait")
        task.cancel()

        service.until_log("attempt 1: stopped after")
        assert [call.kind for call in task.calls if call.kind == "checkpoint"] == []
        assert "ERROR" not in service.log


def test_the_next_attempt_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    with PlayedBackbone() as backbone:
        with running(tmp_path, code(0.3), backbone.environment) as service:
            backbone.service_url = service.url
            task = begun(backbone, "/wait")
        (tmp_path / "go on").touch()
        with running(tmp_path, code(0.3), backbone.environment) as service:
            backbone.service_url = service.url
            task.wait()

            assert (task.state, task.failures) == ("completed", 0)
            assert "begins with b'shutdown'" in service.log


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    with serving(tmp_path, code(600)) as (backbone, service):
        task = begun(backbone, "/wait")

        service.process.send_signal(signal.SIGTERM)
        service.until_log("stopping: 1 at work")
        assert service.stop() == 0
        assert len(releases(task)) == 1


def test_an_interrupt_from_the_terminal_does_not_wait(tmp_path: Path) -> None:
    with serving(tmp_path, code(600)) as (backbone, service):
        task = begun(backbone, "/wait")

        assert service.stop(signal.SIGINT) == 0
        assert len(releases(task)) == 1
        assert "Traceback" not in service.log


def test_a_third_signal_ends_the_grace(tmp_path: Path) -> None:
    with serving(tmp_path, code(600).replace("cancel_grace_s=2", "cancel_grace_s=600")) as (backbone, service):
        task = begun(backbone, "/deaf")

        service.process.send_signal(signal.SIGINT)
        service.until_log("cancelled")
        assert service.stop() == 0
        assert len(releases(task)) == 1


def test_a_function_that_does_not_stop_is_killed_and_its_task_given_back(tmp_path: Path) -> None:
    with serving(tmp_path, code(0.1)) as (backbone, service):
        task = begun(backbone, "/deaf")

        assert service.stop() == 0
        assert releases(task) == [{"Failed": False, "Status": "the service is stopping"}]


def test_a_service_stops_though_the_backbone_is_away(tmp_path: Path) -> None:
    with serving(tmp_path, code(0.1)) as (backbone, service):
        begun(backbone, "/wait")
        backbone.fault = lambda call: 503

        assert service.stop() == 0


def test_a_service_is_not_ready_before_its_set_up_is_done(tmp_path: Path) -> None:
    script = """
    service = TaskService()

    @service.setup
    def load() -> None:
        print("loading", flush=True)
        while not os.path.exists("loaded"):
            time.sleep(0.01)
        global model
        model = "model"

    @service.task("/model")
    def ask() -> str:
        return model

    service.run()
    """
    with running(tmp_path, script, {"BACKBONE_URL": "http://127.0.0.1:9"}, waits=False) as service:
        service.until_log("serving at")
        service.until_log("loading")
        assert service.ask("GET", "/livez").status == 200
        assert service.ask("GET", "/readyz").status == 503
        for refused in (service.call("/model"), service.dispatch("/model", "a-task")):
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")

        (tmp_path / "loaded").touch()
        service.until_ready()
        assert service.call("/model").text == "model"


@pytest.mark.parametrize(
    "failing", ["raise ValueError('no weights')", "os._exit(7)", "os.kill(os.getpid(), 9)", "sys.exit('no weights')"]
)
@pytest.mark.parametrize("place", ["in the setup", "in the script"])
def test_a_service_that_cannot_be_set_up_lives_is_not_ready_and_tries_again(
    tmp_path: Path, failing: str, place: str
) -> None:
    script = "is_worker = 'TASKBACKBONE_WORKER' in os.environ_given\nservice = TaskService()\n"
    script += "@service.setup\ndef load():\n    " + (failing if place == "in the setup" else "pass") + "\n"
    script += f"if is_worker:\n    {failing}\n" if place == "in the script" else ""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ_given = dict(os.environ)\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with running(tmp_path, script + "service.run()\n", environment, waits=False) as service:
        service.until_log("the next worker is started in 0.5 s")
        service.until_log("the next worker is started in 1.0 s")
        assert service.ask("GET", "/readyz").status == 503
        assert service.ask("GET", "/livez").status == 200
        assert service.call("/anything").status == 404


def test_a_worker_that_becomes_ready_after_failures_makes_the_service_ready(tmp_path: Path) -> None:
    script = """
    service = TaskService()

    @service.setup
    def load() -> None:
        if not os.path.exists("weights"):
            raise FileNotFoundError("weights")

    service.run()
    """
    with running(tmp_path, script, waits=False) as service:
        service.until_log("FileNotFoundError: weights")
        service.until_log("the next worker is started in 0.5 s")
        assert service.ask("GET", "/readyz").status == 503
        (tmp_path / "weights").touch()
        service.until_ready()


def test_a_service_that_gives_up_ends_with_1(tmp_path: Path) -> None:
    script = """
    import taskbackbone._pool
    taskbackbone._pool._FIRST_PAUSE_S = 0.01
    service = TaskService()

    @service.setup
    def load() -> None:
        raise ValueError("no weights")

    service.run()
    """
    with running(tmp_path, script, waits=False) as service:
        assert service.process.wait(60) == 1
        assert service.log.count("ValueError: no weights") == 5
        assert "no worker can be set up" in service.log


def test_the_address_comes_from_the_environment_and_must_be_free(tmp_path: Path) -> None:
    with running(tmp_path, code(1)) as service:
        other = subprocess.run(
            [sys.executable, "a_service.py"],
            cwd=tmp_path,
            env={**_environment(service), "SERVICE_HOST": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert other.returncode == 1
    assert re.fullmatch(r"The service cannot listen at 127\.0\.0\.1, port \d+: .*in use\n", other.stderr)


def test_a_url_that_is_none_ends_the_start_in_words(tmp_path: Path) -> None:
    with running(tmp_path, code(1), {"BACKBONE_URL": "nowhere"}, waits=False) as service:
        assert service.process.wait(60) == 1
        assert "BACKBONE_URL, must be http://" in service.log
        assert "Traceback" not in service.log


def _environment(service: Service) -> dict[str, str]:
    import os

    return {**os.environ, "PORT": str(service.port)}


HELLO = """
service = TaskService(workers=1)

@service.task("/hello")
def hello() -> str:
    return " ".join([__name__, *sys.argv[1:], os.getcwd()])
"""


@pytest.fixture
def package(tmp_path: Path) -> Generator[Path, None, None]:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "hello.py").write_text(HEAD + HELLO + "if __name__ == '__main__':\n    service.run()\n")
    (tmp_path / "models" / "__main__.py").write_text("from models.hello import service\nservice.run()\n")
    yield tmp_path


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["models/hello.py", "an", "argument"], "__main__ an argument"),
        (["-m", "models.hello", "--an-option"], "__main__ --an-option"),
        (["-m", "models"], "models.hello"),
        (["-m", "taskbackbone", "serve", "models.hello:service"], "models.hello serve models.hello:service"),
        (["-X", "utf8", "-m", "taskbackbone", "serve", "models.hello"], "models.hello serve models.hello"),
    ],
)
def test_a_worker_runs_the_service_in_the_way_in_which_it_was_started(
    package: Path, command: list[str], name: str
) -> None:
    with running(package, HELLO, {"PYTHONPATH": str(package)}, command=[sys.executable, *command]) as service:
        assert service.call("/hello").text == f"{name} {package}"


def test_a_script_that_changes_its_folder_finds_its_worker(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = "os.chdir('elsewhere')\n" + HELLO + "service.run()\n"
    with running(tmp_path, script, command=[sys.executable, "a_service.py"]) as service:
        assert service.call("/hello").text.endswith("elsewhere")


def test_serve_listens_where_it_is_told_and_refuses_what_is_no_service(package: Path) -> None:
    serve = [sys.executable, "-m", "taskbackbone", "serve"]
    port = free_port()
    command = [*serve, "models.hello:service", "--host", "127.0.0.1", "--port", str(port)]
    with running(package, HELLO, command=command, waits=False) as service:
        service.port = port
        assert service.until_ready().call("/hello").status == 200

    for target, reason in (
        ("models.hello:hello", "hello in models.hello is no TaskService"),
        ("nothing", "there is no module nothing here"),
    ):
        ended = subprocess.run([*serve, target], cwd=package, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert reason in ended.stderr


def test_a_model_may_start_processes_of_its_own_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = """
    import multiprocessing

    service = TaskService()

    def square(number: int) -> int:
        return number * number

    @service.task("/squares")
    def squares(body: list) -> list:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            return pool.map(square, body)

    service.run()
    """
    with running(tmp_path, script) as service:
        assert json.loads(service.call("/squares", b"[1, 2, 3]").body) == [1, 4, 9]


def test_log_lines_of_a_function_say_its_task_and_attempt_and_keep_the_users_own_form(tmp_path: Path) -> None:
    script = """
    import logging, threading

    if os.environ.get("OWN"):
        logging.basicConfig(format="own %(message)s%(task)s", level=logging.INFO, stream=sys.stdout)
    service = TaskService()

    @service.task("/log")
    def log() -> None:
        logging.getLogger("model").info("in the function")
        thread = threading.Thread(target=logging.getLogger("model").info, args=["in a thread"])
        thread.start()
        thread.join()

    service.run()
    """
    for own in ("", "1"):
        with serving(tmp_path, script, {"OWN": own}) as (backbone, service):
            task = backbone.submit("/log").wait()
            label = f" [task {task.id}, attempt 1]"
            lines = [f"own in {place}{label}" if own else f"INFO model{label}: in {place}" for place in PLACES]
            for line in lines:
                assert line in service.log


PLACES = ("the function", "a thread")
