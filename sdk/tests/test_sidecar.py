"""The sidecar: what its server answers is the task's result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from upstream_server import LARGE_BYTES

from taskbackbone._dispatch import free_port
from taskbackbone.sidecar import Upstream
from taskbackbone.testing import PATIENCE_S, PlayedBackbone

pytest_plugins = ["taskbackbone.pytest_plugin"]

SIDECAR = [sys.executable, "-m", "taskbackbone", "sidecar"]
PATH = "/v1/any/model"


def eventually(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextmanager
def server(port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("upstream_server.py")), str(port)]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def sidecar(backbone: PlayedBackbone, upstream: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with backbone.start([*SIDECAR, "--upstream", upstream, *options]) as process:
        yield process


def is_ready(backbone: PlayedBackbone) -> bool:
    return requests.get(f"{backbone.service_url}/readyz", timeout=PATIENCE_S).status_code == 200


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def ready(played_backbone: PlayedBackbone, port: int) -> Iterator[PlayedBackbone]:
    """A backbone whose service is a sidecar with three slots, in front of a server that is up."""
    with server(port), sidecar(played_backbone, f"http://127.0.0.1:{port}", "--slots", "3"):
        eventually(lambda: is_ready(played_backbone))
        yield played_backbone


def test_the_answer_is_the_result(ready: PlayedBackbone) -> None:
    task = ready.submit(PATH, "echo this", query="size=3&name=a%20b").wait()

    assert (task.state, task.status) == ("completed", "completed")
    assert task.result is not None
    assert task.result.data == f"{PATH}?size=3&name=a%20b echo this".encode()
    assert task.result.content_type == "text/plain"
    assert [call.kind for call in task.calls] == ["result"]
    assert ready.slots == {next(iter(ready.slots)): 3}


def test_a_direct_call_passes_through(ready: PlayedBackbone) -> None:
    answer = requests.post(
        f"{ready.service_url}/x?y=1", data=b"echo", headers={"traceparent": "00-a-b-01"}, timeout=60
    )

    assert (answer.status_code, answer.text) == (200, "/x?y=1 echo")


@pytest.mark.parametrize(
    ("body", "state", "status"),
    [
        ("status 400 no such picture", "failed", "failed - no such picture"),
        ("status 404", "failed", "failed - the server answered 404"),
        ("status 302", "failed", "failed - the server answered 302"),
        ("nothing", "completed", "completed"),
    ],
)
def test_an_answer_says_how_the_task_ends(ready: PlayedBackbone, body: str, state: str, status: str) -> None:
    task = ready.submit(PATH, body).wait()

    assert (task.state, task.status, task.attempt) == (state, status, 1)
    assert task.result is None


@pytest.mark.parametrize("body", ["status 500", "status 502", "status 408", "break", "short"])
def test_what_may_work_another_time_is_tried_again_and_counts(port: int, body: str) -> None:
    with (
        PlayedBackbone(max_attempts=3) as backbone,
        server(port),
        sidecar(backbone, f"127.0.0.1:{port}"),
    ):
        task = backbone.submit(PATH, body).wait()

    assert (task.state, task.failures) == ("failed", 3)
    assert "the server" in task.status
    assert task.result is None


def test_a_body_that_is_only_named_is_fetched_and_a_large_answer_is_uploaded(port: int) -> None:
    body = b"echo " + bytes(9 * 1024**2)
    url = f"http://127.0.0.1:{port}"
    with PlayedBackbone(max_body_bytes=1024**2) as backbone, server(port), sidecar(backbone, url):
        task = backbone.submit(PATH, body, by_reference=True).wait()

    assert task.state == "completed", task.status
    assert task.result is not None
    assert task.result.data == f"{PATH} ".encode() + body
    assert [call.kind for call in task.calls if call.kind != "heartbeat"] == ["upload", "result"]


def test_a_large_body_and_a_large_result_go_by_file(ready: PlayedBackbone) -> None:
    body = b"echo " + bytes(LARGE_BYTES)
    tasks = [ready.submit(PATH, body), ready.submit(PATH, "large")]

    sizes = [len(task.wait().result.data) for task in tasks if task.result or task.wait().result]
    assert sizes == [len(PATH) + 1 + len(body), LARGE_BYTES]


def test_a_redirect_that_adds_a_slash_is_followed(ready: PlayedBackbone) -> None:
    task = ready.submit("/redirected", "echo", query="a=1").wait()

    assert task.result is not None
    assert task.result.data == b"/redirected/?a=1 echo"


def test_all_tasks_go_to_the_path_of_the_server_if_it_has_one(played_backbone: PlayedBackbone, port: int) -> None:
    with server(port), sidecar(played_backbone, f"http://127.0.0.1:{port}/predictions"):
        task = played_backbone.submit(PATH, "echo").wait()

    assert task.result is not None
    assert task.result.data == b"/predictions echo"


@pytest.mark.parametrize("status", [429, 503, 409])
def test_a_task_for_which_the_server_has_no_room_keeps_its_place(
    played_backbone: PlayedBackbone, port: int, status: int
) -> None:
    with (
        server(port, SLOTS="1", BUSY=str(status)),
        sidecar(played_backbone, f"http://127.0.0.1:{port}", "--slots", "2", "--busy", "409"),
    ):
        tasks = [played_backbone.submit(PATH, "sleep 0.5") for _ in range(4)]
        played_backbone.until(lambda: any(task.attempt > 1 for task in tasks))
        for task in tasks:
            played_backbone.until(lambda task=task: come_again(played_backbone) and task.has_ended)

    assert [(task.state, task.failures) for task in tasks] == [("completed", 0)] * 4
    released = [call for task in tasks for call in task.calls if call.kind == "release"]
    assert released
    assert {call.status for call in released} == {200}


def come_again(backbone: PlayedBackbone) -> bool:
    """Lets released tasks come again."""
    for task in backbone.all_tasks:
        task.due_s = None if task.state == "created" else task.due_s
    return True


def test_a_cancel_closes_the_connection(port: int) -> None:
    with (
        PlayedBackbone(lease_s=3) as backbone,
        server(port) as process,
        sidecar(backbone, f"http://127.0.0.1:{port}"),
    ):
        task = backbone.submit(PATH, "sleep 600").until(lambda task: task.calls)
        task.cancel()

        assert process.stdout is not None
        assert process.stdout.readline() == "the connection was closed\n"
        assert backbone.submit(PATH, "echo").wait().state == "completed"
        assert task.state == "cancelled"


def test_a_task_that_takes_too_long_fails(played_backbone: PlayedBackbone, port: int) -> None:
    with server(port) as process, sidecar(played_backbone, f"http://127.0.0.1:{port}", "--timeout", "0.5"):
        task = played_backbone.submit(PATH, "sleep 600").wait()

        assert (task.state, task.status) == ("failed", "failed - it took longer than 0.5 s")
        assert process.stdout is not None
        assert process.stdout.readline() == "the connection was closed\n"


@pytest.mark.parametrize(
    ("body", "state", "status"),
    [
        ('json {"status": "failed", "error": "no such picture"}', "failed", "failed - no such picture"),
        ('json {"status": "failed"}', "failed", "failed"),
        ('json {"status": "succeeded", "error": null}', "completed", "completed"),
        ('json ["status", "failed"]', "completed", "completed"),
        ("json status=failed", "completed", "completed"),
    ],
)
def test_an_answer_may_say_in_its_json_that_the_work_has_failed(
    played_backbone: PlayedBackbone, port: int, body: str, state: str, status: str
) -> None:
    with server(port), sidecar(played_backbone, f"http://127.0.0.1:{port}", "--failure", "status=failed"):
        task = played_backbone.submit(PATH, body).wait()

    assert (task.state, task.status) == (state, status)


def test_it_is_not_ready_before_its_server_is(played_backbone: PlayedBackbone, port: int) -> None:
    with sidecar(played_backbone, f"http://127.0.0.1:{port}"):
        task = played_backbone.submit(PATH, "echo").until(lambda task: task.answers)
        assert task.answers[0].status == 503
        assert not is_ready(played_backbone)

        with server(port):
            assert task.wait().state == "completed"
            assert task.failures == 0
            assert is_ready(played_backbone)


def test_a_path_tells_when_the_server_can_work(played_backbone: PlayedBackbone, port: int) -> None:
    with server(port), sidecar(played_backbone, f"http://127.0.0.1:{port}", "--ready", "/health"):
        assert played_backbone.submit(PATH, "echo").wait().state == "completed"


def test_a_server_that_dies_with_a_task_is_waited_for(played_backbone: PlayedBackbone, port: int) -> None:
    with sidecar(played_backbone, f"http://127.0.0.1:{port}"):
        with server(port) as process:
            task = played_backbone.submit(PATH, "sleep 600").until(lambda task: task.calls)
            process.kill()
            process.wait()
            task.until(lambda task: task.failures == 1)
            eventually(lambda: not is_ready(played_backbone))
        task.cancel()
        with server(port):
            assert played_backbone.submit(PATH, "echo").wait().failures == 0


def test_at_its_end_it_gives_back_what_its_server_has(played_backbone: PlayedBackbone, port: int) -> None:
    with (
        server(port) as upstream,
        sidecar(played_backbone, f"http://127.0.0.1:{port}", "--drain", "0.2") as process,
    ):
        task = played_backbone.submit(PATH, "sleep 600").until(lambda task: task.calls)
        process.send_signal(signal.SIGTERM)

        assert process.wait(PATIENCE_S) == 0
        assert (task.failures, task.attempt >= 2, task.state) == (0, True, "created")
        assert upstream.stdout is not None
        assert upstream.stdout.readline() == "the connection was closed\n"


@pytest.mark.parametrize(("url", "slots"), [("ftp://127.0.0.1", 1), ("http://", 1), ("http://127.0.0.1", 0)])
def test_a_server_that_cannot_be_one_is_refused(url: str, slots: int) -> None:
    with pytest.raises(ValueError, match=r"http|slot"):
        Upstream(url, slots)
