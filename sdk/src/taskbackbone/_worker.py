"""A worker: the interpreter that runs the model, and nothing else of the service.

Between supervisor and worker are three sockets, none of them standard input or output, which the model may use:

- the *link*: frames both ways. A frame is two big-endian lengths of four bytes, a JSON object (`k` says what it is)
  and bytes. To the worker: `start`, `answer`, `cancel` (only with threads). To the supervisor: `ready`, `broken`,
  `progress`, `ask`, `end`. `n` is the number that the supervisor gave the attempt. Bytes over 1 MiB go by file;
- the *bell*: how an attempt is cancelled. It carries the number and the reason, and SIGUSR1 makes the main thread
  look. `Cancelled` is then raised there, but only while the function of that very attempt runs, and not while the
  link is in use. So no signal hits the worker's own code, or the next task;
- the *lifeline*: it carries nothing, and ends with the supervisor. On Linux, the kernel then kills the worker and its
  children, whatever they are doing. Elsewhere a thread ends the worker, as soon as it gets the GIL.

With `concurrency` 1 the functions run in the main thread, which also reads the link. Otherwise they run in threads.
"""

from __future__ import annotations

import faulthandler
import fcntl
import io
import json
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ._attempts import Attempt, Completed, Data, Failed, from_frame, to_frame
from ._task import Desk, perform, set_up_logs, trace_if_configured
from .errors import BackboneError, Cancelled

if TYPE_CHECKING:
    from .service import TaskService

VARIABLE = "TASKBACKBONE_WORKER"
_launch = os.environ.pop(VARIABLE, None)  # popped, since the model's own child processes are no workers
LAUNCH: dict[str, Any] | None = json.loads(_launch) if _launch else None
"""What the supervisor tells this process if it is a worker."""

FOLDER = str(Path.cwd())
"""Where the process was started, before its script may change that."""
INLINE_BYTES = 1 << 20
"""More than this goes by file, not over the link."""
HEAD = struct.Struct(">II")
BELL = struct.Struct(">Q24s")

logger = logging.getLogger("taskbackbone")


def spilled(data: Data | None, folder: Callable[[], Path]) -> Data | None:
    """The data, or the file that it is written to if it is too much for a frame. Raises OSError."""
    if not isinstance(data, bytes) or len(data) <= INLINE_BYTES:
        return data
    path = folder() / "data"
    path.write_bytes(data)
    return path


class Link:
    """Frames over a socket, from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        text = json.dumps(head).encode()
        with self._lock:
            try:
                self._socket.sendall(HEAD.pack(len(text), len(body)) + text)
                if body:
                    self._socket.sendall(body)
            except OSError:
                leave(1)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """Waits for the next frame; None if the supervisor has closed the link or is gone."""
        sizes = self._exactly(HEAD.size)
        if sizes is None:
            return None
        head_size, body_size = HEAD.unpack(sizes)
        content = self._exactly(head_size + body_size)
        if content is None:
            return None
        return json.loads(content[:head_size]), bytes(memoryview(content)[head_size:])

    def _exactly(self, size: int) -> bytearray | None:
        content = bytearray(size)
        left = memoryview(content)
        while left:
            try:
                count = self._socket.recv_into(left)
            except OSError:
                count = 0
            if not count:
                return None
            left = left[count:]
        return content


class _Job(Desk):
    """The desk of an attempt in this worker."""

    def __init__(self, worker: _Worker, number: int, folder: Path) -> None:
        super().__init__(folder)
        self.number = number
        self.asking = threading.Lock()
        self.answers: list[tuple[dict[str, Any], bytes]] = []
        self.answered = threading.Event()
        self._worker = worker

    def send_progress(self, fraction: float | None, text: str | None) -> None:
        self._worker.link.send({"k": "progress", "n": self.number, "fraction": fraction, "text": text})

    def ask(self, what: str, data: Data | None = None) -> bytes | None:
        with self.whole():
            head, body = to_frame(Completed(spilled(data, self.folder)))
            head, body = self._worker.ask(self, {**head, "k": "ask", "n": self.number, "what": what}, body)
        if head["error"]:
            raise BackboneError(head["error"])
        answer = from_frame(head, body).body
        return answer.read_bytes() if isinstance(answer, Path) else answer

    def whole(self) -> AbstractContextManager[Any]:
        return self._worker.shield() if self._worker.is_interruptible() else nullcontext()

    def shield(self) -> AbstractContextManager[Any]:
        return self._worker.shield() if self._worker.is_interruptible() else super().shield()

    def is_shielded(self) -> bool:
        return self._worker.is_shielded() if self._worker.is_interruptible() else super().is_shielded()

    def arm(self) -> None:
        if self._worker.is_interruptible():
            self._worker.armed = self
        self.check()

    def disarm(self) -> None:
        if self._worker.is_interruptible():
            self._worker.armed = None


class _Worker:
    """The worker's end of the three sockets."""

    def __init__(self, service: TaskService, launch: dict[str, Any]) -> None:
        link, self._bell, self._lifeline = (socket.socket(fileno=fd) for fd in launch["sockets"])
        for sock in (link, self._bell, self._lifeline):
            sock.set_inheritable(False)
        self.service = service
        self.link = Link(link)
        self.armed: _Job | None = None
        """The attempt whose function runs in the main thread, until Cancelled has been raised there."""
        self._shields = 0
        self._main = threading.get_ident()
        self._jobs: dict[int, _Job] = {}
        self._early: dict[int, str] = {}
        self._reading = threading.Lock()
        self._in_threads = service.concurrency > 1

    def serve(self) -> None:
        """Sets up, and then works until the supervisor closes the link."""
        self._hold_lifeline()
        self._take_signals()
        try:
            for setup in self.service.setups:
                setup()
        except BaseException as error:
            logger.error("the worker's setup failed", exc_info=error)
            self.link.send({"k": "broken", "error": type(error).__name__})
            leave(1)
        self._take_signals()  # again, since what was set up may have taken them
        self.link.send({"k": "ready"})
        begin = self._in_pool() if self._in_threads else self._work
        while True:
            with self._reading:
                frame = self.link.receive()
            if frame is None:
                if self._jobs:
                    leave(1)  # their threads would hold the process up
                return
            head, body = frame
            if head["k"] == "start":
                attempt: Attempt = from_frame(head, body)
                job = self._jobs[head["n"]] = _Job(self, head["n"], attempt.folder)
                if early := self._early.pop(job.number, None):
                    job.stop_reason = early
                begin(job, attempt)
                del attempt, frame, body  # they may be large, and the next frame may be long in coming
            elif head["k"] == "cancel":
                self._tell_to_stop(head["n"], head["reason"])
            elif job := self._jobs.get(head["n"]):
                job.answers.append(frame)
                job.answered.set()

    def _in_pool(self) -> Callable[[_Job, Attempt], Any]:
        from concurrent.futures import ThreadPoolExecutor

        executor = ThreadPoolExecutor(self.service.concurrency, "task")
        return lambda job, attempt: executor.submit(self._work, job, attempt)

    def _work(self, job: _Job, attempt: Attempt) -> None:
        outcome = perform(self.service.routes[attempt.path], attempt, job)
        job.is_over = True
        self._jobs.pop(job.number, None)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        try:
            if isinstance(outcome, Completed):
                outcome = replace(outcome, body=spilled(outcome.body, job.folder))
        except OSError as error:
            logger.error("%s: its result cannot be kept in a file", attempt, exc_info=error)
            outcome = Failed("OSError; see the service's log")
        head, body = to_frame(outcome)
        self.link.send({**head, "k": "end", "n": job.number}, body)

    def ask(self, job: _Job, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Sends a question, and waits for its answer."""
        lock = job.asking if self._in_threads else self._reading
        while not lock.acquire(timeout=0.2):  # between tasks, the main thread has it for as long as it waits
            self._check(job)
        try:
            self._check(job)
            self.link.send(head, body)
            if self._in_threads:
                job.answered.wait()
                job.answered.clear()
                return job.answers.pop()
            frame = self.link.receive()  # nothing else comes while a function runs
            if frame is None:
                leave(1)
            return frame
        finally:
            lock.release()

    def _check(self, job: _Job) -> None:
        if job.is_over:
            raise RuntimeError("the task has ended")

    def is_interruptible(self) -> bool:
        """Whether a function runs in this thread, and a signal may raise Cancelled here."""
        return not self._in_threads and threading.get_ident() == self._main

    def is_shielded(self) -> bool:
        return self._shields > 0

    @contextmanager
    def shield(self) -> Generator[None, None, None]:
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            self._interrupt()

    def _interrupt(self) -> None:
        """Raises Cancelled if it is due here and now: once for an attempt."""
        job = self.armed
        if job is not None and job.stop_reason is not None and not self._shields:
            self.armed = None
            raise Cancelled(job.stop_reason)

    def _take_signals(self) -> None:
        self._bell.setblocking(False)
        signal.signal(signal.SIGUSR1, self._answer_bell)
        for quiet in (signal.SIGTERM, signal.SIGINT):  # the supervisor ends its workers
            signal.signal(quiet, _do_nothing)

    def _answer_bell(self, *_: Any) -> None:
        with suppress(BlockingIOError):
            while True:
                number, reason = BELL.unpack(self._bell.recv(BELL.size))
                self._tell_to_stop(number, reason.rstrip(b"\0").decode())
        self._interrupt()

    def _tell_to_stop(self, number: int, reason: str) -> None:
        job = self._jobs.get(number)
        if job is None:
            self._early[number] = reason  # its start is still on the way, or it has ended
            self._early = {n: told for n, told in self._early.items() if n >= number}
        else:
            job.stop_reason = reason

    def _hold_lifeline(self) -> None:
        if hasattr(fcntl, "F_SETSIG"):
            fd = self._lifeline.fileno()
            fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        else:
            threading.Thread(target=self._await_end, name="supervisor's end", daemon=True).start()
        if select.select([self._lifeline], [], [], 0)[0]:
            leave(1)

    def _await_end(self) -> None:
        self._lifeline.recv(1)
        leave(1)


def work(service: TaskService, launch: dict[str, Any]) -> NoReturn:
    """Makes this process a worker of the service until the supervisor ends it."""
    with suppress(Exception):
        faulthandler.enable()  # a crash says where it was
    for stream in (sys.stdout, sys.stderr):  # what is printed is not lost if the worker is killed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    set_up_logs()
    trace_if_configured()
    _Worker(service, launch).serve()
    sys.exit(0)


def main() -> NoReturn:
    """A worker of a service that is mounted in another app: imports its module, or runs its script but for the main
    part, and becomes a worker of the service in it.
    """
    assert LAUNCH is not None
    sys.path[:] = LAUNCH["path"]
    sys.argv[:] = LAUNCH["argv"]
    if LAUNCH["script"]:
        import runpy

        runpy.run_path(LAUNCH["script"], run_name=LAUNCH["module"])
    else:
        import importlib

        importlib.import_module(LAUNCH["module"])
    from .service import services

    work(services[LAUNCH["module"], LAUNCH["ordinal"]], LAUNCH)


def _do_nothing(*_: Any) -> None:
    """A handler, not SIG_IGN: that one would pass on to child processes."""


def leave(code: int) -> NoReturn:
    """Ends the process at once, but for what it has printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
