"""A model service that behaves as a file says, and keeps a journal: ``python -m tests.faults.model_service``.

Endpoints below ``/v1/fault/legacy`` behave like legacy services: they send no ``Attempt`` and store no result. A
``first`` step sends its task to the ``second`` as its next step, with a new body. A ``piped`` step completes, with
that body as its result, and the task's pipeline goes on to the ``second``. An ``answer`` endpoint answers with the
result. A ``rated`` endpoint gets tasks only so often. An ``uploaded`` endpoint gets the URL of a body that its caller
has uploaded, and uploads its result. Some attempts of a modern service store a checkpoint and give the task back; a
later one fails the task if it finds another checkpoint. A modern service tells on each path how many tasks it holds,
though the paths share that.
The last status text of a task holds the SHA-256 of the body, which shows that it arrived intact. A GET returns the
number of workers.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

PREFIX: Final = "/v1/fault"
MODERN, LEGACY = f"{PREFIX}/modern", f"{PREFIX}/legacy"
FIRST, SECOND, ANSWER, PIPED = "/first", "/second", "/answer", "/piped"
UPLOADED: Final = "/uploaded"
RATED: Final = "/rated"
CONTENT_TYPE: Final = "application/json"
SLOTS = 48
WORK_S = 0.05
STALL_S = 3.0
RELEASED_SHARE, COMPLETING_SHARE = 0.1, 0.5
"""Of the attempts: those that are given back, and those whose result completes the task in one step."""
REPEAT_S = 0.1
GIVE_UP_S = 60.0
REPEAT_FOR_S = 10.0
TELLING: Final = {"X-Task-Slots": str(SLOTS), "X-Task-Instance": f"service-{os.getpid()}"}


class Behaviour(StrEnum):
    """How the service answers a dispatch."""

    WORK = "work"
    STALL = "stall"
    """Works, but about every second task begins after a silence of ``STALL_S``."""
    DIE = "die"
    """Accepts, and is killed before it does the work."""
    HANG = "hang"
    """Reads the request and never answers."""
    GARBAGE = "garbage"
    """Answers with one of ``GARBAGE``, and does no work."""


GARBAGE: Final = {
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    "teapot": b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    "cut head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 1_048_576 + b"\r\nContent-Length: 0\r\n\r\n",
    "endless body": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "status of five digits": b"HTTP/1.1 20000 OK\r\nContent-Length: 0\r\n\r\n",
    "no end of informational answers": b"HTTP/1.1 102 Processing\r\n\r\n",
}
"""Raw answers."""
_ENDLESS: Final = {
    "endless body": b"10000\r\n" + b"x" * 0x10000 + b"\r\n",
    "no end of informational answers": GARBAGE["no end of informational answers"] * 100,
}
"""The bytes that follow such an answer for as long as the caller reads."""


TAKEN: Final = "taken"
REPORTED: Final = "reported"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: a dispatch that came in, or a report that the backbone accepted."""

    task_id: str
    attempt: int
    path: str
    what: str
    """``reported`` for a report; ``taken``, ``busy`` or another treatment for a dispatch."""
    reported: str = ""
    """The ``BackendStatus`` of a report; empty for a result."""

    @property
    def is_report(self) -> bool:
        return self.what == REPORTED

    def line(self) -> str:
        return "\t".join((self.task_id, str(self.attempt), self.path, self.what, self.reported)) + "\n"


def read_journal(file: Path) -> Iterator[Entry]:
    for line in file.read_text().split("\n")[:-1] if file.exists() else ():
        task_id, attempt, path, what, reported = line.split("\t")
        yield Entry(task_id, int(attempt), path, what, reported)


def next_body(body: bytes) -> bytes:
    """The body that a first step sends to the second one."""
    return hashlib.sha256(body).hexdigest().encode()


def last_status(path: str, body: bytes) -> str:
    """The ``Status`` of a completed task that was submitted to *path* with *body*."""
    last = next_body(body) if path.endswith((FIRST, PIPED)) else body
    return f"completed - {hashlib.sha256(last).hexdigest()}"


def result_of(path: str, body: bytes) -> bytes:
    """The result of such a task; it is as large as the body of its last step."""
    last = next_body(body) if path.endswith((FIRST, PIPED)) else body
    return hashlib.shake_256(last).digest(len(last))


def checkpoint_of(body: bytes) -> bytes:
    """What an attempt at a step with this *body* keeps for the next one."""
    return hashlib.shake_128(body).digest(len(body))


def write_blob(url: str, data: bytes) -> bool:
    """Write an upload; returns whether Blob Storage took it."""
    with suppress(httpx.TransportError):
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": CONTENT_TYPE}
        return httpx.put(url, content=data, headers=headers, timeout=REPEAT_FOR_S).status_code == 201
    return False


def read_blob(url: str) -> bytes | None:
    """What is at a URL of Blob Storage; None if it does not answer."""
    with suppress(httpx.TransportError):
        response = httpx.get(url, timeout=REPEAT_FOR_S)
        return response.content if response.status_code == 200 else None
    return None


_WORKER: Final = "worker"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


class _Service:
    def __init__(self, url: str, behaviour: Path, journal: Path, app: httpx.Client) -> None:
        self._url = url
        self._behaviour = behaviour
        # Written lines survive a kill -9: the kernel has them already.
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._app = app

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(self._behaviour.read_text())

    def note(self, entry: Entry) -> None:
        os.write(self._journal, entry.line().encode())

    @property
    def workers(self) -> int:
        return sum(thread.name == _WORKER for thread in threading.enumerate())

    def take(self, task_id: str, attempt: int, path: str, body: bytes) -> bool:
        """Begin the work if a slot is free; return whether one was."""
        is_free = self._slots.acquire(blocking=False)
        self.note(Entry(task_id, attempt, path, TAKEN if is_free else "busy"))
        if is_free:
            threading.Thread(
                target=self._work, args=(task_id, attempt, path, body), name=_WORKER, daemon=True
            ).start()
        return is_free

    def answer(self, task_id: str, attempt: int, path: str) -> bool:
        """Do the work before the answer if a slot is free; return whether one was."""
        is_free = self._slots.acquire(blocking=False)
        self.note(Entry(task_id, attempt, path, TAKEN if is_free else "busy"))
        if is_free:
            time.sleep(WORK_S)
            self._slots.release()
        return is_free

    def _work(self, task_id: str, attempt: int, path: str, body: bytes) -> None:
        is_legacy = path.startswith(LEGACY)
        if self.behaviour is Behaviour.STALL and random.random() < 0.5:
            time.sleep(STALL_S)
        speaks_for = {} if is_legacy else {"Attempt": attempt}

        def update(state: str, **members: object) -> tuple[str, httpx.Request]:
            document = {"TaskId": task_id, "BackendStatus": state, **speaks_for, **members}
            headers = {} if is_legacy else TELLING
            return state, self._app.build_request("POST", "/api/CacheConnectorUpsert", json=document, headers=headers)

        def put(what: str, content: bytes, **headers: str) -> httpx.Request:
            headers = {"X-Task-Attempt": str(attempt)} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            return self._app.build_request("PUT", f"/api/v1/tasks/{task_id}/{what}", content=content, headers=headers)

        steps = [update("running")]
        if not is_legacy and attempt > 1 and self._has_another_checkpoint(task_id, body):
            steps.append(update("failed", Status="failed - it has another checkpoint"))
        elif not is_legacy and random.random() < RELEASED_SHARE:
            release = self._app.build_request(
                "POST",
                f"/api/v1/tasks/{task_id}/release",
                json={"Status": "the service is stopping"},
                headers=TELLING | {"X-Task-Attempt": str(attempt)},
            )
            steps += [("", put("checkpoint", checkpoint_of(body))), ("created", release)]
        elif path.endswith(FIRST):
            second = f"{self._url}{path.removesuffix(FIRST)}{SECOND}"
            steps.append(update("created", Endpoint=second, PublishToGrid=True, Body=next_body(body).decode()))
        else:
            is_piped = path.endswith(PIPED)
            result = next_body(body) if is_piped else result_of(path, body)
            status = "completed" if is_piped else last_status(path, body)
            upload: dict[str, str] = {}
            if path.endswith(UPLOADED):
                upload_id = self._upload(task_id, attempt, result)
                if upload_id is None:
                    self._slots.release()
                    return  # another attempt has the task, or the lease ends
                result, upload = b"", {"X_Upload": upload_id}
            if not is_legacy and random.random() < COMPLETING_SHARE:
                steps.append(("completed", put("result", result, X_Task_Complete=quote(status), **upload)))
            else:
                if not is_legacy:
                    steps.append(("", put("result", result, **upload)))
                steps.append(update("completed", Status=status))
        try:
            for state, request in steps:
                if self._answer_to(request) != 200:
                    return  # another attempt has the task
                self.note(Entry(task_id, attempt, path, REPORTED, state))
                time.sleep(WORK_S)
        finally:
            self._slots.release()

    def _upload(self, task_id: str, attempt: int, result: bytes) -> str | None:
        """Upload the result of an attempt; None if that is over, or after ``GIVE_UP_S``."""
        deadline_s = time.monotonic() + GIVE_UP_S
        declared = {"Size": len(result), "ContentType": CONTENT_TYPE, "TaskId": task_id}
        while time.monotonic() < deadline_s:
            with suppress(httpx.TransportError):
                headers = {"X-Task-Attempt": str(attempt)}
                response = self._app.post("/api/v1/uploads", json=declared, headers=headers)
                if response.status_code == 201:
                    upload = response.json()
                    if write_blob(upload["Url"], result):
                        return upload["UploadId"]
                elif response.status_code < 500 and response.status_code != 429:
                    return None
            time.sleep(REPEAT_S)
        return None

    def _has_another_checkpoint(self, task_id: str, body: bytes) -> bool:
        with suppress(httpx.TransportError):
            response = self._app.get(f"/api/v1/tasks/{task_id}/checkpoint")
            return response.status_code == 200 and response.content != checkpoint_of(body)
        return False

    def _answer_to(self, request: httpx.Request) -> int:
        """Repeat *request* until its status is final, and return that; 0 after ``GIVE_UP_S``."""
        deadline_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline_s:
            with suppress(httpx.TransportError):
                status = self._app.send(request).status_code
                if status < 500 and status != 429:
                    return status
            time.sleep(REPEAT_S)
        return 0


def main() -> None:
    port, behaviour, journal = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    app = httpx.Client(
        base_url=os.environ["BACKBONE_URL"], headers={"x-functions-key": os.environ["BACKBONE_KEY"]}, timeout=20
    )
    url = f"http://127.0.0.1:{port}"
    service = _Service(url, behaviour, journal, app)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, str(service.workers).encode())

        def do_POST(self) -> None:
            body: bytes | None = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path
            if (url := self.headers["X-Task-Body"]) is not None:
                body = read_blob(url)
                if body is None or len(body) != int(self.headers["X-Task-Body-Length"]):
                    self._answer(503)
                    return
            call = self.headers["taskId"], int(self.headers["X-Task-Attempt"]), path
            match service.behaviour:
                case Behaviour.WORK | Behaviour.STALL if path.endswith(ANSWER):
                    if service.answer(*call):
                        self._answer(200, result_of(path, body), {"X-Task-Complete": quote(last_status(path, body))})
                    else:
                        self._answer(503)
                case Behaviour.WORK | Behaviour.STALL:
                    telling = {} if path.startswith(LEGACY) else TELLING
                    self._answer(200 if service.take(*call, body) else 503, headers=telling)
                case Behaviour.DIE:
                    service.note(Entry(*call, TAKEN))
                    self._answer(200)
                    os.kill(os.getpid(), signal.SIGKILL)
                case Behaviour.HANG:
                    service.note(Entry(*call, "hung"))
                    while service.behaviour is Behaviour.HANG:
                        time.sleep(0.05)
                    self.close_connection = True
                case Behaviour.GARBAGE:
                    name = random.choice([*GARBAGE])
                    service.note(Entry(*call, name))
                    self.close_connection = True
                    with suppress(ConnectionError):
                        self.wfile.write(GARBAGE[name])
                        while more := _ENDLESS.get(name):
                            self.wfile.write(more)

        def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            if status == 503:
                self.send_header("Retry-After", "0")
            with suppress(ConnectionError):  # the caller has hung up
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
            return

    server = _Server(("127.0.0.1", port), Handler)
    sys.stdout.write(f"READY {url}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
