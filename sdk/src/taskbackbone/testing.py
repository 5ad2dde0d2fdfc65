"""The backbone in your own tests, without Redis or Azure.

A :class:`PlayedBackbone` dispatches tasks to one model service and answers its calls as the backbone does. Leases go
by a clock that stands still until the test advances it::

    from taskbackbone.testing import PlayedBackbone

    def test_it_counts_words():
        with PlayedBackbone() as backbone, backbone.start([sys.executable, "words.py"]):
            task = backbone.submit("/v1/words/count", "to be or not to be").wait()
            assert task.json() == {"words": 6}

With ``pytest_plugins = ["taskbackbone.pytest_plugin"]`` in ``conftest.py``, tests get one as ``played_backbone``.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, cast
from urllib.parse import urlsplit

from ._dispatch import Answer, free_port, is_up, post
from ._played import Content, Problem, Record, Tasks
from ._played_api import Api, Call, Reply, chunked
from ._played_storage import ROOT, digest
from ._storage import PLACES

__all__ = ["Answer", "Call", "Content", "PlayedBackbone", "PlayedTask", "ServiceEnded"]

PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.02
_PAUSE_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between two dispatches that the service refuses, or that do not reach it."""


class ServiceEnded(Exception):
    """Raised when a model service ends before it is ready. The message has the end of what it printed."""


class PlayedTask(Record):
    """A task of a played backbone. Beside what a record has:

    Attributes:
        answers: of the service to its dispatches.
        lease_was_ended: whether the test has ended a lease of it.
    """

    backbone: PlayedBackbone
    answers: list[Answer]
    lease_was_ended = False
    is_by_reference = False

    def __repr__(self) -> str:
        return f"<task {self.id}: {self.state}, attempt {self.attempt}, {self.status!r}>"

    @property
    def calls(self) -> list[Call]:
        """What the service has sent for it."""
        return [call for call in list(self.backbone.calls) if call.of(self.id)]

    def json(self) -> Any:
        """The result, read as JSON."""
        assert self.result is not None, f"{self!r} has no result"
        return json.loads(self.result.data)

    def until(self, condition: Callable[[PlayedTask], Any], timeout_s: float = PATIENCE_S) -> PlayedTask:
        """Wait until the *condition* holds. Raises AssertionError if it does not."""
        self.backbone.until(lambda: condition(self), timeout_s, self)
        return self

    def wait(self, timeout_s: float = PATIENCE_S) -> PlayedTask:
        """Wait until it has ended. Raises AssertionError if it does not."""
        return self.until(lambda task: task.has_ended, timeout_s)

    def cancel(self) -> None:
        """As a caller does: the service learns of it by a 409."""
        with self.backbone.changed:
            self.backbone.tasks.cancel(self)
            self.backbone.changed.notify_all()

    def dispatch_again(self) -> Answer:
        """Send its attempt once more, as the backbone does if a connection breaks."""
        return self.backbone.send(self, self.attempt)

    def end_lease(self) -> None:
        """The service has been silent for too long: the attempt has failed."""
        self.lease_was_ended = True
        with self.backbone.changed:
            self.due_s = 0
            self.backbone.tasks.sweep()
            self.backbone.changed.notify_all()


class PlayedBackbone:
    """The backbone for one model service.

    Args:
        service_url: where the service listens; :meth:`start` sets it.
        key: what the service must send as ``x-functions-key``; empty: any key.
        host, port: where it listens itself; port 0 is a free one.
        lease_s: how long a task may be silent.
        max_attempts: so many failed attempts make a task fail.
        max_body_bytes: a larger body gets 413.
        max_upload_bytes: a larger upload gets 413; 0: there are none.
        host_body_bytes: a larger body gets an empty 500, and the connection ends.
        dispatch_timeout_s: how long the service may take to accept a task.
        dispatches: whether it dispatches by itself; if not, tasks wait for :meth:`dispatch`.
        now_s: a clock, in seconds since 1970. Without one, time stands still until :meth:`advance`.

    Attributes:
        calls: all that the service has sent.
        fault: is asked before a call is answered: for a status to answer with instead, 0 to hang up, or None.
        on_applied: is told of a call that has had its effect, before it is answered.
        slots: how many tasks each instance of the service has told that it holds.
    """

    def __init__(
        self,
        service_url: str = "",
        *,
        key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        lease_s: float = 300.0,
        max_attempts: int = 10,
        max_body_bytes: int = 100 * 1024**2,
        max_upload_bytes: int = 100 * 1024**3,
        host_body_bytes: int = 100 * 1024**2,
        dispatches: bool = True,
        dispatch_timeout_s: float = 25.0,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self.service_url = service_url
        self.key = secrets.token_urlsafe(18) if key is None else key
        self.calls: list[Call] = []
        self.fault: Callable[[Call], int | None] | None = None
        self.on_applied: Callable[[Call], None] = lambda call: None
        self.changed = threading.Condition(threading.RLock())
        self._advanced_s, started_s = 0.0, time.time()
        self.tasks = Tasks(now_s or (lambda: started_s + self._advanced_s), lease_s, max_attempts)
        self.api = Api(self.tasks, self.key, min(max_body_bytes, host_body_bytes), max_upload_bytes)
        self.slots: Mapping[str, int] = self.api.slots
        self.host_body_bytes = host_body_bytes
        self._timeout_s = dispatch_timeout_s
        self._on_the_way = 0
        self._refused, self._paused_until_s = 0, 0.0
        self._is_closed = False
        self._server = _Server((host, port), _handler(self))
        self.url = self.api.url = f"http://{host}:{self._server.server_address[1]}"
        runs = [lambda: self._server.serve_forever(_LOOK_EVERY_S), *([self._dispatch_all] if dispatches else [])]
        self._threads = [threading.Thread(target=run, daemon=True) for run in runs]
        for thread in self._threads:
            thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a service finds the backbone."""
        key = self.key or "any"
        legacy = {
            "CACHE_CONNECTOR_UPSERT_URI": "CacheConnectorUpsert",
            "CACHE_CONNECTOR_GET_URI": "CacheConnectorGet",
            "REQUEST_REPORTER_URI": "CurrentProcessingUpsert",
        }
        urls = {name: f"{self.url}/api/{function}?code={key}" for name, function in legacy.items()}
        return {"BACKBONE_URL": self.url, "BACKBONE_KEY": key, PLACES: self.url + ROOT, **urls}

    @property
    def all_tasks(self) -> list[PlayedTask]:
        return [cast("PlayedTask", record) for record in list(self.tasks.records.values())]

    @property
    def held(self) -> int:
        """How many tasks hold a slot of the service."""
        return sum(task.holds_slot for task in self.all_tasks)

    def submit(
        self,
        path: str,
        body: bytes | str | dict[str, Any] | list[Any] = b"",
        *,
        content_type: str = "",
        query: str = "",
        pipeline: Sequence[str] = (),
        traceparent: str = "",
        by_reference: bool = False,
        start_after_s: float | None = None,
        start_before_s: float | None = None,
        max_run_s: float | None = None,
    ) -> PlayedTask:
        """A new task. A dict or a list goes as JSON.

        Args:
            pipeline: where it goes on: paths, each perhaps with a query.
            by_reference: the dispatch only names the body, as that of a large one does, and the service fetches it.
            start_after_s: it is dispatched so much later, by the clock.
            start_before_s: it fails unless the service has accepted it by then.
            max_run_s: an attempt that runs for longer has failed, whatever the service reports meanwhile.
        """
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        if isinstance(body, str):
            kind, data = "text/plain; charset=utf-8", body.encode()
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.tasks.endpoint_url, now_s = self.service_url, self.tasks.now_s()
        content = Content(data, content_type or kind)
        given = str(uuid.uuid4()), path, query, content, self.tasks.lease_s, traceparent, now_s, now_s
        task = PlayedTask(*given)
        task.backbone, task.answers, task.is_by_reference = self, [], by_reference
        task.pipeline = [(step.partition("?")[0], step.partition("?")[2]) for step in pipeline]
        task.start_s = None if start_after_s is None else now_s + start_after_s
        task.expires_s = None if start_before_s is None else now_s + start_before_s
        task.max_run_s = max_run_s
        with self.changed:
            self.tasks.add(task)
            self.changed.notify_all()
        return task

    def advance(self, seconds: float) -> None:
        """Let time pass, once the dispatches on their way are answered."""
        with self.changed:
            self.changed.wait_for(lambda: not self._on_the_way, self._timeout_s)
            self._advanced_s += seconds
            self.tasks.sweep()
            self._paused_until_s = 0.0
            self.changed.notify_all()

    def fail_next(self, times: int = 1, status: int = 500) -> None:
        """Answer the next calls with an empty *status*, or hang up on them if it is 0."""
        left = [status] * times
        self.fault = lambda call: left.pop() if left else None

    def until(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S, what: Any = "") -> None:
        """Wait until the *condition* holds. Raises AssertionError if it does not."""
        assert self.wait_for(condition, timeout_s), f"waited {timeout_s:g} s in vain. {what}"

    def wait_for(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Wait until the *condition* holds. Returns whether it does."""
        deadline_s = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                self.tasks.sweep()
                if time.monotonic() > deadline_s:
                    return False
                self.changed.wait(_LOOK_EVERY_S)
            return True

    def dispatch(self, task: PlayedTask) -> Answer:
        """Dispatch a waiting task now, whether or not the service has room."""
        with self.changed:
            self.tasks.claim(task)
            attempt = task.attempt
        return self._deliver(task, attempt)

    def send(self, task: PlayedTask, attempt: int) -> Answer:
        """POST an attempt, whatever follows from the answer."""
        headers = {
            "taskId": task.id,
            "X-Task-Attempt": str(attempt),
            "X-Task-Lease": f"{task.lease_s:g}",
            "Content-Type": task.body.content_type,
            "traceparent": task.traceparent,
            **({"Content-Encoding": task.body.encoding} if task.body.encoding else {}),
        }
        data = task.body.data
        if task.is_by_reference or len(data) > self.api.max_body_bytes:
            headers["X-Task-Body"] = self.url + self.api.storage.link(task.body)
            headers.update({"X-Task-Body-Length": str(len(data)), "Repr-Digest": digest(task.body)})
            data = b""
        url = self.service_url + task.path + (f"?{task.query}" if task.query else "")
        return post(url, headers, data, self._timeout_s)

    @contextmanager
    def start(
        self,
        command: Sequence[str | Path],
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_s: float = PATIENCE_S,
    ) -> Generator[subprocess.Popen[bytes], None, None]:
        """Run a service that listens on ``PORT``, a free *port* if none is given. It is stopped afterwards, and after
        *stop_s* killed.

        Raises:
            ServiceEnded: it has ended before that.
        """
        port = port or free_port()
        own = {**os.environ, **self.environment, "PORT": str(port), **(environment or {})}
        with tempfile.TemporaryFile() as log:
            arguments = [str(part) for part in command]
            process = subprocess.Popen(arguments, env=own, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
            try:
                self.service_url = f"http://127.0.0.1:{port}"
                while not is_up(self.service_url, until_loaded=False) and process.poll() is None:
                    time.sleep(_LOOK_EVERY_S)
                if process.poll() is not None:
                    log.seek(0)
                    printed = log.read()[-2000:].decode(errors="replace")
                    raise ServiceEnded(f"{Path(arguments[0]).name} ended with {process.returncode}: {printed}")
                yield process
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(stop_s)
                process.kill()
                process.wait()

    def close(self) -> None:
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> PlayedBackbone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, call: Call, refusal: Reply | None = None) -> Reply:
        """What a call gets; status 0: the connection is closed."""
        call.at_s = time.monotonic()
        is_stored = call.path.startswith(ROOT) and refusal is None
        if is_stored:
            call.kind = "storage"
        fault = self.fault(call) if self.fault and not refusal else None
        if is_stored:
            return Reply(*self.api.storage.answer(call)) if fault is None else Reply(fault)
        with self.changed:
            reply = refusal or (self.api.answer(call) if fault is None else Reply(fault))
            call.status = reply.status
            self.calls.append(call)
            if call.ends or call.kind in ("release", "next") or "x-task-slots" in call.headers:
                is_gone = call.headers.get("x-task-slots") == "0"
                self._refused, self._paused_until_s = 0, time.monotonic() + 0.2 if is_gone else 0.0
            self.changed.notify_all()
        self.on_applied(call)
        return reply

    def _deliver(self, task: PlayedTask, attempt: int) -> Answer:
        answer = self.send(task, attempt)
        with self.changed:
            task.answers.append(answer)
            with suppress(Problem):
                self.api.take_told(answer.headers)
            answer.settle(self.tasks, task, attempt)
            pause_s = 0 if answer.is_taken else _PAUSE_S[min(self._refused, len(_PAUSE_S) - 1)]
            self._refused = 0 if answer.is_taken else self._refused + 1
            self._paused_until_s = time.monotonic() + pause_s
            self.changed.notify_all()
        return answer

    def _dispatch_all(self) -> None:
        with self.changed:
            while not self._is_closed:
                self.tasks.sweep()
                task = self._next()
                if task is None:
                    self.changed.wait(_LOOK_EVERY_S if self._refused else 0.5)
                    continue
                self.tasks.claim(task)
                self._on_the_way += 1
                threading.Thread(target=self._deliver_one, args=(task, task.attempt), daemon=True).start()

    def _deliver_one(self, task: PlayedTask, attempt: int) -> None:
        try:
            self._deliver(task, attempt)
        finally:
            with self.changed:
                self._on_the_way -= 1
                self.changed.notify_all()

    def _next(self) -> PlayedTask | None:
        """The task to dispatch now, if there is one and there is room."""
        told = sum(self.slots.values())
        has_room, is_probe = self.held < told, self._on_the_way == 0 and (not told or self._refused)
        if not (has_room or is_probe) or not self.service_url or time.monotonic() < self._paused_until_s:
            return None
        return next((task for task in self.all_tasks if task.state == "created" and task.due_s is None), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # by default 5: more at once would wait for seconds

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A service may hang up."""


def _handler(backbone: PlayedBackbone) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one(self) -> None:
            split = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            call, refusal = Call(self.command, split.path, split.query, headers), None
            size_bytes = int(headers.get("content-length") or 0)
            if "chunked" in headers.get("transfer-encoding", ""):
                refusal = chunked()
            elif size_bytes > backbone.host_body_bytes:  # as the Functions host does, which reads no such body
                refusal = Reply(500)
            else:
                call.body = self.rfile.read(size_bytes)
            reply = backbone.answer(call, refusal)
            self.close_connection = bool(refusal) or not reply.status or self.close_connection
            if reply.status:
                with suppress(OSError):
                    self._send(reply)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 (the base class names them)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
            return

    return Handler
