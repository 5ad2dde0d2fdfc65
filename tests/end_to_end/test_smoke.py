"""infra/smoke.sh, which each deployment is tried with, against the local stack and against answers of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from local.stack import ROOT, Stack
from tests.contract.v1_support import new_path
from tests.scripted_backend import Answer, ScriptedBackend

FOUND = b"6 words"


def smoke(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SMOKE_S": "60", **variables}
    command = ["sh", "infra/smoke.sh", url]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def at_the_app(stack: Stack, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    variables = {"KEY": stack.key, "KEY_HEADER": "x-functions-key", **variables}
    return smoke(f"{stack.url}/api/v1/submit{path}", **variables)


def test_a_completed_task_ends_it_well_with_its_result(stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(200, body=FOUND, headers={"X-Task-Complete": "true"}))
    done = at_the_app(stack, path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(f"202, and the task is at {stack.url}/api/v1/tasks/")
    assert last == f"The result: {FOUND.decode()}"
    call = backend.next_call(path)
    assert call.body == b"to be or not to be"
    assert call.headers["content-type"] == "text/plain"


def test_an_endpoint_that_takes_no_text_is_tried_too(stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(200, headers={"X-Task-Complete": "true"}))
    assert at_the_app(stack, path, BODY="[1, 2, 6]", BODY_TYPE="application/json").returncode == 0
    call = backend.next_call(path)
    assert (call.body, call.headers["content-type"]) == (b"[1, 2, 6]", "application/json")


def test_a_failed_task_is_said_with_what_its_service_says(stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(400, body=b"no such band"))
    done = at_the_app(stack, path)
    assert done.returncode == 1
    assert done.stderr.startswith("The task is failed: Failed - the backend answered 400.")


def test_a_wrong_key_is_named_by_its_header(stack: Stack) -> None:
    done = at_the_app(stack, new_path(), KEY="guessed")
    assert done.returncode == 1
    assert "refuses the key in x-functions-key with 401" in done.stderr


def test_a_task_that_nobody_works_on_is_given_up_in_time(stack: Stack) -> None:
    done = at_the_app(stack, new_path(), SMOKE_S="0")
    assert done.returncode == 1
    assert done.stderr.startswith("The task is created after 0 s: does its model service run")


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_a_wrong_call_says_how_it_is_called(arguments: list[str]) -> None:
    command = ["sh", "infra/smoke.sh", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KEY": "k"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: KEY=... sh infra/smoke.sh URL\n")


class Scripted(BaseHTTPRequestHandler):
    """Gives the answers of its server, in their order, and keeps the headers of the requests."""

    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((f"{self.command} {self.path}", dict(self.headers)))
        status, headers, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value.replace("ORIGIN", self.server.url))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


Scene = tuple[int, dict[str, str], str]


class Server(ThreadingHTTPServer):
    def __init__(self, answers: Sequence[Scene]) -> None:
        super().__init__(("127.0.0.1", 0), Scripted)
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(*answers: Scene) -> Iterator[Server]:
    with Server(answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


TAKEN: Scene = (202, {"Location": "ORIGIN/v1/tasks/1"}, "{}")
RUNNING = '{"Status": "half", "BackendStatus": "running"}'
WITH_RESULT = '{"Status": "done", "BackendStatus": "completed", "ResultSize": 1}'
AT_ONCE = {"Retry-After": "0"}


def test_what_is_not_there_yet_is_tried_again_with_one_key_of_idempotency() -> None:
    with serving(
        (503, AT_ONCE, ""),
        (429, AT_ONCE, ""),
        TAKEN,
        (502, AT_ONCE, ""),
        (200, {}, RUNNING),
        (200, AT_ONCE, RUNNING),
        (200, {}, WITH_RESULT),
        (200, {}, "6"),
    ) as server:
        done = smoke(f"{server.url}/v1/words/count", KEY="s3cret")
    assert (done.returncode, done.stderr) == (0, "")
    # What has not changed is not said again.
    assert done.stdout.splitlines()[-4:] == [
        "202, and the task is at " + server.url + "/v1/tasks/1",
        "running: half",
        "completed: done",
        "The result: 6",
    ]
    asked, headers = zip(*server.requests, strict=True)
    waited = ["GET /v1/tasks/1?wait=30"] * 4
    assert [*asked] == [*["POST /v1/words/count"] * 3, *waited, "GET /v1/tasks/1/result"]
    assert len({each["Idempotency-Key"] for each in headers[:3]}) == 1
    assert {each["Ocp-Apim-Subscription-Key"] for each in headers} == {"s3cret"}
    assert "s3cret" not in done.stdout


def test_a_task_without_a_result_is_completed_too() -> None:
    with serving(TAKEN, (200, {}, WITH_RESULT.replace("1", "null"))) as server:
        done = smoke(f"{server.url}/v1/words", KEY="k")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "It has no result."


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([(202, {"Location": "http://10.0.0.4/api/v1/tasks/1"}, "")], "Location leads away from ORIGIN: "),
        ([(202, {}, "")], "Location leads away from ORIGIN: "),
        ([(200, {}, "{}")], "ORIGIN/v1/words answers 200 and no Location: is it a path of the former platform?"),
        ([(404, {}, "nothing")], "ORIGIN/v1/words is 404: the gateway or BACKENDS has no such path: nothing"),
        ([(413, {}, "too large")], "ORIGIN/v1/words answers 413 in place of 202: too large"),
        ([TAKEN, (404, {}, "not yours")], "ORIGIN/v1/tasks/1 answers 404: not yours"),
        (
            [TAKEN, (200, {}, '{"Status": "cancelled", "BackendStatus": "cancelled"}')],
            "The task is cancelled: cancelled",
        ),
        (
            [TAKEN, (200, {}, WITH_RESULT), (404, {}, "none")],
            "ORIGIN/v1/tasks/1/result answers 404: none",
        ),
    ],
    ids=lambda given: given.removeprefix("ORIGIN") if isinstance(given, str) else "",
)
def test_each_failure_has_its_sentence(answers: list[Scene], sentence: str) -> None:
    with serving(*answers) as server:
        done = smoke(f"{server.url}/v1/words", KEY="k")
    assert done.returncode == 1
    assert done.stderr.startswith(sentence.replace("ORIGIN", server.url))
