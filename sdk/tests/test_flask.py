"""A service within a Flask app, under servers that know nothing of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
import requests
from services.service_process import descendants, eventually, is_alive

from taskbackbone.testing import PATIENCE_S, PlayedBackbone

pytest_plugins = ["taskbackbone.pytest_plugin"]

APP = """
import os, sys, time
from pathlib import Path

from flask import Flask
from taskbackbone import Fail, Result, Task, TaskService
from taskbackbone.flask import mount

service = TaskService(drain_s=1)


@service.task("/v1/words/count", content_types=["text/plain"])
def count(body: str, task: Task, *, least: int = 1) -> dict:
    return {"words": sum(len(word) >= least for word in body.split()), "pid": os.getpid()}


@service.task("/v1/words/large")
def large(body: bytes) -> Result:
    return Result(body * 2, content_type="x/y")


@service.task("/v1/words/slow")
def slow(body: str) -> str:
    while True:
        time.sleep(0.05)


@service.task("/v1/words/no")
def no(body: str) -> str:
    raise Fail("no such word")


app = Flask(__name__)
mount(app, service, os.environ.get("PREFIX", ""))


@app.get("/own")
def own():
    return f"{os.getpid()}"


if __name__ == "__main__":
    import waitress

    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]), threads=8)
"""
SERVERS = {
    "gunicorn": "-m gunicorn --workers 1 --threads 8 --bind 127.0.0.1:{port} app:app",
    "gunicorn, preloaded": "-m gunicorn --preload --workers 1 --threads 8 --bind 127.0.0.1:{port} app:app",
    "gunicorn, without threads": "-m gunicorn --workers 1 --bind 127.0.0.1:{port} app:app",
    "waitress": "-m waitress --listen 127.0.0.1:{port} app:app",
    "waitress in the script": "app.py",
}


@contextmanager
def served(backbone: PlayedBackbone, folder: Path, server: str, **environment: str) -> Iterator[Popen[bytes]]:
    """The app under a server; afterwards, nothing of it is left."""
    (folder / "app.py").write_text(APP)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, *SERVERS[server].format(port=port).split()]
    family: list[int] = []
    with backbone.start(command, port=port, cwd=folder, environment=environment) as process:
        yield process
        if process.poll() is None:
            family = descendants(process.pid)
            assert family
    eventually(lambda: not any(map(is_alive, family)), "something of the server is left")


@pytest.mark.parametrize("server", SERVERS)
def test_a_task_is_worked_on_under(server: str, played_backbone: PlayedBackbone, tmp_path: Path) -> None:
    with served(played_backbone, tmp_path, server):
        task = played_backbone.submit("/v1/words/count", "to be or not to be", query="least=3").wait()

        assert (task.state, task.json()["words"]) == ("completed", 1)
        own = int(requests.get(f"{played_backbone.service_url}/own", timeout=PATIENCE_S).text)
        assert task.json()["pid"] != own
        assert list(played_backbone.slots.values()) == [1]


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_a_direct_call_is_answered_with_the_result(
    server: str, played_backbone: PlayedBackbone, tmp_path: Path
) -> None:
    with served(played_backbone, tmp_path, server, PREFIX="/models"):
        url = f"{played_backbone.service_url}/models/v1/words"
        text = {"Content-Type": "text/plain"}
        counted = requests.post(f"{url}/count", data="a b c", headers=text, timeout=PATIENCE_S)
        assert (counted.status_code, counted.json()["words"]) == (200, 3)
        body = os.urandom(3_000_000)
        doubled = requests.post(f"{url}/large", data=body, timeout=PATIENCE_S)
        assert (doubled.content == body * 2, doubled.headers["Content-Type"]) == (True, "x/y")
        refused = requests.post(f"{url}/no", data="a", headers=text, timeout=PATIENCE_S)
        assert (refused.status_code, refused.json()["detail"]) == (422, "no such word")
        assert requests.post(f"{url}/count", data=b"a", timeout=PATIENCE_S).status_code == 415
        assert requests.post(f"{url}/none", data=b"a", timeout=PATIENCE_S).status_code == 404
        ready = requests.get(f"{played_backbone.service_url}/models/readyz", timeout=PATIENCE_S)
        assert ready.status_code == 200


@pytest.mark.parametrize("server", SERVERS)
def test_a_task_is_given_back_when_the_server_is_told_to_stop(server: str, tmp_path: Path) -> None:
    with PlayedBackbone(lease_s=30) as backbone, served(backbone, tmp_path, server) as process:
        task = backbone.submit("/v1/words/slow", "a", content_type="text/plain").until(lambda task: task.calls)
        family = descendants(process.pid)

        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        assert (task.failures, task.attempt >= 2) == (0, True)
        assert [call.status for call in task.calls if call.kind == "release"] == [200]
        eventually(lambda: not any(map(is_alive, family)), "something of the server is left")


def test_a_worker_that_is_lost_is_replaced(played_backbone: PlayedBackbone, tmp_path: Path) -> None:
    with served(played_backbone, tmp_path, "gunicorn"):
        first = played_backbone.submit("/v1/words/count", "a b").wait().json()["pid"]
        os.kill(first, signal.SIGKILL)
        second = played_backbone.submit("/v1/words/count", "a b").wait()

        assert second.json()["words"] == 2
        assert second.json()["pid"] != first
