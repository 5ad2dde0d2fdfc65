"""Fixtures of the drop-in's tests, which run in each Python that it is for, from 3.7.

The app and the emulators run in the repository's own Python, so in processes of their own. The first test that asks
for one starts it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Callable, Dict, Iterator, List, Tuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / "ai4e_api_tools"
REPOSITORY = HERE.parents[2]
HOUSE = os.environ.get("BACKBONE_HOUSE_PYTHON") or str(REPOSITORY / ".venv" / "bin" / "python")
"""The Python that the app runs in."""
PATIENCE_S = 60.0

sys.path.insert(0, str(TOOLS))


def eventually(condition: Callable[[], Any], what: object = "", patience_s: float = PATIENCE_S) -> Any:
    """Wait for *condition*; returns what it returned."""
    give_up_s = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < give_up_s, what() if callable(what) else what
        time.sleep(0.02)


def ask(method: str, url: str, document: Any = None, headers: Any = None) -> Tuple[int, Any]:
    """A call; returns status and JSON, or text if it is none."""
    body = document if document is None or isinstance(document, bytes) else json.dumps(document).encode()
    request = Request(url, body, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urlopen(request, timeout=PATIENCE_S) as answer:
            status, text = answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


class Place:
    """Where a service may be: the backbone sends the tasks of *path* and of all below to *port*."""

    def __init__(self, path: str, port: int) -> None:
        self.path = path
        self.port = port


class Backbone:
    """The running app."""

    def __init__(self, told: Dict[str, Any], process: Any) -> None:
        self.url: str = told["url"]
        self.key: str = told["key"]
        self._process = process
        self._free: Dict[str, List[Place]] = {}
        for path, place in told["places"].items():
            self._free.setdefault(path.rpartition("/")[0], []).append(Place(path, place["port"]))

    def place(self, kind: str = "/v1/test") -> Place:
        """A place of the caller's own, with a lease of 60 s; with 5 s, if *kind* is ``/v1/brief``."""
        return self._free[kind].pop(0)

    @property
    def variables(self) -> Dict[str, str]:
        """What the charts of the platform give to a service."""
        return {
            "CACHE_CONNECTOR_UPSERT_URI": self.function("CacheConnectorUpsert"),
            "CACHE_CONNECTOR_GET_URI": self.function("CacheConnectorGet"),
            "CURRENT_PROCESSING_UPSERT_URI": self.function("CurrentProcessingUpsert"),
            "SERVICE_CLUSTER": "tests",
        }

    def function(self, name: str) -> str:
        return f"{self.url}/api/{name}?code={self.key}"

    def call(self, method: str, path: str, document: Any = None) -> Tuple[int, Any]:
        return ask(method, self.url + path, document, {"x-functions-key": self.key})

    def create(self, place: Place, path: str, body: Any) -> str:
        """What the platform's gateway does with a request; returns the task's id."""
        task = {
            "Status": "created",
            "BackendStatus": "created",
            "Endpoint": f"http://127.0.0.1:{place.port}{place.path}{path}",
            "Body": body if isinstance(body, str) else json.dumps(body),
            "PublishToGrid": True,
        }
        status, created = ask("POST", self.function("CacheConnectorUpsert"), task)
        assert status == 200, created
        return created["TaskId"]

    def task(self, task_id: str) -> Dict[str, Any]:
        status, task = ask("GET", self.function("CacheConnectorGet") + "&taskId=" + task_id)
        assert status == 200, task
        return task

    def ended(self, task_id: str) -> Dict[str, Any]:
        def has_ended() -> Any:
            task = self.task(task_id)
            return task if task["BackendStatus"] in ("completed", "failed", "cancelled") else None

        return eventually(has_ended, lambda: self.task(task_id))

    def history(self, task_id: str) -> List[Dict[str, Any]]:
        status, told = self.call("GET", f"/api/v1/tasks/{task_id}/history")
        assert status == 200, told
        return told["Events"]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: Any) -> Iterator[Backbone]:
    """The real app on the development host."""
    folder = tmp_path_factory.mktemp("backbone")
    with house("tests.sdk.stack", folder) as (told, process):
        yield Backbone(told, process)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: Any) -> Iterator[Dict[str, Any]]:
    """The real Azurite, once over HTTP and once over TLS with tokens, and what issues such tokens."""
    with house("tests.sdk.blobs", tmp_path_factory.mktemp("blobs")) as (told, _):
        yield told


class house:
    """A module of the repository's own Python, which tells by a line of JSON where it is, and ends with its input."""

    def __init__(self, module: str, folder: Path) -> None:
        self._command = [HOUSE, "-m", module, str(folder)]
        self._folder = folder

    def __enter__(self) -> Tuple[Dict[str, Any], Any]:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            self._command,
            cwd=str(REPOSITORY),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it did not start: see {self._folder}"
        return json.loads(line), self._process

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Service:
    """A sample service in processes of its own, as it runs in an image."""

    def __init__(self, name: str, port: int, variables: Dict[str, str], log: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._folder = HERE.parent / name if name == "example" else HERE / "services" / name
        self._variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("APPINSIGHTS")},
            "PYTHONPATH": os.pathsep.join([str(TOOLS), str(self._folder)]),
            "PORT": str(port),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }

    def start(self, server: str = "flask", workers: int = 1) -> Service:
        gunicorn = ["-m", "gunicorn.app.wsgiapp", "-b", f"127.0.0.1:{self.port}", "--workers", str(workers)]
        command = {
            "flask": ["runserver.py"],
            "gunicorn": [*gunicorn, "runserver:app"],
            "gthread": [*gunicorn, "--threads", "4", "runserver:app"],
            "preload": [*gunicorn, "--preload", "runserver:app"],
        }[server]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=str(self._folder),
                env=self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._listens, lambda: self.log.read_text())
        return self

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """All of its processes, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """As Kubernetes does; returns the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a sample service: ``start("steps", place, backbone.variables, server="gunicorn")``."""
    started: List[Service] = []

    def begin(name: str, place: Place, variables: Dict[str, str], *, prefix: str = "", **how: Any) -> Service:
        log = tmp_path / f"{name}-{len(started)}.log"
        service = Service(name, place.port, {"API_PREFIX": prefix or place.path, **variables}, log)
        started.append(service.start(**how))
        return service

    yield begin
    for service in started:
        service.kill()


class Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    request_queue_size = 100


class ScriptedBackbone:
    """Plays the functions that a task manager calls. ``calls`` are those that came: method, path, headers, JSON.

    ``answers`` are statuses, or statuses with JSON, that the next calls get in place of the usual answer.
    """

    def __init__(self) -> None:
        self.calls: List[Tuple[str, str, Dict[str, str], Any]] = []
        self.answers: List[Any] = []
        self.tasks: Dict[str, Dict[str, Any]] = {}
        self.by_path: Dict[str, Any] = {}
        """What a path is answered always: a status, or one with JSON."""
        self.answer = self.usual_answer
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path, _, query = self.path.partition("?")
                document = json.loads(body.decode()) if body else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                double.calls.append((self.command, path, headers, document))
                status, answer = double.answer(path, query, document)
                data = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer

            def log_message(self, *_: object) -> None:
                return

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def usual_answer(self, path: str, query: str, document: Any) -> Tuple[int, Any]:
        if path in self.by_path or self.answers:
            told = self.by_path[path] if path in self.by_path else self.answers.pop(0)
            return told if isinstance(told, tuple) else (told, None)
        if path == "/api/CacheConnectorGet":
            task = self.tasks.get(dict(each.split("=") for each in query.split("&"))["taskId"])
            return (200, task) if task else (204, None)
        if path == "/api/CacheConnectorUpsert":
            known = self.tasks.get(
                document.get("TaskId") or "", {"TaskId": "made", "Attempt": 1, "Status": "created"}
            )
            told = {name: value for name, value in document.items() if value is not None}
            task = {**known, **told, "Body": None}
            self.tasks[task["TaskId"]] = task
            return 200, task
        if path == "/api/v1/heartbeats":
            return 200, {
                "Outcomes": [{"TaskId": each["TaskId"], "StatusCode": 200} for each in document["Heartbeats"]]
            }
        return 200, {}

    def give(self, task_id: str, **members: Any) -> Dict[str, Any]:
        """Makes a task that was dispatched."""
        task = {
            "TaskId": task_id,
            "Status": "created",
            "BackendStatus": "created",
            "Endpoint": "http://backend.example.org/v1/org/api",
            "EndpointPath": "/v1/org/api",
            "Attempt": 1,
            "Body": None,
            **members,
        }
        self.tasks[task_id] = task
        return task

    def of(self, path: str) -> List[Any]:
        """The documents that came to a path."""
        return [document for _, called, _, document in self.calls if called == path]

    @property
    def reports(self) -> List[Any]:
        return self.of("/api/CacheConnectorUpsert")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted(monkeypatch: Any) -> Iterator[ScriptedBackbone]:
    """A played backbone, which the variables of this process name."""
    from task_management.held_tasks import Holdings, holdings

    vars(holdings).update(vars(Holdings()))  # what other tests were given came to another process
    double = ScriptedBackbone()
    monkeypatch.setenv("CACHE_CONNECTOR_UPSERT_URI", double.url + "/api/CacheConnectorUpsert?code=secret-key")
    monkeypatch.setenv("CACHE_CONNECTOR_GET_URI", double.url + "/api/CacheConnectorGet?code=secret-key")
    monkeypatch.setenv("AI4E_RETRY_FOR_S", "20")
    yield double
    double.close()
