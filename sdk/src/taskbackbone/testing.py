"""The backbone in your own tests, without Redis or Azure.

A :class:`PlayedBackbone` dispatches tasks to one model service and answers its calls as the backbone does: attempts,
leases, results, checkpoints, releases, 409. Leases go by a clock that stands still until the test advances it::

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
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from taskbackbone._dispatch import ACCEPTED, Answer, free_port, is_listening, post
from taskbackbone._played import Content, Record, Tasks
from taskbackbone._played_api import Api, Call, Reply, length_required, problem_reply

__all__ = ["Answer", "Call", "Content", "PlayedBackbone", "PlayedTask", "ServiceEnded"]

PATIENCE_S = 60.0
DISPATCH_TIMEOUT_S = 25.0
_PAUSE_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between two dispatches that the service refuses, or that do not reach it."""

Fault = Callable[[Call], Optional[int]]
"""Answers with a status in place of the backbone; 0 hangs up. None: the backbone answers."""


class ServiceEnded(Exception):
    """Raised when a model service ends before it is ready. The message has the end of what it printed."""


class PlayedTask:
    """A task of a played backbone.

    Attributes:
        answers: the answers of the service to its dispatches.
        lease_was_ended: whether the test has ended a lease of it.
    """

    def __init__(self, backbone: PlayedBackbone, record: Record) -> None:
        self._backbone = backbone
        self._record = record
        self.answers: list[Answer] = []
        self.lease_was_ended = False

    def __repr__(self) -> str:
        return f"<task {self.id}: {self.state}, attempt {self.attempt}, {self.status!r}>"

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def state(self) -> str:
        """``created``, ``dispatched``, ``running``, ``completed``, ``failed`` or ``cancelled``."""
        return self._record.state

    @property
    def status(self) -> str:
        """The text for the caller."""
        return self._record.status

    @property
    def attempt(self) -> int:
        return self._record.attempt

    @property
    def failures(self) -> int:
        return self._record.failures

    @property
    def progress(self) -> float | None:
        return self._record.progress

    @property
    def checkpoint(self) -> bytes | None:
        return self._record.checkpoint.data if self._record.checkpoint else None

    @property
    def has_ended(self) -> bool:
        return self._record.has_ended

    @property
    def is_done(self) -> bool:
        """Whether it has ended, or its text tells that it will."""
        return self._record.has_ended or self._record.deferred is not None

    @property
    def result(self) -> Content | None:
        return self._record.result

    @property
    def history(self) -> list[dict[str, Any]]:
        return list(self._record.history)

    @property
    def calls(self) -> list[Call]:
        """What the service has sent for it."""
        return [call for call in list(self._backbone.calls) if call.of(self.id)]

    def json(self) -> Any:
        """The result, read as JSON."""
        assert self.result is not None, f"{self!r} has no result"
        return json.loads(self.result.data)

    def until(self, condition: Callable[[PlayedTask], Any], timeout_s: float = PATIENCE_S) -> PlayedTask:
        """Wait until the *condition* holds.

        Raises:
            AssertionError: it did not within *timeout_s*.
        """
        self._backbone.until(lambda: condition(self), timeout_s, self.__repr__)
        return self

    def wait(self, timeout_s: float = PATIENCE_S) -> PlayedTask:
        """Wait until it has ended."""
        return self.until(lambda task: task.has_ended, timeout_s)

    def cancel(self) -> None:
        """As a caller does: the service learns of it by a 409."""
        with self._backbone.changed:
            self._backbone.tasks.cancel(self._record)
            self._backbone.changed.notify_all()

    def dispatch_again(self) -> Answer:
        """Send the attempt that the service has once more, as the backbone does if a connection breaks."""
        return self._backbone.send(self._record, self.attempt)

    def end_wait(self) -> None:
        """Let it be dispatched now if it was released for a while."""
        with self._backbone.changed:
            if self.state == "created":
                self._record.due_s = None
            self._backbone.changed.notify_all()

    def end_lease(self) -> None:
        """The service has been silent for too long: the attempt has failed."""
        self.lease_was_ended = True
        with self._backbone.changed:
            self._record.due_s = self._backbone.tasks.now_s()
            self._backbone.tasks.sweep()
            self._backbone.changed.notify_all()


class PlayedBackbone:
    """The backbone for one model service.

    Args:
        service_url: where the service listens; :meth:`start` sets it.
        key: what the service must send as ``x-functions-key``; empty: any key.
        host, port: where it listens itself; port 0 is a free one.
        lease_s: how long a task may be silent.
        max_attempts: so many failed attempts make a task fail.
        max_body_bytes: a larger body gets 413. Health tells it.
        host_body_bytes: a larger body gets an empty 500, and the connection ends.
        dispatch_timeout_s: how long the service may take to accept a task.
        dispatches: whether it dispatches by itself: what the service has told that it holds, or one task after the
            other until it refuses. If not, tasks wait for :meth:`dispatch`.
        now_s: a clock, in seconds since 1970. Without one, time stands still until :meth:`advance`.
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
        host_body_bytes: int = 100 * 1024**2,
        dispatches: bool = True,
        dispatch_timeout_s: float = DISPATCH_TIMEOUT_S,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self.service_url = service_url
        self.key = secrets.token_urlsafe(18) if key is None else key
        self.calls: list[Call] = []
        self.fault: Fault | None = None
        """Is asked before each call is answered."""
        self.on_applied: Callable[[Call], None] = lambda call: None
        """Is called when a call has had its effect, before its answer is sent."""
        self.changed = threading.Condition(threading.RLock())
        self._advanced_s, started_s = 0.0, time.time()
        self.tasks = Tasks(now_s or (lambda: started_s + self._advanced_s), lease_s, max_attempts)
        self.api = Api(self.tasks, self.key, min(max_body_bytes, host_body_bytes))
        self.host_body_bytes = host_body_bytes
        self._timeout_s = dispatch_timeout_s
        self._played: dict[str, PlayedTask] = {}
        self._on_the_way = 0
        self._refused, self._paused_until_s = 0, 0.0
        self._is_closed = False
        self._server = _Server((host, port), _handler(self))
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._threads = [threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)]
        if dispatches:
            self._threads.append(threading.Thread(target=self._dispatch_all, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a service finds the backbone; those of legacy services too."""
        code = f"?code={self.key or 'any'}"
        return {
            "BACKBONE_URL": self.url,
            "BACKBONE_KEY": self.key or "any",
            "CACHE_CONNECTOR_UPSERT_URI": f"{self.url}/api/CacheConnectorUpsert{code}",
            "CACHE_CONNECTOR_GET_URI": f"{self.url}/api/CacheConnectorGet{code}",
            "REQUEST_REPORTER_URI": f"{self.url}/api/CurrentProcessingUpsert{code}",
        }

    @property
    def slots(self) -> Mapping[str, int]:
        """How many tasks each instance of the service has told that it holds."""
        return self.api.slots

    @property
    def held(self) -> int:
        """How many tasks hold a slot of the service."""
        return sum(record.holds_slot for record in list(self.tasks.records.values()))

    @property
    def all_tasks(self) -> list[PlayedTask]:
        return list(self._played.values())

    def submit(
        self,
        path: str,
        body: bytes | str | dict[str, Any] | list[Any] = b"",
        *,
        content_type: str = "",
        query: str = "",
        traceparent: str = "",
    ) -> PlayedTask:
        """A new task. Without a *content_type*, it is that of bytes, of text, or of JSON for a dict or a list."""
        if isinstance(body, (dict, list)):
            data, kind = json.dumps(body).encode(), "application/json"
        elif isinstance(body, str):
            data, kind = body.encode(), "text/plain; charset=utf-8"
        else:
            data, kind = body, "application/octet-stream"
        self.tasks.endpoint_url = self.service_url
        with self.changed:
            record = self.tasks.create(path, query, Content(data, content_type or kind), traceparent=traceparent)
            self.changed.notify_all()
            return self._face(record)

    def advance(self, seconds: float) -> None:
        """Let time pass: leases end, and released tasks have waited. Dispatches on their way are answered first."""
        with self.changed:
            self.changed.wait_for(lambda: not self._on_the_way, self._timeout_s)
            self._advanced_s += seconds
            self.tasks.sweep()
            self._refused, self._paused_until_s = 0, 0.0
            self.changed.notify_all()

    def fail_next(self, times: int = 1, status: int = 500) -> None:
        """Answer the next calls with an empty *status*, or hang up on them if it is 0."""
        left = [status] * times
        self.fault = lambda call: left.pop() if left else None

    def until(
        self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S, what: Callable[[], str] = str
    ) -> None:
        """As :meth:`wait_for`.

        Raises:
            AssertionError: the condition did not hold within *timeout_s*.
        """
        assert self.wait_for(condition, timeout_s), f"waited {timeout_s:g} s in vain. {what()}"

    def wait_for(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Wait until the *condition* holds. Returns whether it does."""
        deadline_s = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                self.tasks.sweep()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self.changed.wait(min(left_s, 0.02))
            return True

    def dispatch(self, task: PlayedTask) -> Answer:
        """Dispatch a waiting task now, whether or not the service has room."""
        record = self.tasks.records[task.id]
        with self.changed:
            self.tasks.claim(record)
            attempt = record.attempt
        return self._deliver(record, attempt)

    def send(self, record: Record, attempt: int) -> Answer:
        """POST an attempt, whatever follows from the answer."""
        headers = {
            "taskId": record.id,
            "X-Task-Attempt": str(attempt),
            "X-Task-Lease": f"{record.lease_s:g}",
            "Content-Type": record.body.content_type,
            "traceparent": record.traceparent,
            **({"Content-Encoding": record.body.encoding} if record.body.encoding else {}),
        }
        query = f"?{record.query}" if record.query else ""
        return post(self.service_url + record.path + query, headers, record.body.data, self._timeout_s)

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
        """Run a service that listens on ``PORT``, a free *port* if none is given, and stop it afterwards. It is ready
        when the port takes connections. What lives *stop_s* after SIGTERM is killed.

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
                while not is_listening(self.service_url):
                    if process.poll() is not None:
                        log.seek(0)
                        printed = log.read()[-2000:].decode(errors="replace")
                        raise ServiceEnded(f"{Path(arguments[0]).name} ended with {process.returncode}: {printed}")
                    time.sleep(0.02)
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(stop_s)
                except subprocess.TimeoutExpired:
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

    def answer(self, call: Call) -> Reply | None:
        """What a call gets; None: the connection is closed."""
        call.at_s = time.monotonic()
        fault = self.fault(call) if self.fault else None
        with self.changed:
            reply = self.api.answer(call) if fault is None else Reply(fault)
            call.status = reply.status
            self.calls.append(call)
            if call.ends or call.kind == "release" or "x-task-slots" in call.headers:
                self._refused, self._paused_until_s = 0, 0.0
            self.changed.notify_all()
        self.on_applied(call)
        return reply if reply.status else None

    def _face(self, record: Record) -> PlayedTask:
        return self._played.setdefault(record.id, PlayedTask(self, record))

    def _deliver(self, record: Record, attempt: int) -> Answer:
        answer = self.send(record, attempt)
        with self.changed:
            self._face(record).answers.append(answer)
            self.api.take_told(answer.headers, is_answer=True)
            answer.settle(self.tasks, record, attempt)
            if answer.meaning in (ACCEPTED, "completed"):
                self._refused, self._paused_until_s = 0, 0.0
            else:
                pause_s = _PAUSE_S[min(self._refused, len(_PAUSE_S) - 1)]
                self._refused, self._paused_until_s = self._refused + 1, time.monotonic() + pause_s
            self.changed.notify_all()
        return answer

    def _dispatch_all(self) -> None:
        while True:
            with self.changed:
                self.tasks.sweep()
                record = self._next()
                if self._is_closed:
                    return
                if record is None:
                    self.changed.wait(0.02 if self._paused_until_s > time.monotonic() else 0.5)
                    continue
                self.tasks.claim(record)
                self._on_the_way += 1
                attempt = record.attempt
            threading.Thread(target=self._deliver_one, args=(record, attempt), daemon=True).start()

    def _deliver_one(self, record: Record, attempt: int) -> None:
        try:
            self._deliver(record, attempt)
        finally:
            with self.changed:
                self._on_the_way -= 1
                self.changed.notify_all()

    def _next(self) -> Record | None:
        """The task to dispatch now, if there is one and there is room."""
        has_room = self.held < sum(self.slots.values()) if any(self.slots.values()) else self._on_the_way == 0
        if not has_room or not self.service_url or time.monotonic() < self._paused_until_s:
            return None
        waiting = (each for each in self.tasks.records.values() if each.state == "created" and each.due_s is None)
        return next(waiting, None)


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
            call = Call(
                self.command, split.path, split.query, {name.lower(): self.headers[name] for name in self.headers}
            )
            size_bytes = int(call.headers.get("content-length") or 0)
            if "chunked" in call.headers.get("transfer-encoding", ""):  # the Functions host loses such a body
                self._refuse(call, problem_reply(length_required()))
            elif size_bytes > backbone.host_body_bytes:
                self._refuse(call, Reply(500))
            else:
                call.body = self.rfile.read(size_bytes)
                self._send(backbone.answer(call))

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 (the base class names them)

        def _refuse(self, call: Call, reply: Reply) -> None:
            """Answer as the Functions host does, which reads no such body."""
            call.at_s, call.status = time.monotonic(), reply.status
            with backbone.changed:
                backbone.calls.append(call)
                backbone.changed.notify_all()
            self.close_connection = True
            self._send(reply)

        def _send(self, reply: Reply | None) -> None:
            if reply is None:
                self.close_connection = True
                return
            with suppress(OSError):
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status not in (204, 304):
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
            return

    return Handler
